"""The core is self-contained: three folders, copied alone, run perception from Python."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jodi_pack.jodi_core.embedded import read_samples
from jodi_pack.jodi_core.pipeline import JodiPipeline

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("jodi_core", "kit", "kernels")

# Perceives depth and normals of a bundled sample, and prints where the code came from.
PROGRAM = """
import json
import sys

import torch
from alone.jodi_core.embedded import read_samples
from alone.jodi_core.pipeline import JodiPipeline

image = read_samples()[0].pictures["image"][None]
result = JodiPipeline.embedded().perceive(image, ["depth", "normal"], steps=2, seed=3)
torch.save(result.pictures, "pictures.pt")
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith("alone.")]))
"""


@pytest.mark.slow
def test_three_folders_copied_alone_perceive_a_picture(tmp_path):
    for part in PARTS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / "alone" / part, ignore=ignored)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(tmp_path) for file in json.loads(done.stdout))

    made = torch.load(tmp_path / "pictures.pt", weights_only=True)
    image = read_samples()[0].pictures["image"][None]
    here = JodiPipeline.embedded().perceive(image, ["depth", "normal"], steps=2, seed=3)
    assert set(made) == {"image", "depth", "normal"}
    for name, picture in here.pictures.items():
        assert torch.equal(made[name], picture), name
