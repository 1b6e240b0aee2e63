"""`jodi demo` and the samples it runs on; `jodi evaluate`."""

import json
import math

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.embedded import SAMPLES, read_samples
from jodi_pack.jodi_core.training.samples import write_samples
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, render_scenes


@pytest.mark.slow
def test_bundled_samples_are_the_scenes_of_their_seeds():
    samples = read_samples()
    assert len(samples) >= 4 and all(sample.seed >= TRAIN_SEED_END for sample in samples)
    size = tuple(samples[0].pictures["image"].shape[-2:])
    scenes = render_scenes([sample.seed for sample in samples], size)
    for row, sample in enumerate(samples):
        assert sample.caption == scenes.captions[row]
        for index, name in enumerate(DOMAIN_NAMES):
            difference = (sample.pictures[name] - scenes.pictures[row, index]).abs()
            bound = 0.5 / 65535 if name == "depth" else 0.5 / 255
            # another processor may round a few border pixels to the other side
            assert (difference > 1.01 * bound).float().mean() < 0.002, (sample.name, name)


def test_bundled_samples_are_small():
    files = [path for path in SAMPLES.iterdir() if path.is_file()]
    assert len(files) == 8 * len(read_samples()) + 1
    assert sum(path.stat().st_size for path in files) < 300_000


def test_samples_never_come_from_training_seeds(tmp_path):
    with pytest.raises(JodiError, match="training"):
        write_samples(tmp_path, [5])
    with pytest.raises(JodiError, match="jodi train samples"):
        read_samples(tmp_path)


@pytest.mark.slow
def test_samples_are_made_again_by_a_command(jodi, tmp_path):
    status, out, _ = jodi("train", "samples", "--to", tmp_path / "again", "--sheet", "s.png")
    assert status == 0 and out == ["s.png", str(tmp_path / "again")]
    for ours, theirs in zip(read_samples(), read_samples(tmp_path / "again"), strict=True):
        assert (ours.seed, ours.caption) == (theirs.seed, theirs.caption)
    assert load_image("s.png")[0].shape[-1] > 4 * 192


@pytest.mark.slow
def test_demo_runs_every_task_and_compares(jodi, tiny, tmp_path):
    status, out, err = jodi("demo", *tiny.options)
    assert status == 0, err
    assert out[-1].replace("\\", "/") == "output/demo/contact_sheet.png"
    tasks = [line for line in err if line[1:3] == "/4" and ": step" not in line]
    assert [line[0] for line in tasks] == ["1", "2", "3", "4"]
    head, *table = out[:-1]
    assert head.split()[-4:] == ["no", "model", "better", "is"]
    assert len(table) == 9
    for line in table:
        *_, model, baseline, side = line.split()
        assert math.isfinite(float(model)) and math.isfinite(float(baseline))
        assert side in ("higher", "lower")
    sheet, _ = load_image(tmp_path / "work" / out[-1])
    assert sheet.shape[-1] > 4 * 192 and sheet.std() > 0.1


@pytest.mark.slow
def test_evaluate_writes_flat_values_and_a_page(jodi, tiny, tmp_path):
    few = ("--scenes", 2, "--steps", 1, "--control-steps", 1, "--baseline-scenes", 2)
    places = ("--json", "made/scores.json", "--report", "report")
    size = ("--size", 32, "--first-seed", TRAIN_SEED_END + 9)
    status, out, err = jodi("evaluate", *few, *places, *size, *tiny.options)
    assert status == 0, err
    values = json.loads((tmp_path / "work/made/scores.json").read_text())
    for key in ("depth.absrel", "normal.mean_deg", "segmentation.miou", "control.psnr"):
        assert {f"{key}.model", f"{key}.baseline"} <= set(values)
    assert (values["scenes"], values["first_seed"]) == (2, TRAIN_SEED_END + 9)
    assert (values["size"], values["steps"]) == (32, 1)
    assert any("Depth" in line for line in out)
    assert out[-2:] == ["made/scores.json", "report/report.html"]
    assert (tmp_path / "work/report/report.html").stat().st_size > 1000


def test_sample_pictures_stack_in_order():
    samples = read_samples()[:2]
    assert torch.equal(samples[0].pictures["depth"][0], samples[0].pictures["depth"][2])
