"""Which files a command works on: folders opened, maps paired by name, results named apart."""

import glob
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..jodi_core.domains import find_named_domain
from ..jodi_core.text import TextFeatures
from ..kit.pictures.files import SUFFIXES, UNREAD_SUFFIXES
from .options import UsageError

logger = logging.getLogger("jodi")

LONGEST_NAME = 255
"""Bytes that the name of a file may have on the usual file systems."""

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


def find_pictures(paths: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """Files as they are, those of a pattern such as `*.png`, and the pictures in folders, by name.

    Folders below a folder are not opened. Pictures of a kind that is not read are left out with a
    warning that names them.
    """
    found: list[Path] = []
    paths, problems = expand_patterns(paths)
    for path in paths:
        if not _is_folder(path):
            found.append(path)  # also what does not exist: reading it says so
            continue
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            problems.append((str(path), f"the folder cannot be read: {error.strerror or error}"))
            continue
        entries = [p for p in entries if not p.name.startswith(".")]
        # links that lead nowhere are kept too: reading them says so
        inside = [p for p in entries if p.suffix.lower() in SUFFIXES and not _is_folder(p)]
        unread = [p.name for p in entries if p.suffix.lower() in UNREAD_SUFFIXES]
        if unread:
            logger.warning(
                "%s: left out, as such files are not read here: %s; save them as PNG, JPEG or TIFF",
                path,
                ", ".join(unread),
            )
        if not inside:
            problems.append((str(path), "the folder holds no pictures that are read here"))
        found += inside
    return list(dict.fromkeys(found)), problems


def expand_patterns(paths: Iterable[Path]) -> tuple[list[Path], list[Problem]]:
    """Patterns replaced by the files they match: not every shell does it (Windows' does not)."""
    found: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        if os.path.lexists(path) or not glob.has_magic(str(path)):
            found.append(path)
            continue
        matches = [Path(match) for match in sorted(glob.glob(str(path)))]
        if not matches:
            problems.append((str(path), "no file matches this pattern"))
        found += matches
    return found, problems


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or one that no file can have
        return False


def pair_maps(
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
    for name, patterns in given.items():
        paths, unmatched = expand_patterns(patterns)
        problems += unmatched
        if len(paths) == 1 and not _is_folder(paths[0]):
            alone[name] = paths[0]
            continue
        files, empty = find_pictures(paths)
        problems += empty
        many[name] = _by_name(name, files, endings_only=any(map(_is_folder, paths)))
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
    of = find_named_domain(name)
    for word in sorted((of.name, *of.aliases), key=len, reverse=True):
        if stem.lower().endswith(f"_{word}") and len(stem) > len(word) + 1:
            return stem[: -len(word) - 1], True
    return stem, False


def make_slug(prompt: str, length: int = 48) -> str:
    """A prompt as the beginning of a file name."""
    words = re.sub(r"[^\w]+", "_", prompt.strip().lower()).strip("_")
    return words[:length].rstrip("_") or "picture"


def name_apart(
    stems: Sequence[str], endings: Sequence[str], folder: Path, inputs: Iterable[Path]
) -> list[str]:
    """The stems, numbered where two would write one file or a file that is an input.

    A result never takes the place of something it is made from. Letter case does not tell files
    apart everywhere, so it does not here.
    """
    kept = {_key(path) for path in inputs}
    taken: set[str] = set()
    result = []
    room = LONGEST_NAME - max((len(os.fsencode(e)) for e in endings), default=0) - len("-99999")
    for stem in stems:
        stem = _cut(stem, room)
        candidate, number = stem, 1
        while candidate.casefold() in taken or any(
            _key(folder / f"{candidate}{ending}") in kept for ending in endings
        ):
            number += 1
            candidate = f"{stem}-{number}"
        taken.add(candidate.casefold())
        result.append(candidate)
    return result


def _cut(stem: str, room: int) -> str:
    """The beginning of a stem that takes at most `room` bytes in a file's name."""
    return (
        os.fsencode(stem)[:room].decode(errors="ignore") if len(os.fsencode(stem)) > room else stem
    )


def _key(path: Path) -> str:
    try:
        return str(path.resolve()).casefold()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a name that no file can have
        return str(path).casefold()
