"""What D-DiT is trained on: latents of pictures, captions, and questions with their answers.

They come from rendered scenes, or from a folder of pictures in which `dog.png` may have a caption
beside it in `dog.txt` and questions in `dog.json`: [{"question": ..., "answer": ...}, ...].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...kit.config import parse_json
from ...kit.errors import JodiError
from ...kit.files import read_text
from ...kit.scenes.questions import KINDS, ask_about
from ...kit.scenes.things import Thing

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class QuestionPool:
    """Questions of one kind about some pictures, by class: classes are drawn equally often.

    classes: for each, an array (M,) of indices into `entries`, which are (picture, question,
    answer).
    """

    entries: list[tuple[int, str, str]]
    classes: list[np.ndarray]

    def draw(self, rng: np.random.Generator) -> tuple[int, str, str]:
        members = self.classes[int(rng.integers(len(self.classes)))]
        return self.entries[int(members[rng.integers(len(members))])]


@dataclass(frozen=True)
class Examples:
    """latents (N, z, h, w), scaled; captions: those of each picture, maybe none; pools: by kind."""

    latents: Tensor
    captions: Sequence[Sequence[str]]
    pools: Mapping[str, QuestionPool]

    def __post_init__(self):
        if len(self.captions) != len(self.latents):
            raise JodiError(
                f"{len(self.latents)} pictures came with {len(self.captions)} lists of captions; "
                "give one list each"
            )

    @property
    def captioned(self) -> np.ndarray:
        """Indices of the pictures with a caption."""
        return np.array([i for i, texts in enumerate(self.captions) if texts], dtype=np.int64)


def make_scene_examples(
    latents: Tensor, captions: Sequence[str], scenes: Sequence[Sequence[Thing]]
) -> Examples:
    """Examples of rendered scenes, with every question that has one certain answer."""
    pools: dict[str, list[tuple[tuple[int, str, str], str]]] = {kind: [] for kind in KINDS}
    for index, things in enumerate(scenes):
        for q in ask_about(things):
            pools[q.kind].append(((index, q.text, q.answer), q.balance))
    return Examples(
        latents, [[caption] for caption in captions], {k: _pool(v) for k, v in pools.items() if v}
    )


def _pool(entries: list[tuple[tuple[int, str, str], str]]) -> QuestionPool:
    members: dict[str, list[int]] = {}
    for index, (_, balance) in enumerate(entries):
        members.setdefault(balance, []).append(index)
    return QuestionPool([e for e, _ in entries], [np.array(m) for m in members.values()])


@dataclass(frozen=True)
class Annotated:
    """A picture file with its captions and its (question, answer) pairs."""

    path: Path
    captions: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


def read_folder(folder: Path) -> list[Annotated]:
    """Every picture of a folder that has a caption or a question beside it, by name.

    Each line of the .txt file is a caption of its own.
    Raises: JodiError for a folder without any, and for a question file that is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise JodiError(f"there is no folder {folder}; name the folder with the pictures")
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        text, asked = path.with_suffix(".txt"), path.with_suffix(".json")
        lines = _read_lines(text) if text.is_file() else []
        captions = tuple(line.strip() for line in lines if line.strip())
        questions = _read_questions(asked) if asked.is_file() else ()
        if captions or questions:
            found.append(Annotated(path, captions, questions))
    if not found:
        raise JodiError(
            f"no picture in {folder} has a caption or a question; put `dog.txt` or `dog.json` "
            "beside `dog.png`"
        )
    return found


def _read_lines(path: Path) -> list[str]:
    try:
        return read_text(path, "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JodiError(
            f"{path} cannot be read as text ({str(error)[:80]}); save it as UTF-8"
        ) from None


def _read_questions(path: Path) -> tuple[tuple[str, str], ...]:
    try:
        entries = parse_json(read_text(path, "utf-8-sig"), "it")
        pairs = [(e["question"], e["answer"]) for e in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise JodiError(
            f'{path} holds no questions ({error}); expected [{{"question": "...", "answer": '
            '"..."}, ...]'
        ) from None
    if not all(isinstance(part, str) and part.strip() for pair in pairs for part in pair):
        raise JodiError(f"{path}: every question and every answer must be a text that is not empty")
    return tuple(pairs)


def make_folder_examples(pictures: Sequence[Annotated], latents: Tensor) -> Examples:
    """Examples of annotated pictures, whose latents (N, z, h, w) are in the same order."""
    asked = [
        ((index, question, answer), answer)
        for index, picture in enumerate(pictures)
        for question, answer in picture.questions
    ]
    pools = {"any": _pool(asked)} if asked else {}
    return Examples(latents, [picture.captions for picture in pictures], pools)


def join_examples(parts: Sequence[Examples]) -> Examples:
    """All examples as one set; classes of answers of one kind are joined by their order."""
    offset, captions, pools = 0, [], {}
    for part in parts:
        captions += list(part.captions)
        for kind, pool in part.pools.items():
            entries, classes = pools.setdefault(kind, ([], []))
            start = len(entries)
            entries += [(picture + offset, q, a) for picture, q, a in pool.entries]
            classes += [members + start for members in pool.classes]
        offset += len(part.latents)
    joined = {kind: QuestionPool(entries, classes) for kind, (entries, classes) in pools.items()}
    return Examples(torch.cat([part.latents for part in parts]), captions, joined)
