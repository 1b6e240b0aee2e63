"""Questions and captions over a folder of pictures, by a real small model, end to end."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from jodi_pack.ddit_core.evaluation.evaluate import answer_folder, caption_folder
from jodi_pack.ddit_core.text.sampler import TextOptions
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.tests.ddit_core.small import word_pipeline
from PIL import Image

OPTIONS = {"options": TextOptions(steps=3), "short": False}
PEOPLE = (["red", "Red.", "a red", "red", "dog", "dog", "two", "2", "on", "table"], ["cat"] * 10)


@pytest.fixture(scope="module")
def pipeline():
    return word_pipeline()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures by COCO's names, one of them damaged; VQA v2's two files; COCO captions."""
    root = tmp_path_factory.mktemp("data")
    (root / "val").mkdir()
    for number in (1, 22):
        pixels = torch.randint(256, (40, 48, 3), generator=torch.Generator().manual_seed(number))
        picture = Image.fromarray(pixels.numpy().astype(np.uint8))
        picture.save(root / "val" / f"COCO_val2014_{number:012d}.png")
    (root / "val" / "COCO_val2014_000000000333.png").write_bytes(b"no picture")
    asked = [(10, 1, "two cat"), (11, 1, "red ~ dog"), (220, 22, "the mat"), (3330, 333, "a dog")]
    questions = [{"question_id": q, "image_id": i, "question": text} for q, i, text in asked]
    answers = [
        {"question_id": q, "image_id": i, "answer_type": "other",
         "answers": [{"answer": a, "answer_id": n} for n, a in enumerate(PEOPLE[q % 2])]}
        for q, i, _ in asked
    ]  # fmt: skip
    captions = [{"image_id": i, "id": i, "caption": "a cat"} for i in (22, 1)]
    for name, data in {
        "questions": {"questions": questions},
        "answers": {"annotations": answers},
        "captions": {"annotations": captions, "images": []},
    }.items():
        (root / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return root


def accuracy(answer: str, people: list[str]) -> float:
    """The published mean over all ways to leave one person out, for words without oddities."""

    def plain(text):
        words = re.sub(r"[.]", "", text.lower()).split()
        return " ".join({"two": "2"}.get(w, w) for w in words if w not in ("a", "an", "the"))

    if len(set(people)) > 1:
        answer, people = plain(answer), [plain(p) for p in people]
    groups = itertools.combinations(people, len(people) - 1)
    scores = [min(1.0, sum(p == answer for p in group) / 3) for group in groups]
    return sum(scores) / len(scores)


@pytest.mark.long
def test_answers_over_a_folder(pipeline, folder):
    report = answer_folder(
        pipeline,
        folder / "questions.json",
        folder / "val",
        folder / "answers.json",
        seed=5,
        **OPTIONS,
    )
    said = {result["question_id"]: result["answer"] for result in report.results}
    assert list(said) == [10, 11, 220, 3330] and report.scored == 4
    assert set(report.refused) == {11, 3330} and said[11] == said[3330] == ""
    assert "no token for" in report.refused[11] and "333.png" in report.refused[3330]
    picture = load_image(folder / "val" / "COCO_val2014_000000000022.png")[0]
    assert said[220] == pipeline.ask(picture, "the mat", seed=5 + 2, **OPTIONS).texts[0]
    scores = [accuracy(answer, PEOPLE[number % 2]) for number, answer in said.items()]
    assert report.accuracy == pytest.approx(100 * sum(scores) / 4, abs=0.005)
    assert json.loads(json.dumps(report.results)) == report.results


def test_an_answer_that_people_gave_is_scored(pipeline, folder):
    """Agreement counts: the answers of one run become what three of ten people said."""
    told = answer_folder(pipeline, folder / "questions.json", folder / "val", **OPTIONS)
    assert told.accuracy is None and told.scored == 0
    answers = json.loads((folder / "answers.json").read_text())
    for entry, result in zip(answers["annotations"], told.results, strict=True):
        entry["answers"] = [{"answer": result["answer"].upper()}] * 3 + [{"answer": "x y"}] * 7
    (folder / "told.json").write_text(json.dumps(answers))
    files = folder / "questions.json", folder / "val", folder / "told.json"
    report = answer_folder(pipeline, *files, **OPTIONS)
    assert report.accuracy == pytest.approx(100 * (3 * 2 / 3 + 7 * 1) / 10)
    assert report.by_answer_type == {"other": report.accuracy}


def test_captions_over_a_folder(pipeline, folder):
    options = {"options": TextOptions(steps=3)}
    found = caption_folder(pipeline, folder / "captions.json", folder / "val", seed=3, **options)
    assert [entry["image_id"] for entry in found] == [22, 1]
    picture = load_image(folder / "val" / "COCO_val2014_000000000001.png")[0]
    assert found[1]["caption"] == pipeline.caption(picture, seed=4, **options).texts[0]


def test_a_folder_without_the_pictures(pipeline, folder):
    with pytest.raises(JodiError, match="none of the 4 questions"):
        answer_folder(pipeline, folder / "questions.json", folder, **OPTIONS)
