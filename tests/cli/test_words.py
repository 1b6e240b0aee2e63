"""Captions, answers and pictures from words on the command line, by the built-in ddit-nano."""

import json

import pytest
from jodi_pack.ddit_core.embedded import load_embedded_pipeline
from jodi_pack.ddit_core.evaluation.nano import ANSWER_OPTIONS, CAPTION_OPTIONS
from jodi_pack.jodi_core.embedded import SAMPLES, read_samples
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.scenes.questions import KINDS, WORDS
from jodi_pack.kit.scenes.render import TRAIN_SEED_END

PICTURE = SAMPLES / "sample1_image.png"


def picture():
    return load_image(PICTURE)[0]


@pytest.mark.slow
def test_captions_are_all_that_is_printed(jodi, tmp_path):
    status, out, _ = jodi("caption", PICTURE, "--device", "cpu")
    expected = load_embedded_pipeline().caption(picture(), options=CAPTION_OPTIONS).texts
    assert (status, out) == (0, list(expected))
    assert set(out[0].split()) <= set(WORDS)


@pytest.mark.slow
def test_captions_of_a_folder_go_beside_their_pictures(jodi, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        (folder / name).write_bytes(PICTURE.read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    status, out, err = jodi("caption", folder, "--txt", "--device", "cpu")
    assert status == 1 and len(out) == 2 and any("broken.png" in line for line in err)
    assert (folder / "one.txt").read_text() == out[0] + "\n"
    assert not (folder / "broken.txt").exists()


@pytest.mark.slow
def test_answers_one_line_for_each_question(jodi):
    questions = ["is there a person", "What colour is the sky?"]
    status, out, _ = jodi("ask", PICTURE, *questions, "--device", "cpu")
    expected = load_embedded_pipeline().ask(picture(), questions, options=ANSWER_OPTIONS).texts
    assert (status, out) == (0, list(expected)) and len(out) == 2
    status, out, err = jodi("ask", PICTURE, "is there a zebra", "--device", "cpu")
    assert status == 1 and not out and "zebra" in err[-1]
    status, out, err = jodi("ask", PICTURE, "is there a dog", "--model", "released.safetensors")
    assert status == 2 and "ComfyUI" in err[-1]


@pytest.mark.long
def test_pictures_from_words(jodi, tmp_path):
    few = ("--steps", 2, "--count", 2, "--out", "made", "--device", "cpu")
    status, out, err = jodi("imagine", "a red sofa in a room", *few)
    assert status == 0, err
    assert [name.replace("\\", "/") for name in out] == [
        f"made/a_red_sofa_in_a_room_seed{seed}.png" for seed in (0, 1)
    ]
    sizes = {tuple(load_image(tmp_path / "work" / name)[0].shape) for name in out}
    assert sizes == {(1, 3, 64, 64)}
    assert jodi("imagine", " ")[0] == 2


def test_evaluation_of_other_weights_is_refused(jodi):
    status, _, err = jodi("evaluate", "--ddit", "--model", "own.safetensors")
    assert status == 2 and "leave out --model" in err[-1]


@pytest.mark.slow
def test_evaluation_writes_its_flat_keys(jodi, tmp_path):
    few = ("--scenes", 4, "--first-seed", TRAIN_SEED_END + 7, "--json", "s.json")
    status, _, err = jodi("evaluate", "--ddit", *few, "--device", "cpu")
    assert status == 0, err
    values = json.loads((tmp_path / "work/s.json").read_text())
    sides = ("model", "constant")
    assert set(values) == {
        *(f"vqa.accuracy.{side}" for side in sides),
        *(f"vqa.{kind}.accuracy.{side}" for kind in KINDS for side in sides),
        *("caption.precision.model", "caption.recall.model"),
        *("imagine.found.model", "imagine.found.chance"),
        *(f"evaluations.{t}.{s}" for t in ("caption", "answer") for s in ("model", "published")),
    }
    for text in ("caption", "answer"):
        ours, theirs = (values[f"evaluations.{text}.{s}"] for s in ("model", "published"))
        assert ours <= theirs / 2
    assert len(read_samples()) == 6
