"""Answers and captions over a data set, scored and in the form that official servers take.

report = answer_folder(pipeline, "questions.json", "val2014/", "annotations.json")
report.accuracy, report.results
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...kit.errors import ImageError, JodiError, TextError
from ...kit.pictures.files import load_image
from ..pipeline import DDiTPipeline
from .annotations import Captioned, Question, read_captions, read_questions
from .vqa import score_answer

NO_ANSWER = ""  # to a question that cannot be asked


@dataclass(frozen=True)
class QuestionReport:
    """Accuracy in per cent, of all scored questions and by type (None without any), and answers.

    results: [{"question_id", "answer"}], the results file of VQA v2. refused: why a question could
    not be asked (characters that the text encoder does not know, an unreadable picture), by its id;
    its answer is empty, and is scored.
    """

    accuracy: float | None
    by_question_type: dict[str, float]
    by_answer_type: dict[str, float]
    scored: int
    results: list[dict]
    refused: dict[int | str, str]


def answer_folder(
    pipeline: DDiTPipeline,
    questions: Path | str,
    pictures: Path | str,
    annotations: Path | str | None = None,
    *,
    seed: int = 0,
    **options,
) -> QuestionReport:
    """Every question of a data set on disk, asked about its picture and scored.

    questions, pictures, annotations: see `annotations.read_questions`. Question i uses seed + i.
    options: as `DDiTPipeline.ask`.
    Raises: JodiError where the data set cannot be read.
    """
    found = read_questions(
        Path(questions), Path(pictures), None if annotations is None else Path(annotations)
    )
    seeds = itertools.count(seed)

    def ask(picture: Path, text: str) -> str:
        return pipeline.ask(load_image(picture)[0], text, seed=next(seeds), **options).texts[0]

    return evaluate_questions(ask, found)


def caption_folder(
    pipeline: DDiTPipeline,
    annotations: Path | str,
    pictures: Path | str,
    *,
    seed: int = 0,
    **options,
) -> list[dict]:
    """A caption of each picture that a COCO file describes, as COCO's results file.

    Picture i uses seed + i. options: as `DDiTPipeline.caption`.
    Raises: JodiError where the data set, or a picture, cannot be read.
    """
    seeds = itertools.count(seed)

    def caption(picture: Path) -> str:
        return pipeline.caption(load_image(picture)[0], seed=next(seeds), **options).texts[0]

    return write_captions(caption, read_captions(Path(annotations), Path(pictures)))


def evaluate_questions(
    ask: Callable[[Path, str], str], questions: Iterable[Question]
) -> QuestionReport:
    """Ask every question about its picture, and score the answers where people answered too.

    ask: picture file and question -> answer.
    Raises: JodiError without any question.
    """
    results, scores, refused = [], [], {}
    for question in questions:
        try:
            answer = ask(question.picture, question.text)
        except (TextError, ImageError) as error:
            answer, refused[question.id] = NO_ANSWER, str(error)
        results.append({"question_id": question.id, "answer": answer})
        if question.answers:
            scores.append((question, score_answer(answer, question.answers)))
    if not results:
        raise JodiError("there is no question to ask; check the file of questions")
    overall = [score for _, score in scores]
    return QuestionReport(
        accuracy=_percent(overall) if overall else None,
        by_question_type=_by_type(scores, "question_type"),
        by_answer_type=_by_type(scores, "answer_type"),
        scored=len(overall),
        results=results,
        refused=refused,
    )


def write_captions(caption: Callable[[Path], str], pictures: Iterable[Captioned]) -> list[dict]:
    """A caption of each picture as [{"image_id", "caption"}], the results file of COCO."""
    return [{"image_id": one.id, "caption": caption(one.picture)} for one in pictures]


def _by_type(scores: list[tuple[Question, float]], field: str) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for question, score in scores:
        if name := getattr(question, field):
            groups.setdefault(name, []).append(score)
    return {name: _percent(group) for name, group in groups.items()}


def _percent(scores: list[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2)
