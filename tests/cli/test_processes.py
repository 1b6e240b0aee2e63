"""Commands that start processes, run as from a folder that was copied and never installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jodi_pack.tests.helpers import relative_rms
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
FEW = ("--tokens", "64", "--micro-batches", "4", "--save-every", "3", "--dtype", "float32")


def jodi(folder, *words):
    """Run the command with the project's folder as its only address."""
    line = [sys.executable, str(ROOT), *map(str, words)]
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with scenes, rendered by two processes, and their latents."""
    folder = tmp_path_factory.mktemp("work")
    jodi(folder, "train", "scenes", "--run", "run", "--count", 70, "--size", 16, "--workers", 2)
    jodi(folder, "train", "latents", "--run", "run", "--vae", "embedded")
    return folder


@pytest.mark.slow
def test_scenes_of_two_processes_are_those_of_one(run_folder):
    jodi(run_folder, "train", "scenes", "--run", "one", "--count", 70, "--size", 16, "--workers", 1)
    for name in ("pictures.npy", "captions.json"):
        one, two = (run_folder / run / "scenes" / name for run in ("one", "run"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one(run_folder):
    """The same data and the same sums, so the same weights up to the order of additions."""
    states = []
    for count in (1, 2):
        folder = run_folder / f"of_{count}"
        folder.mkdir()
        for part in ("scenes", "latents.npy", "latents.json"):
            (folder / part).symlink_to(run_folder / "run" / part)
        words = ("--run", folder, "--vae", "embedded", "--continue-from", "embedded", *FEW)
        jodi(run_folder, "train", "transformer", *words, "--steps", 3, "--processes", count)
        states.append(load_file(folder / "transformer" / "model.safetensors"))
        assert (folder / "transformer" / "state.pt").is_file()
    start = load_file(ROOT / "jodi_core" / "assets" / "jodi-nano.safetensors")
    one, two = states
    assert one.keys() == two.keys()
    for name, a in one.items():
        assert relative_rms(two[name], a) < 1e-4, name
    moved = [name for name, a in one.items() if not torch.allclose(a, start[name].float())]
    assert len(moved) > len(one) // 2, "the comparison is of weights that were trained"


@pytest.mark.slow
def test_a_process_that_fails_is_named(run_folder):
    (run_folder / "bad").mkdir()
    for part in ("scenes", "latents.npy"):
        (run_folder / "bad" / part).symlink_to(run_folder / "run" / part)
    note = json.loads((run_folder / "run" / "latents.json").read_text())
    (run_folder / "bad" / "latents.json").write_text(json.dumps({**note, "scenes": 3}))
    line = [sys.executable, str(ROOT), "train", "transformer", "--run", "bad", "--steps", "2"]
    words = ["--vae", "embedded", "--processes", "2"]
    done = subprocess.run(
        [*line, *words], cwd=run_folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1
    assert "was made by another autoencoder" in done.stderr.splitlines()[-1]
