"""What a training folder holds: a record of each picture, and a fault for what cannot be used.

Two layouts are read, and `jodi label` writes the first:

Joint-1.6M: `metadata.jsonl` (or `metadata.<split>.jsonl`), one JSON object a line:
    image                 path of the picture, from the folder
    info                  {"height": H, "width": W} of the picture
    caption               {captioner: text}, or one text
    annotation_<label>    path of a label's picture; left out where there is none. <label> is a
                          domain's name or alias, `seg_12colors` for example
Pictures: `photo.jpg` with its caption in `photo.txt` beside it, and labels of the same stem in
    folders named for their domain (`depth/photo.png` or `annotation_depth/photo.jpg.png`), inside
    the folder; the pictures may lie in a folder `image` of their own, beside the label folders.

Every label has the size of its picture. Nothing is opened here but text; `reading.py` opens the
pictures. Source of the first layout: github VIPL-GENUN/Jodi @ c21bdcb, data/datasets.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...kit.errors import JodiError
from ...kit.files import read_text
from ...kit.pictures.files import SUFFIXES
from ..domains import DOMAIN_NAMES, find_domain_index

ANNOTATION = "annotation_"
PICTURE_FOLDERS = ("image", "images")


@dataclass(frozen=True)
class Fault:
    """What cannot be trained on: where it stands (a file, and a line of it), and why."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Record:
    """One picture to train on.

    place: the file and line that name it. labels: files by domain. captions: text by captioner.
    size: (height, width) that the metadata states; None where nothing does.
    """

    place: str
    image: Path
    labels: Mapping[str, Path] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Every picture by domain, the image first."""
        return {DOMAIN_NAMES[0]: self.image, **self.labels}


def scan(
    folder: Path,
    names: Sequence[str] = DOMAIN_NAMES,
    *,
    split: str = "",
    need_captions: bool = True,
) -> tuple[list[Record], list[Fault]]:
    """The records of a folder in a fixed order, and what was left out and why.

    names: the model's domains; labels of other names are faults. split: reads
    `metadata.<split>.jsonl`. need_captions: a picture without a caption is a fault.
    Raises: JodiError when the folder holds neither layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise JodiError(f"there is no folder {folder}; name the folder that holds the pictures")
    metadata = folder / (f"metadata.{split}.jsonl" if split else "metadata.jsonl")
    if metadata.is_file():
        return read_joint(metadata, names, need_captions=need_captions)
    others = sorted(path.name for path in folder.glob("metadata*.jsonl"))
    if split or others:
        raise JodiError(
            f"there is no {metadata}; the folder has {', '.join(others) or 'no metadata at all'}. "
            "Set `split` to the part between the dots, as in metadata.train.jsonl"
        )
    return read_pictures(folder, names, need_captions=need_captions)


def read_joint(
    metadata: Path, names: Sequence[str] = DOMAIN_NAMES, *, need_captions: bool = True
) -> tuple[list[Record], list[Fault]]:
    """The records of a Joint-1.6M metadata file; see `scan`."""
    records: list[Record] = []
    faults: list[Fault] = []
    with metadata.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{metadata}:{number}"
            if not line.strip():
                continue
            try:
                records.append(_joint_record(line, place, metadata.parent, names, need_captions))
            except JodiError as error:
                faults.append(Fault(place, str(error)))
    return _without_repeats(records, faults)


def _joint_record(line: bytes, place: str, folder: Path, names, need_captions: bool) -> Record:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JodiError(f"the line is not JSON ({str(error)[:80]})") from None
    if not isinstance(entry, dict):
        raise JodiError("the line is no JSON object")
    if "image" not in entry:
        raise JodiError("the line names no `image`")
    labels = {}
    for key, value in entry.items():
        if key.startswith(ANNOTATION) and value is not None:
            name = _domain(key.removeprefix(ANNOTATION), names)
            if name in labels:
                raise JodiError(f"the label {name} is named twice")
            labels[name] = _inside(folder, value, key)
    return Record(
        place,
        _inside(folder, entry["image"], "image"),
        {name: labels[name] for name in names if name in labels},
        _captions(entry.get("caption"), need_captions),
        _size(entry.get("info")),
    )


def _inside(folder: Path, value, key: str) -> Path:
    """A path of the metadata, which must name a file of the folder."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise JodiError(f"{key} is {str(value)[:60]!r}, expected the path of a picture")
    path = PurePosixPath(value.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise JodiError(f"{key} is {value[:100]!r}, which leaves the folder; expected a path in it")
    if not (folder / path).is_file():
        raise JodiError(f"{key}: there is no file {value[:200]}")
    return folder / path


def _domain(name: str, names: Sequence[str]) -> str:
    try:
        index = find_domain_index(name, names)
    except JodiError as error:
        raise JodiError(f"{ANNOTATION}{name[:60]}: {error}") from None
    if index == 0:
        raise JodiError(f"{ANNOTATION}{name} is the picture itself, not a label")
    return names[index]


def _captions(value, needed: bool) -> dict[str, str]:
    texts = {"caption": value} if isinstance(value, str) else value or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise JodiError("caption is neither a text nor texts by captioner")
    kept = {str(name): text.strip() for name, text in texts.items() if text.strip()}
    if needed and not kept:
        raise JodiError("the caption is empty")
    return kept


def _size(info) -> tuple[int, int] | None:
    if info is None:
        return None
    sides = (info.get("height"), info.get("width")) if isinstance(info, dict) else (None, None)
    height, width = (s if type(s) is int and 0 < s < 10**6 else None for s in sides)
    if height is None or width is None:
        raise JodiError("info states no whole height and width; expected those of the picture")
    return height, width


def read_pictures(
    folder: Path, names: Sequence[str] = DOMAIN_NAMES, *, need_captions: bool = True
) -> tuple[list[Record], list[Fault]]:
    """The records of a folder of pictures with captions and label folders beside; see `scan`."""
    home = next((folder / n for n in PICTURE_FOLDERS if (folder / n).is_dir()), folder)
    labels, faults = _label_folders(folder, home, names)
    records: list[Record] = []
    pictures = _pictures(home)
    if not pictures:
        raise JodiError(
            f"{folder} holds neither metadata.jsonl nor pictures; name the folder that does"
        )
    for stem, path in pictures.items():
        place = str(path)
        own = {name: files.pop(stem) for name, files in labels.items() if stem in files}
        try:
            captions = _captions(_caption_beside(path), need_captions)
        except JodiError as error:
            faults.append(Fault(place, str(error)))
        else:
            records.append(Record(place, path, own, captions))
    for name, files in labels.items():
        faults += [Fault(str(path), f"no picture has this {name}") for path in files.values()]
    return records, faults


def _label_folders(folder: Path, home: Path, names) -> tuple[dict[str, dict], list[Fault]]:
    found: dict[str, dict[str, Path]] = {}
    faults: list[Fault] = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path == home or path.name.startswith("."):
            continue
        try:
            name = _domain(path.name.removeprefix(ANNOTATION), names)
            if name in found:
                raise JodiError(f"a second folder of {name}")
        except JodiError as error:
            faults.append(Fault(str(path), str(error)))
        else:
            found[name] = _pictures(path)
    return {name: found[name] for name in names if name in found}, faults


def _pictures(folder: Path) -> dict[str, Path]:
    """Picture files by stem; `a.jpg.png` has the stem of `a.jpg`."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            stem = path.stem
            while Path(stem).suffix.lower() in SUFFIXES:
                stem = Path(stem).stem
            files.setdefault(stem, path)
    return files


def _caption_beside(picture: Path) -> str:
    path = picture.with_suffix(".txt")
    try:
        return read_text(path, "utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise JodiError(f"{path.name} cannot be read as text ({str(error)[:80]})") from None


def _without_repeats(records, faults) -> tuple[list[Record], list[Fault]]:
    """A picture that is named twice is trained on once."""
    first: dict[Path, Record] = {}
    for record in records:
        if record.image in first:
            before = first[record.image].place
            faults.append(Fault(record.place, f"the picture stands at {before} already"))
        else:
            first[record.image] = record
    return list(first.values()), faults


def weigh_captions(record: Record, wanted: Mapping[str, float]) -> dict[str, float]:
    """The probability of each caption of a record, by captioner.

    wanted: weights by captioner, or by the beginning of its name; none weighs all alike.
    Raises: JodiError when the record has captions, but none that is wanted.
    """
    weights = {name: _weight(name, wanted) for name in record.captions}
    weights = {name: weight for name, weight in weights.items() if weight > 0}
    if record.captions and not weights:
        raise JodiError(
            f"its captions are by {', '.join(record.captions)}, none of which is wanted "
            f"({', '.join(wanted)})"
        )
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _weight(name: str, wanted: Mapping[str, float]) -> float:
    if not wanted:
        return 1.0
    fitting = [key for key in wanted if name.startswith(key)]
    return wanted[max(fitting, key=len)] if fitting else 0.0
