"""Files of a training run that are damaged: each is named, with what to do, and nothing is lost."""

import json
import shutil

import numpy as np
import pytest
import torch

STAGES = {
    "scenes": ("scenes", "--count", 2, "--size", 16, "--workers", 1),
    "autoencoder": ("autoencoder", "--steps", 3, "--batch", 1, "--device", "cpu"),
    "latents": ("latents", "--device", "cpu"),
    "transformer": ("transformer", "--steps", 3, "--device", "cpu"),
    "export": ("export", "--to", "made"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was begun: scenes, latents of the built-in autoencoder, states of few updates."""
    from jodi_pack.cli.main import main

    root = tmp_path_factory.mktemp("runs") / "run"
    here = ("--run", str(root))
    few = ("--tokens", 16, "--micro-batches", 1)
    words = [
        ("scenes", "--count", 2, "--size", 16, "--workers", 1),
        ("autoencoder", "--steps", 1, "--batch", 1, "--device", "cpu"),
        ("latents", "--device", "cpu"),
        ("transformer", "--steps", 1, *few, "--device", "cpu"),
    ]
    for stage in words:
        assert main(["train", stage[0], *here, *map(str, stage[1:])]) == 0
    return root


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "work" / "run")


def stage(jodi, name):
    words = STAGES[name]
    return jodi("train", words[0], "--run", "run", *words[1:])


def refused(jodi, name, file):
    """The stage ends with a sentence that names the file, and leaves the file as it was."""
    before = file.read_bytes()
    status, out, err = stage(jodi, name)
    assert status == 1 and out == [], err
    assert "error: " in err[-1] and file.name in err[-1] and "unexpected" not in err[-1], err
    assert "remove" in err[-1] or "train" in err[-1]
    assert len(err[-1]) < 700 and file.read_bytes() == before


BYTES = [
    b"",
    b"\0" * 100,
    b"half a f",
    b"[]",
    b"{}",
    b"7",
    b'"x"',
    b"null",
    b"\xff\xfe{",
    b"[" * 9999,
]
READERS = [
    ("scenes/scenes.json", "scenes"),
    ("scenes/scenes.json", "latents"),
    ("scenes/captions.json", "scenes"),
    ("scenes/captions.json", "transformer"),
    ("scenes/pictures.npy", "scenes"),
    ("scenes/pictures.npy", "latents"),
    ("latents.json", "latents"),
    ("latents.json", "transformer"),
    ("latents.npy", "latents"),
    ("latents.npy", "transformer"),
    ("autoencoder/state.pt", "autoencoder"),
    ("transformer/state.pt", "transformer"),
    ("transformer/state.pt", "export"),
    ("transformer/run.json", "transformer"),
    ("transformer/run.json", "export"),
    ("transformer/text.safetensors", "transformer"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "reader"), READERS)
def test_files_that_are_empty_or_damaged(jodi, damaged, file, reader):
    path = damaged / file
    for content in BYTES:
        path.write_bytes(content)
        if content == b"{}" and (file, reader) == ("transformer/run.json", "transformer"):
            continue  # says nothing else than what is asked for; see the next test
        refused(jodi, reader, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "reader", "changed"),
    [
        ("scenes/scenes.json", "scenes", {"done": -1}),
        ("scenes/scenes.json", "latents", {"done": "2"}),
        ("scenes/scenes.json", "latents", {"size": 3}),
        ("scenes/scenes.json", "latents", {"count": 10**15, "done": 10**15}),
        ("latents.json", "latents", {"scenes": None}),
        ("transformer/run.json", "export", {"config": 7}),
        ("transformer/run.json", "export", {"config": {}}),
        ("transformer/run.json", "transformer", {"config": {}}),
    ],
)
def test_values_that_are_wrong(jodi, damaged, file, reader, changed):
    path = damaged / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    status, out, err = stage(jodi, reader)
    assert (status, out) == (1, []) and "unexpected" not in err[-1] and "run/" in err[-1], err


@pytest.mark.slow
@pytest.mark.parametrize(
    "state",
    [
        {"step": 1},
        {"step": "x"},
        {"step": 1, "seconds": 0.0, "model": {}, "optimizers": [], "ema": {}},
        {"step": 1, "seconds": 0.0, "model": 3, "optimizers": [], "ema": {}},
        [1, 2],
    ],
)
def test_states_of_something_else(jodi, damaged, state):
    for name in ("autoencoder", "transformer"):
        path = damaged / name / "state.pt"
        torch.save(state, path)
        refused(jodi, name, path)


@pytest.mark.slow
def test_a_state_that_asks_to_run_code_is_refused(jodi, damaged):
    path = damaged / "transformer" / "state.pt"
    path.write_bytes(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00exit\x85R.")
    refused(jodi, "transformer", path)


@pytest.mark.slow
def test_arrays_of_another_shape(jodi, damaged):
    for file, reader in (("scenes/pictures.npy", "latents"), ("latents.npy", "transformer")):
        path = damaged / file
        kept = path.read_bytes()
        for array in (np.zeros(3), np.zeros((2, 8, 3, 16, 16)), np.array([{}], dtype=object)):
            np.save(path, array, allow_pickle=True)
            refused(jodi, reader, path)
        path.write_bytes(kept[:-1])
        refused(jodi, reader, path)
        path.write_bytes(kept)


@pytest.mark.slow
def test_a_log_that_is_damaged_is_drawn_as_far_as_it_goes(jodi, damaged):
    path = damaged / "transformer" / "log.jsonl"
    good = "\n".join(json.dumps({"step": n, "depth": 1 / n, "time": 1.0}) for n in (50, 100))
    odd = ['{"step": "x"}', "[]", "{", '{"depth": 1}', '{"step": 150, "depth": "low"}', "\0", "7"]
    path.write_text("\n".join([*odd, good]))
    status, out, err = jodi("train", "curves", "--run", "run")
    assert status == 0 and len(out) == 1, err
    path.write_bytes(b"\xff\xfe\n")
    status, _, err = jodi("train", "curves", "--run", "run")
    assert status == 1 and "no logs with losses" in err[-1]


@pytest.mark.slow
def test_what_a_kill_left_of_a_save_goes_with_the_next(jodi, damaged):
    left = damaged / "transformer" / f".{'0' * 16}.part"
    left.write_bytes(b"half a state")
    few = ("--tokens", 16, "--micro-batches", 1, "--device", "cpu")
    assert jodi("train", "transformer", "--run", "run", "--steps", 2, *few)[0] == 0
    assert not left.exists()


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"scenes": 0}', '{"scenes": "x", "more": 1}', "[" * 9999]
)
def test_a_recipe_that_is_damaged(jodi, tmp_path, content):
    path = tmp_path / "work" / "run" / "recipe.json"
    path.parent.mkdir()
    path.write_text(content)
    status, out, err = jodi("train", "nano", "--run", "run")
    assert (status, out) == (1, []) and "recipe.json" in err[-1] and "remove" in err[-1], err


@pytest.mark.parametrize("count", [10**7, 10**12, 10**30])
def test_more_scenes_than_there_is_room_for(jodi, tmp_path, count):
    options = ("--count", count, "--size", 512, "--workers", 1)
    status, _, err = jodi("train", "scenes", "--run", "run", *options)
    assert status in (1, 2) and "unexpected" not in err[-1], err
    assert any(word in err[-1] for word in ("bytes, its disk has", "seeds", "12 digits"))
    assert not (tmp_path / "work" / "run" / "scenes" / "pictures.npy").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("transformer", "--steps", "1", "--minutes", "0"),
        ("transformer", "--steps", "1", "--minutes", "-3"),
        ("transformer", "--steps", "1", "--muon-lr", "-0.1"),
        ("transformer", "--steps", "1", "--ema", "1.5"),
        ("autoencoder", "--steps", "1", "--lr", "0"),
        ("nano", "--minutes", "nan"),
    ],
    ids=" ".join,
)
def test_numbers_that_train_nothing(jodi, options):
    status, out, err = jodi("train", options[0], "--run", "run", *options[1:])
    assert (status, out, len(err)) == (2, [], 1) and options[-2] in err[0]
