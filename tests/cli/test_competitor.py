"""Any program with load() and infer(image) is scored like a model."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from jodi_pack.cli.competitor import load_competitor
from jodi_pack.cli.main import main
from jodi_pack.jodi_core.evaluation.competitor import evaluate_maps
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, render_scenes

HEURISTIC = Path(__file__).parents[2] / "docs" / "competitors" / "heuristic.py"


@pytest.mark.long
def test_the_example_is_scored_beside_baselines(tmp_path, capsys):
    out = tmp_path / "v.json"
    options = ["--scenes", "4", "--baseline-scenes", "8", "--size", "32", "--json", str(out)]
    code = main(
        ["evaluate", "--competitor", str(HEURISTIC), "--report", str(tmp_path / "r"), *options]
    )
    assert code == 0
    values = json.loads(out.read_text())
    assert values["model"] == "Sobel and colours" and values["scenes"] == 4
    for key in ("depth.absrel", "normal.mean_deg", "edge.f", "albedo.psnr"):
        assert values[f"{key}.model"] > 0 and f"{key}.baseline" in values
    assert not any(key.startswith("segmentation.miou.model") for key in values)
    assert "Sobel and colours" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.long
def test_exact_maps_score_as_exact():
    truth = render_scenes([TRAIN_SEED_END, TRAIN_SEED_END + 1], 32)

    def infer(image, labels):
        row = next(r for r in truth.pictures if torch.equal(r[0], image[0]))
        return {"albedo": row[5], "segmentation": row[6]}

    report = evaluate_maps(infer, "exact", scenes=2, size=32, training_scenes=4, resamples=0)
    names = [str(n) for n in report.values]
    assert "albedo.psnr.model" in names
    assert report.values["albedo.psnr.model"] == pytest.approx(100)
    assert report.values["segmentation.miou.model"] == pytest.approx(1)
    assert [e.place for e in report.examples] == ["best", "middle", "worst"] * 2


def write(tmp_path, text):
    path = tmp_path / "theirs.py"
    path.write_text("import numpy as np\n" + text)
    return path


def test_the_picture_comes_as_an_array(tmp_path):
    path = write(
        tmp_path,
        "seen = []\ndef load(): seen.append('loaded')\n"
        "def infer(image):\n    assert image.shape == (32, 32, 3) and image.dtype == np.float32\n"
        "    assert 0 <= image.min() and image.max() <= 1 and seen == ['loaded']\n"
        "    return {'depth': image[..., 0]}\n",
    )
    title, infer = load_competitor(path)
    report = evaluate_maps(infer, title, scenes=2, size=32, training_scenes=4, resamples=0)
    assert title == "theirs" and "depth.absrel.model" in report.values


def test_maps_in_the_order_of_tensors_and_names_in_other_spellings(tmp_path):
    (tmp_path / "beside_theirs.py").write_text("NAME = 'Depth Map'\n")
    path = write(
        tmp_path,
        "import torch\nfrom .beside_theirs import NAME\ndef load(): pass\n"
        "def infer(image):\n    x = torch.from_numpy(image).permute(2, 0, 1)\n"
        "    return {NAME: x[0], 'Normals': x}\n",
    )
    _, infer = load_competitor(path)
    picture = torch.rand(1, 3, 8, 10)
    made = infer(picture, ("depth", "normal"))
    assert torch.equal(made["depth"], picture[0, 0]) and torch.equal(made["normal"], picture[0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "said", "code"),
    [
        ("def load(): pass\n", "needs the functions load", 2),
        ("def load(): 1/0\ndef infer(image): return {}\n", "load failed: ZeroDivisionError", 1),
        ("def load(): pass\ndef infer(image): return 3\n", "must return maps by label", 1),
        ("def load(): pass\ndef infer(image): return {'depth': np.full((4, 4), 2.0)}\n",
         "numbers from 0 to 1", 1),
        ("def load(): pass\ndef infer(image): return {'depth': np.zeros((4, 4, 2))}\n",
         "the map of depth", 1),
        ("def load(): pass\ndef infer(image): return {'depth': 'x'}\n", "must be \\(H, W\\)", 1),
        ("def load(): pass\ndef infer(image): return {'deepness': image[..., 0]}\n",
         "called 'deepness'; the labels are lineart", 1),
        ("def load(): pass\ndef infer(image): return {'image': image}\n", "called 'image'", 1),
        ("def (:\n", "SyntaxError", 1),
        ("def load(): pass\nn = []\ndef infer(image):\n    n.append(1)\n"
         "    return {'depth': image[..., 0]} if len(n) == 1 else {}\n", "some pictures only", 1),
    ],
)  # fmt: skip
def test_faults_name_the_file(tmp_path, capsys, text, said, code):
    path = write(tmp_path, text)
    options = ["--scenes", "2", "--baseline-scenes", "2", "--size", "32"]
    assert main(["evaluate", "--competitor", str(path), *options]) == code
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.slow
def test_the_regressor_learns_and_is_scored(tmp_path):
    """One second of training on two scenes, then a score: the example runs from end to end."""
    source = HEURISTIC.with_name("regressor.py").read_text()
    path = tmp_path / "regressor.py"
    path.write_text(source)
    truth = render_scenes(range(32), 32)
    (tmp_path / "scenes").mkdir()
    pictures = (truth.pictures * 255).round().byte().numpy()
    np.save(tmp_path / "scenes" / "pictures.npy", pictures)
    import importlib.util

    spec = importlib.util.spec_from_file_location("regressor", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.train(tmp_path / "scenes", 1 / 60) >= 1
    title, infer = load_competitor(path)
    report = evaluate_maps(infer, title, scenes=2, size=32, training_scenes=4, resamples=0)
    assert report.values["segmentation.miou.model"] is not None


def test_an_extractor_needs_its_part(capsys):
    assert main(["evaluate", "--extractor", str(HEURISTIC), "--scenes", "2"]) == 2
    assert "add it to --parts" in capsys.readouterr().err
