"""Which files a command works on: folders opened, maps paired by name, results named apart."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..jodi_core.domains import domain
from ..jodi_core.text import TextFeatures
from .options import UsageError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".tga", ".jp2", ".ico", ".psd", ".dds"),
)
SHEET = "contact_sheet"


@dataclass(frozen=True)
class Job:
    """One result to make: its name, the given files by domain, and what else decides it."""

    stem: str
    pictures: Mapping[str, Path] = field(default_factory=dict)
    prompt: str = ""
    seed: int = 0
    text: TextFeatures | None = None
    negative_text: TextFeatures | None = None


Problem = tuple[str, str]
"""What failed and why."""


def picture_files(paths: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """Files as they are, and the pictures in folders (not in folders below them), by name."""
    found: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)  # also what does not exist: reading it says so
            continue
        inside = [
            p
            for p in sorted(path.iterdir())
            if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        ]
        if not inside:
            problems.append((str(path), "the folder holds no pictures"))
        found += inside
    return list(dict.fromkeys(found)), problems


def paired_maps(
    given: Mapping[str, Sequence[Path]],
) -> tuple[list[tuple[str, dict[str, Path]]], list[Problem]]:
    """Name and maps of every set, from files and folders given for each domain.

    One file goes with every set. Of folders and longer lists, files of one name belong together; in
    a folder, files that end in the domain's name (`street_depth.png`) are taken if there are any,
    and that ending is not part of the name.
    Raises: UsageError when two files for one domain have one name.
    """
    alone: dict[str, Path] = {}
    many: dict[str, dict[str, Path]] = {}
    problems: list[Problem] = []
    for name, paths in given.items():
        if len(paths) == 1 and not paths[0].is_dir():
            alone[name] = paths[0]
            continue
        files, empty = picture_files(paths)
        problems += empty
        many[name] = _by_name(name, files, endings_only=any(p.is_dir() for p in paths))
    if not many:
        name, path = next(iter(alone.items()))
        return [(_base(name, path.stem)[0], alone)], problems
    sets = []
    for key in dict.fromkeys(key for files in many.values() for key in files):
        missing = [name for name, files in many.items() if key not in files]
        if missing:
            problems.append((key, f"no {' and no '.join(missing)} map of this name was given"))
            continue
        sets.append((key, {n: alone[n] if n in alone else many[n][key] for n in given}))
    return sets, problems


def _by_name(name: str, files: list[Path], *, endings_only: bool) -> dict[str, Path]:
    named = [(*_base(name, path.stem), path) for path in files]
    if endings_only and any(ending for _, ending, _ in named):
        named = [entry for entry in named if entry[1]]
    result: dict[str, Path] = {}
    for base, _, path in named:
        if base in result:
            raise UsageError(
                f"{result[base]} and {path} are both the {name} map of {base!r}; give one of them"
            )
        result[base] = path
    return result


def _base(name: str, stem: str) -> tuple[str, bool]:
    """A file's name without the domain at its end, and whether that was there."""
    of = domain(name)
    for word in sorted((of.name, *of.aliases), key=len, reverse=True):
        if stem.lower().endswith(f"_{word}") and len(stem) > len(word) + 1:
            return stem[: -len(word) - 1], True
    return stem, False


def slug(prompt: str, length: int = 48) -> str:
    """A prompt as the beginning of a file name."""
    words = re.sub(r"[^\w]+", "_", prompt.strip().lower()).strip("_")
    return words[:length].rstrip("_") or "picture"


def named_apart(
    stems: Sequence[str], endings: Sequence[str], folder: Path, inputs: Iterable[Path]
) -> list[str]:
    """The stems, numbered where two would write one file or a file that is an input.

    A result never takes the place of something it is made from. Letter case does not tell files
    apart everywhere, so it does not here.
    """
    kept = {_key(path) for path in inputs}
    taken: set[str] = set()
    result = []
    for stem in stems:
        candidate, number = stem, 1
        while candidate.casefold() in taken or any(
            _key(folder / f"{candidate}{ending}") in kept for ending in endings
        ):
            number += 1
            candidate = f"{stem}-{number}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def _key(path: Path) -> str:
    return str(path.resolve()).casefold()
