"""Questions and captions of data sets on disk: VQA v2's two files, or a file in COCO's style."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...kit.config import parse_json
from ...kit.errors import JodiError
from ...kit.files import read_text

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Question:
    """One question about one picture. answers: what people said, empty for a set without them."""

    id: int | str
    picture: Path
    text: str
    answers: tuple[str, ...] = ()
    question_type: str = ""
    answer_type: str = ""


@dataclass(frozen=True)
class Captioned:
    """One picture and the captions that people wrote for it."""

    id: int | str
    picture: Path
    captions: tuple[str, ...]


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """A sentence where the entries of a file are not what its kind has."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise JodiError(
            f"{path}: an entry is not as VQA v2 and COCO have it ({type(error).__name__}: "
            f"{str(error)[:80]}); download the file again"
        ) from None


def read_questions(
    questions: Path, pictures: Path, annotations: Path | None = None
) -> list[Question]:
    """Questions about the pictures of a folder, in the order of the file.

    questions, annotations: the two files of VQA v2 (`questions`, and `annotations` with answers),
    or one COCO file whose annotations have a question and answers. Questions whose picture is not
    in the folder are left out, so that part of a data set is enough.
    Raises: JodiError for a file that is neither, and where no question has its picture.
    """
    with _told(questions):
        return _read_questions(questions, pictures, annotations)


def _read_questions(questions: Path, pictures: Path, annotations: Path | None) -> list[Question]:
    data = _read_json(questions)
    entries = data.get("questions") or [a for a in data.get("annotations", []) if "question" in a]
    if not entries:
        raise JodiError(
            f"{questions} holds no questions; expected VQA v2's questions file (a list under "
            "`questions`), or COCO annotations with a `question` each"
        )
    answered = {}
    if annotations is not None:
        answered = {a["question_id"]: a for a in _read_json(annotations).get("annotations", [])}
    find = _Pictures(Path(pictures), data.get("images", []))
    found = []
    for number, entry in enumerate(entries):
        picture = find(entry.get("image_id"))
        if picture is None:
            continue
        identity = entry.get("question_id", entry.get("id", number))
        about = {**entry, **answered.get(identity, {})}
        found.append(
            Question(
                id=identity,
                picture=picture,
                text=str(entry["question"]),
                answers=_answers(about),
                question_type=about.get("question_type", ""),
                answer_type=about.get("answer_type", ""),
            )
        )
    if not found:
        raise JodiError(
            f"none of the {len(entries)} questions of {questions} has its picture in {pictures}; "
            "pictures are found by their file_name or by the image id at the end of their name"
        )
    return found


def read_captions(annotations: Path, pictures: Path) -> list[Captioned]:
    """Captioned pictures of a folder from a COCO captions file, in the order of the file.

    Raises: JodiError for another file, and where no picture is there.
    """
    data = _read_json(annotations)
    captions: dict = {}
    with _told(annotations):
        for entry in data.get("annotations", []):
            if "caption" in entry:
                captions.setdefault(entry["image_id"], []).append(str(entry["caption"]))
    if not captions:
        raise JodiError(f"{annotations} holds no captions; expected COCO annotations")
    with _told(annotations):
        find = _Pictures(Path(pictures), data.get("images", []))
        found = [
            Captioned(identity, picture, tuple(texts))
            for identity, texts in captions.items()
            if (picture := find(identity)) is not None
        ]
    if not found:
        raise JodiError(f"none of the {len(captions)} captioned pictures is in {pictures}")
    return found


class _Pictures:
    """Files of a folder by image id."""

    def __init__(self, folder: Path, images: list[dict]):
        if not folder.is_dir():
            raise JodiError(f"there is no folder {folder}; name the folder with the pictures")
        self._folder = folder
        self._names = {image["id"]: image.get("file_name", "") for image in images}
        self._by_id: dict[str, Path] = {}
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES):
            self._by_id.setdefault(path.stem, path)
            if match := re.search(r"(\d+)$", path.stem):
                self._by_id.setdefault(str(int(match[1])), path)

    def __call__(self, identity) -> Path | None:
        name = self._names.get(identity)
        if name and (self._folder / Path(name).name).is_file():
            return self._folder / Path(name).name
        return self._by_id.get(str(identity))


def _answers(about: dict) -> tuple[str, ...]:
    """Ten answers of VQA v2, plain strings, or a single `answer`."""
    given = about.get("answers", [about["answer"]] if "answer" in about else [])
    return tuple(a["answer"] if isinstance(a, dict) else str(a) for a in given)


def _read_json(path: Path) -> dict:
    try:
        data = parse_json(read_text(path), "it")
    except FileNotFoundError:
        raise JodiError(f"there is no file {path}; name the JSON file of the data set") from None
    except (OSError, ValueError) as error:
        raise JodiError(f"{path} is no readable JSON ({error}); download it again") from error
    if not isinstance(data, dict):
        raise JodiError(
            f"{path} holds a {type(data).__name__}; expected an object with `questions`, "
            "`images` or `annotations`"
        )
    return data
