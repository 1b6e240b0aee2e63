"""VQA v2's normalisation and accuracy, answers that are numbers or yes, and data sets on disk."""

import json
import os

import pytest
from jodi_pack.ddit_core.evaluation.annotations import read_captions, read_questions
from jodi_pack.ddit_core.evaluation.evaluate import evaluate_questions, write_captions
from jodi_pack.ddit_core.evaluation.vqa import normalise_answer, score_answer
from jodi_pack.ddit_core.text.answers import read_count, says_yes
from jodi_pack.kit.errors import JodiError


# What the published program makes of these, run once (a013f00).
@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("A  red\tbus.\n", "red bus"),
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("1,000 people", "1000 people"),
        ("2.5", "2.5"),
        ("3.", "3"),
        ("dont", "don't"),
        ("Yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("o'clock", "o'clock"),
        ("yes, it is", "yes it is"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("blue-green and red -", "bluegreen and red"),
        ("what?!", "what"),
        ("the an a", ""),
        ("u.s.a.", "usa"),
        ("." * 40, "." * 8),
    ],
)
def test_normalisation(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("answer", "people", "score"),
    [
        ("red", ["red"] * 10, 1.0),
        ("Red.", ["red"] * 10, 0.0),  # all said the same: nothing is normalised
        ("Red.", ["red"] * 9 + ["blue"], 1.0),
        ("blue", ["red"] * 9 + ["blue"], 0.9 * 1 / 3),
        ("blue", ["red"] * 8 + ["blue"] * 2, (8 * 2 / 3 + 2 * 1 / 3) / 10),
        ("blue", ["red"] * 7 + ["blue"] * 3, (7 * 1 + 3 * 2 / 3) / 10),
        ("blue", ["red"] * 6 + ["the Blue"] * 4, 1.0),
        ("green", ["red"] * 9 + ["blue"], 0.0),
    ],
)
def test_accuracy(answer, people, score):
    assert score_answer(answer, people) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "yes"),
    [("yes", True), ("No", False), ("It is not there. yes", False), ("a bus. no", True),
     ("nothing", True), ("", True)],
)  # fmt: skip
def test_yes_and_no(answer, yes):
    assert says_yes(answer) is yes


@pytest.mark.parametrize(
    ("answer", "count"),
    [("2", 2), ("There are three dogs.", 3), ("Ten", 10), ("none", 0), ("no dogs", 0),
     ("12 people and 3 dogs", 12), ("many", None), ("", None), ("one.", 1), ("b2", None),
     ("1,250,000 bees", 1250000), ("3,4 or 5", 3)],
)  # fmt: skip
def test_counts(answer, count):
    assert read_count(answer) == count


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("COCO_val2014_000000000042.jpg", "plain.png", "7.webp", "notes.txt"):
        (pictures / name).write_bytes(b"")
    return tmp_path


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def vqa_v2(folder):
    questions = [
        {"question_id": 420, "image_id": 42, "question": "What color?"},
        {"question_id": 70, "image_id": 7, "question": "How many?"},
        {"question_id": 990, "image_id": 99, "question": "Not here?"},
    ]
    answers = [
        {"question_id": 420, "image_id": 42, "question_type": "what", "answer_type": "other",
         "answers": [{"answer": "red", "answer_id": i} for i in range(9)] + [{"answer": "blue"}]},
        {"question_id": 70, "image_id": 7, "question_type": "how many", "answer_type": "number",
         "answers": [{"answer": "2"}] * 8 + [{"answer": "3"}] * 2},
    ]  # fmt: skip
    return (
        write(folder / "q.json", {"questions": questions}),
        write(folder / "a.json", {"annotations": answers}),
    )


class TestDataSets:
    def test_vqa_v2(self, folder):
        q, a = vqa_v2(folder)
        first, second = read_questions(q, folder / "pictures", a)
        assert first.picture.name == "COCO_val2014_000000000042.jpg" and second.id == 70
        assert first.answers == ("red",) * 9 + ("blue",) and first.answer_type == "other"
        assert second.picture.name == "7.webp" and second.text == "How many?"

    def test_a_test_set_without_answers(self, folder):
        found = read_questions(vqa_v2(folder)[0], folder / "pictures")
        assert [one.answers for one in found] == [(), ()]

    def test_coco_style_questions(self, folder):
        data = {
            "images": [{"id": 5, "file_name": "plain.png"}],
            "annotations": [
                {"id": 1, "image_id": 5, "question": "What?", "answers": ["a cat", "cat"]},
                {"id": 2, "image_id": 5, "question": "Who?", "answer": "me"},
            ],
        }
        found = read_questions(write(folder / "coco.json", data), folder / "pictures")
        assert [(o.id, o.picture.name, o.answers) for o in found] == [
            (1, "plain.png", ("a cat", "cat")),
            (2, "plain.png", ("me",)),
        ]

    def test_coco_captions(self, folder):
        data = {
            "images": [{"id": 5, "file_name": "plain.png"}],
            "annotations": [
                {"image_id": 5, "caption": "one"},
                {"image_id": 42, "caption": "two"},
                {"image_id": 5, "caption": "three"},
                {"image_id": 6, "caption": "not here"},
            ],
        }
        found = read_captions(write(folder / "coco.json", data), folder / "pictures")
        assert [(o.id, o.captions) for o in found] == [(5, ("one", "three")), (42, ("two",))]
        results = write_captions(lambda path: path.stem, found)
        assert results[0] == {"image_id": 5, "caption": "plain"}

    @pytest.mark.parametrize(
        "entry",
        [5, {}, {"image_id": 42}, {"image_id": [42], "question": "a"},
         {"image_id": 42, "question": "a", "answers": 5},
         {"image_id": 42, "question": "a", "answers": [{"said": "b"}]}],
    )  # fmt: skip
    def test_entries_of_another_kind_are_told(self, folder, entry):
        file = write(folder / "odd.json", {"questions": [entry]})
        with pytest.raises(JodiError, match=r"odd\.json"):
            read_questions(file, folder / "pictures")
        for data in ({"annotations": [entry]}, {"annotations": 5}, {"annotations": {"a": 1}}):
            file = write(folder / "odd.json", data)
            with pytest.raises(JodiError, match=r"odd\.json"):
                read_captions(file, folder / "pictures")
        odd = {
            "images": [{"id": 1, "file_name": 5}],
            "annotations": [{"image_id": 1, "caption": "a"}],
        }
        with pytest.raises(JodiError, match=r"odd\.json"):
            read_captions(write(folder / "odd.json", odd), folder / "pictures")

    def test_files_that_cannot_be_read_are_told(self, folder):
        (folder / "deep.json").write_text("[" * 100_000)
        (folder / "latin.json").write_bytes(b'{"questions": "caf\xe9"}')
        os.mkfifo(folder / "pipe.json")
        for name in ("deep", "latin", "pipe", "missing"):
            with pytest.raises(JodiError, match=rf"{name}\.json"):
                read_questions(folder / f"{name}.json", folder / "pictures")

    def test_scores_and_results(self, folder):
        q, a = vqa_v2(folder)
        said = {"What color?": "The red.", "How many?": "three"}
        report = evaluate_questions(
            lambda picture, text: said[text], read_questions(q, folder / "pictures", a)
        )
        three = 100 * (8 * 2 / 3 + 2 * 1 / 3) / 10
        assert report.by_question_type == {"what": 100.0, "how many": pytest.approx(three)}
        assert report.by_answer_type["number"] == pytest.approx(three)
        assert report.accuracy == pytest.approx(50 + three / 2) and report.scored == 2
        assert report.results == [
            {"question_id": 420, "answer": "The red."},
            {"question_id": 70, "answer": "three"},
        ]

    def test_answers_alone_have_no_accuracy(self, folder):
        found = read_questions(vqa_v2(folder)[0], folder / "pictures")
        report = evaluate_questions(lambda picture, text: "red", found)
        assert report.accuracy is None and report.scored == 0 and len(report.results) == 2

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({"questions": []}, "no questions"),
            ([1], "holds a list"),
            ({"questions": [{"image_id": 1, "question": "?"}]}, "none of the 1 questions"),
        ],
    )
    def test_files_that_will_not_do(self, folder, data, words):
        with pytest.raises(JodiError, match=words):
            read_questions(write(folder / "q.json", data), folder / "pictures")

    def test_what_is_not_there(self, folder):
        with pytest.raises(JodiError, match="no file"):
            read_questions(folder / "q.json", folder / "pictures")
        (folder / "bad.json").write_text("{")
        with pytest.raises(JodiError, match="no readable JSON"):
            read_questions(folder / "bad.json", folder / "pictures")
        with pytest.raises(JodiError, match="no folder"):
            read_questions(vqa_v2(folder)[0], folder / "nowhere")
        with pytest.raises(JodiError, match="no captions"):
            read_captions(vqa_v2(folder)[0], folder / "pictures")
        with pytest.raises(JodiError, match="no question"):
            evaluate_questions(lambda picture, text: "", [])
