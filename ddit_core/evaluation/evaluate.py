"""Answers and captions over a data set, scored and in the form that official servers take."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...kit.errors import JodiError
from .annotations import Captioned, Question
from .vqa import score_answer


@dataclass(frozen=True)
class QuestionReport:
    """Accuracy in per cent, of all scored questions and by type (None without any), and answers.

    results: [{"question_id", "answer"}], the results file of VQA v2.
    """

    accuracy: float | None
    by_question_type: dict[str, float]
    by_answer_type: dict[str, float]
    scored: int
    results: list[dict]


def evaluate_questions(
    ask: Callable[[Path, str], str], questions: Iterable[Question]
) -> QuestionReport:
    """Ask every question about its picture, and score the answers where people answered too.

    ask: picture file and question -> answer.
    Raises: JodiError without any question.
    """
    results, scores = [], []
    for question in questions:
        answer = ask(question.picture, question.text)
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
