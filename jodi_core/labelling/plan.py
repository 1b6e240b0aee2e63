"""What is to be labelled, in which batches, and what of it the data set holds already.

`label.json` in the data set lists the batches once and for all; new pictures come in batches of
their own behind them. So a batch has the same pictures however often the work is interrupted, and
its results the same bits.

While work goes on, each finished batch has a file of lines in `.label/`; at the end all lines are
put together (`merge`) and that folder is gone.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...kit.config import parse_json
from ...kit.errors import JodiError, shorten
from .layout import IMAGE, METADATA, OutputError, is_whole, read_lines, write_file, write_lines

STATE = "label.json"
QUARANTINE = "quarantine.jsonl"
WORK = ".label"
FORMAT = 1


@dataclass(frozen=True)
class Source:
    """A picture to label: its file below the given folder, its size in bytes, its name in the data
    set (without an ending)."""

    file: str
    bytes: int
    stem: str


Batch = tuple[Source, ...]


@dataclass(frozen=True)
class Plan:
    """The batches of a data set, and what they are labelled with."""

    fingerprint: Mapping
    batches: tuple[Batch, ...]

    @property
    def sources(self) -> list[Source]:
        return [source for batch in self.batches for source in batch]

    @property
    def labels(self) -> list[str]:
        return list(self.fingerprint["labels"])


def read_plan(root: Path) -> Plan | None:
    """The plan of a data set that was begun; None in a folder that is empty, or not there.

    Raises: JodiError for a folder that holds other things, or a plan that cannot be read.
    """
    path = root / STATE
    if not path.exists():
        others = [p.name for p in root.iterdir() if p.name != WORK] if root.is_dir() else []
        others = shorten(sorted(others), 3)
        if others:
            raise JodiError(
                f"{root} holds other things ({others}) and no {STATE}, so it is no "
                "data set of this command; choose a folder that is new or empty"
            )
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"), str(path))
        if content["format"] != FORMAT:
            raise JodiError(f"{path} is of another version of this command; choose another folder")
        batches = tuple(tuple(Source(**s) for s in batch) for batch in content["batches"])
        return Plan(dict(content["fingerprint"]), batches)
    except (OSError, KeyError, TypeError, ValueError) as error:
        if type(error) is JodiError:
            raise
        raise JodiError(
            f"{path} is damaged ({error}); without it nobody knows what was done: restore it, or "
            "choose another folder"
        ) from None


def write_plan(root: Path, plan: Plan) -> None:
    """Replace `label.json`. Raises: OutputError."""
    batches = [[asdict(source) for source in batch] for batch in plan.batches]
    content = {"format": FORMAT, "fingerprint": dict(plan.fingerprint), "batches": batches}
    write_file(root / STATE, json.dumps(content).encode("ascii"))


def require_same(root: Path, begun: Mapping, now: Mapping) -> None:
    """Pass when a data set was begun with the same model, settings and code. Raises: JodiError."""
    changed = [key for key in {**begun, **now} if begun.get(key) != now.get(key)]
    if changed:
        told = "; ".join(
            f"{key} was {shorten([begun.get(key)])}, now {shorten([now.get(key)])}"
            for key in changed
        )
        raise JodiError(
            f"{root} was begun otherwise ({told}), and a data set is never mixed; use the same, or "
            "choose another folder"
        )


def extend_plan(
    root: Path, plan: Plan, found: Sequence[Source], size: int
) -> tuple[Plan, list[str]]:
    """The plan with new pictures in batches behind the others, and names of those that changed.

    found: what the given folder holds now. size: of a batch. A picture whose size in bytes is
    another than before is labelled again: its file in the data set is removed first.
    Raises: OutputError.
    """
    now = {source.file: source for source in found}
    changed = {s.file for s in plan.sources if s.file in now and now[s.file].bytes != s.bytes}
    for source in plan.sources:
        if source.file in changed:
            _remove_image(root, source.stem)
    old = tuple(
        tuple(replace(s, bytes=now[s.file].bytes) if s.file in changed else s for s in batch)
        for batch in plan.batches
    )
    known = {source.file for source in plan.sources}
    new = [source for source in found if source.file not in known]
    more = tuple(tuple(new[i : i + size]) for i in range(0, len(new), size))
    return replace(plan, batches=old + more), sorted(changed)


def _remove_image(root: Path, stem: str) -> None:
    for ending in (".jpg", ".png"):
        try:
            (root / IMAGE / f"{stem}{ending}").unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"could not remove a file of {root}: {error}") from error


def name_part(root: Path, number: int) -> Path:
    """The file of the lines of a batch."""
    return root / WORK / f"{number:06}.jsonl"


@dataclass(frozen=True)
class Standing:
    """Where a data set stands: its lines by the file of their picture, refused pictures among them,
    numbers of the batches to compute, and pictures that are neither labelled nor there."""

    lines: Mapping[str, dict]
    todo: Sequence[int]
    missing: Sequence[str]


def look(root: Path, plan: Plan, there: set[str]) -> Standing:
    """What the data set holds of its plan. there: files that the given folder holds now.

    A batch of which anything is missing is to be computed whole; a picture that is gone does not
    count, as it cannot be read.
    """
    merged = index_lines(plan.sources, _merged_lines(root))
    lines, todo, missing = {}, [], []
    for number, batch in enumerate(plan.batches):
        kept = {s.file: merged[s.file] for s in batch if s.file in merged}
        done = find_done(root, plan.labels, number, batch, kept)
        lines |= done
        lacking = [source.file for source in batch if source.file not in done]
        if any(file in there for file in lacking):
            todo.append(number)
        else:
            missing += lacking
    return Standing(lines, todo, missing)


def find_done(
    root: Path, labels: Sequence[str], number: int, batch: Batch, merged: Mapping[str, dict]
) -> dict[str, dict]:
    """Lines of the pictures of a batch that are done, by file; merged: those of an earlier run.

    Only what is whole on the disk counts.
    """
    known = {**merged, **index_lines(batch, read_lines(name_part(root, number)))}
    return {
        source.file: known[source.file]
        for source in batch
        if source.file in known and _is_done(root, known[source.file], labels, source)
    }


def _merged_lines(root: Path) -> list[dict]:
    return [*read_lines(root / METADATA), *read_lines(root / QUARANTINE)]


def index_lines(sources: Sequence[Source], lines: Sequence[dict]) -> dict[str, dict]:
    """Lines of metadata and of the quarantine by the file of the picture; others are left out."""
    stems, files = {s.stem: s.file for s in sources}, {s.file for s in sources}
    found = {}
    for line in lines:
        refused, image = line.get("file"), line.get("image")
        file = refused if refused in files else stems.get(Path(str(image)).stem)
        if file is not None:
            found[file] = line
    return found


def _is_done(root: Path, line: Mapping, labels: Sequence[str], source: Source) -> bool:
    if "reason" in line:
        return line.get("bytes") == source.bytes
    return is_whole(root, line, labels, source.bytes)


def merge(root: Path, plan: Plan, there: set[str]) -> Standing:
    """Write `metadata.jsonl` and the quarantine list from all lines, and remove what is of no more
    use. Returns: where the data set stands then.

    Every picture of the plan has one line at most, and only if its files are whole.
    Raises: OutputError.
    """
    standing = look(root, plan, there)
    ordered = [standing.lines[s.file] for s in plan.sources if s.file in standing.lines]
    write_lines(root / METADATA, [line for line in ordered if "reason" not in line])
    refused = [line for line in ordered if "reason" in line]
    if refused:
        write_lines(root / QUARANTINE, refused)
    else:
        (root / QUARANTINE).unlink(missing_ok=True)
    for path in (root / WORK).glob("*.jsonl"):
        path.unlink(missing_ok=True)
    remove_partial(root)
    return standing


def remove_partial(root: Path) -> None:
    """Remove what processes that were killed left half written."""
    for folder in (root, *(p for p in root.glob("*") if p.is_dir() and not p.is_symlink())):
        for path in folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                path.unlink()
