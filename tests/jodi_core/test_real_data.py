"""Folders of real pictures: layouts, and measures against slow loops from the definitions."""

import json
import math

import numpy as np
import pytest
import torch
from jodi_pack.cli.main import main
from jodi_pack.jodi_core.evaluation.datasets import PROTOCOLS, list_samples, load_sample
from jodi_pack.jodi_core.evaluation.perceiver import make_perceiver
from jodi_pack.jodi_core.evaluation.real import align_depth, evaluate_folder
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.pictures.palettes import ADE20K_TO_12, SEGMENTATION_CLASSES, SEGMENTATION_PALETTE
from PIL import Image

H, W = 12, 16


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture
def nyu(tmp_path, rng):
    """Two pictures: one with millimetres and a mask, one with metres and normals."""
    for name in ("a", "b"):
        save(tmp_path / "rgb" / f"{name}.png", rng.integers(0, 256, (H, W, 3), dtype=np.uint8))
    millimetres = rng.integers(500, 9000, (H, W)).astype(np.uint16)
    millimetres[0, 0], millimetres[0, 1] = 0, 20000  # missing, and beyond ten metres
    save(tmp_path / "depth" / "a.png", millimetres)
    mask = np.full((H, W), 255, np.uint8)
    mask[3:5, 2:6] = 0
    save(tmp_path / "mask" / "a.png", mask)
    metres = rng.uniform(0.5, 9, (H, W)).astype(np.float32)
    metres[2, 3], metres[4, 5] = np.nan, np.inf
    save(tmp_path / "depth" / "b.npy", metres)
    normal = rng.normal(size=(H, W, 3))
    normal[1, 1] = 0
    save(tmp_path / "normal" / "b.npy", normal.astype(np.float32))
    return (
        tmp_path,
        {"a": (millimetres / 1000.0, mask > 0), "b": (metres, np.ones((H, W), bool))},
        normal,
    )


def random_map(seed):
    made = {}

    def infer(image, labels):
        maps = {}
        for label in labels:
            g = torch.Generator().manual_seed(seed + len(made))
            maps[label] = torch.rand(3, *image.shape[-2:], generator=g)
            made.setdefault(label, []).append(maps[label].double().numpy())
        return maps

    return infer, made


def fit_line(p, d):
    """Least squares of scale * p + shift to d, by the normal equations of two unknowns."""
    n, sp, sd = len(p), p.sum(), d.sum()
    spp, spd = (p * p).sum(), (p * d).sum()
    scale = (n * spd - sp * sd) / (n * spp - sp * sp)
    return scale, (sd - scale * sp) / n


def test_depth_equals_a_slow_computation(nyu):
    folder, truths, _ = nyu
    infer, made = random_map(3)
    values, each = evaluate_folder(folder, "nyuv2", infer, resamples=0)
    for alignment in ("disparity_affine", "depth_affine"):
        rows = []
        for number, (depth, mask) in enumerate(truths.values()):
            drawn = made["depth"][number].mean(0)
            absrel, inside, squares, count = 0.0, 0, 0.0, 0
            known = [
                (y, x) for y in range(H) for x in range(W)
                if mask[y, x] and np.isfinite(depth[y, x]) and 1e-3 < depth[y, x] < 10
            ]  # fmt: skip
            p = np.array([drawn[y, x] for y, x in known])
            d = np.array([depth[y, x] for y, x in known], dtype=np.float64)
            if alignment == "disparity_affine":
                scale, shift = fit_line(p, 1 / d)
                fitted = [1 / max(scale * v + shift, 1e-3) for v in p]
            else:
                scale, shift = fit_line(1 - p, d)
                fitted = [scale * (1 - v) + shift for v in p]
            for made_depth, true in zip(fitted, d, strict=True):
                made_depth = min(max(made_depth, 1e-3), 10)
                absrel += abs(made_depth - true) / true
                inside += max(made_depth / true, true / made_depth) < 1.25
                squares += (made_depth - true) ** 2
                count += 1
            rows.append((absrel / count, inside / count, math.sqrt(squares / count)))
        expected = np.mean(rows, axis=0)
        got = [values[f"nyuv2.{alignment}.{m}"] for m in ("absrel", "delta1", "rmse")]
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        assert each[0][1][f"nyuv2.{alignment}.absrel"] == pytest.approx(rows[0][0], rel=1e-9)


def test_normals_equal_a_slow_computation(nyu):
    folder, _, normal = nyu
    infer, made = random_map(3)
    values, _ = evaluate_folder(folder, "nyuv2", infer, resamples=0)
    # Jodi's x points left, OpenGL's right; both have y up and z to the viewer.
    drawn = made["normal"][0].transpose(1, 2, 0) * 2 - 1
    angles = []
    for y in range(H):
        for x in range(W):
            true = normal[y, x].astype(np.float32).astype(np.float64)
            length = math.sqrt((true**2).sum())
            if length <= 0.5:
                continue
            mine = drawn[y, x] * (-1, 1, 1)
            cosine = (mine * true).sum() / math.sqrt((mine**2).sum()) / length
            angles.append(math.degrees(math.acos(min(1, max(-1, cosine)))))
    assert values["nyuv2.unaligned.mean_deg"] == pytest.approx(np.mean(angles), rel=1e-5)
    below = sum(a < 30 for a in angles) / len(angles)
    assert values["nyuv2.unaligned.within_30"] == pytest.approx(below, abs=1e-6)


def test_the_crop_is_eigens_at_the_sensors_size_only():
    protocol = PROTOCOLS["nyuv2"]
    assert protocol.crop_of == (480, 640)
    assert protocol.crop == (slice(45, 471), slice(41, 601))


def test_a_perfect_disparity_has_no_error(nyu):
    folder, truths, _ = nyu

    def infer(image, labels):
        depth = torch.from_numpy(np.nan_to_num(truths[names.pop(0)][0], nan=1, posinf=1)).double()
        near = 1 / depth.clamp(min=0.1)
        return {"depth": (near / near.max()).float(), "normal": torch.zeros(3, H, W)}

    names = ["a", "b"]
    values, _ = evaluate_folder(folder, "nyuv2", infer, resamples=0)
    assert values["nyuv2.disparity_affine.absrel"] < 1e-4
    assert values["nyuv2.depth_affine.absrel"] > 0.1


def test_edges_of_several_annotators_by_hand(tmp_path):
    """Two annotators: a line at column 4, and one at column 10. The map draws the first."""
    save(tmp_path / "images" / "x.png", np.zeros((H, W, 3), np.uint8))
    planes = np.zeros((2, H, W), np.uint8)
    planes[0, :, 4], planes[1, :, 10] = 1, 1
    for number, plane in enumerate(planes):
        save(tmp_path / "groundTruth" / "x" / f"{number}.png", plane * 255)
    drawn = torch.zeros(3, H, W)
    drawn[:, :, 4] = 0.8
    values, _ = evaluate_folder(
        tmp_path, "bsds", lambda image, labels: {"edge": drawn}, resamples=0
    )
    # every predicted pixel is explained (P = 1), half of the annotators' pixels are found (R = 1/2)
    assert values["bsds.unaligned.ods"] == pytest.approx(2 * 1 * 0.5 / 1.5, abs=1e-6)
    assert values["bsds.unaligned.ois"] == pytest.approx(2 / 3, abs=1e-6)
    np.save(tmp_path / "groundTruth" / "x.npy", planes)
    again, _ = evaluate_folder(tmp_path, "bsds", lambda image, labels: {"edge": drawn}, resamples=0)
    assert again == values


def test_ois_takes_each_picture_at_its_own_threshold(tmp_path):
    for name in ("x", "y"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((H, W, 3), np.uint8))
        plane = np.zeros((1, H, W), np.uint8)
        plane[0, :, 4] = 1
        save(tmp_path / "groundTruth" / f"{name}.npy", plane)
    weak, strong = torch.zeros(3, H, W), torch.zeros(3, H, W)
    weak[:, :, 4] = 0.3
    strong[:, :, 4], strong[:, :, 11] = 0.9, 0.6
    maps = [weak, strong]
    values, _ = evaluate_folder(
        tmp_path, "bsds", lambda image, labels: {"edge": maps.pop(0)}, resamples=0
    )
    # at any one threshold either a false line counts or a true one is missed
    assert values["bsds.unaligned.ois"] == pytest.approx(1, abs=1e-6)
    assert values["bsds.unaligned.ods"] < 0.95


def test_classes_equal_a_slow_confusion(tmp_path, rng):
    pictures = {}
    for name in ("p", "q"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((H, W, 3), np.uint8))
        pictures[name] = rng.integers(0, 151, (H, W)).astype(np.uint8)
        pictures[name][0, 0] = 0
        save(tmp_path / "annotations" / f"{name}.png", pictures[name])
    drawn = [rng.integers(0, 12, (H, W)) for _ in pictures]
    colors = np.array(SEGMENTATION_PALETTE)
    maps = [torch.from_numpy(colors[d] / 255.0).permute(2, 0, 1).float() for d in drawn]
    values, _ = evaluate_folder(
        tmp_path, "ade20k", lambda image, labels: {"segmentation": maps.pop(0)}, resamples=0
    )
    hits, union = [0] * 12, [0] * 12
    for made, truth in zip(drawn, pictures.values(), strict=True):
        for m, t in zip(made.ravel(), truth.ravel(), strict=True):
            if t == 0:
                continue  # not labelled in ADE20K: not scored
            t = ADE20K_TO_12[t]
            hits[t] += m == t
            union[m] += 1
            union[t] += m != t
    expected = [h / u for h, u in zip(hits[1:], union[1:], strict=True) if u]
    assert values["ade20k.unaligned.miou"] == pytest.approx(np.mean(expected), abs=1e-6)
    name = SEGMENTATION_CLASSES[6]
    assert values[f"ade20k.unaligned.iou.{name}"] == pytest.approx(hits[6] / union[6], abs=1e-6)


def test_intervals_hold_the_value(nyu):
    infer, _ = random_map(5)
    values, _ = evaluate_folder(nyu[0], "nyuv2", infer, resamples=200)
    key = "nyuv2.disparity_affine.absrel"
    assert values[f"{key}.ci95.low"] <= values[key] <= values[f"{key}.ci95.high"]


def test_a_map_of_another_size_is_resized(nyu):
    values, _ = evaluate_folder(
        nyu[0], "nyuv2", lambda image, labels: {n: torch.rand(3, 6, 8) for n in labels}, resamples=0
    )
    assert values["nyuv2.pictures"] == 2


def test_a_flat_map_is_the_mean(nyu):
    sample = load_sample(nyu[0], "b", PROTOCOLS["nyuv2"])
    depth, valid = sample.truth["depth"], sample.valid["depth"]
    aligned = align_depth(torch.full((H, W), 0.3), depth, valid, (1e-3, 10.0))
    assert torch.allclose(aligned, depth[valid].mean().expand(H, W))


class TestFaults:
    def test_another_layout(self, tmp_path):
        with pytest.raises(JodiError, match=r"no pictures in rgb/.*docs/evaluation\.md"):
            list_samples(tmp_path, PROTOCOLS["nyuv2"])

    def test_a_picture_without_labels(self, nyu):
        folder, _, _ = nyu
        (folder / "depth" / "a.png").unlink()
        with pytest.raises(JodiError, match="a has none of the labels depth, normal"):
            load_sample(folder, "a", PROTOCOLS["nyuv2"])

    def test_truth_of_another_size(self, nyu):
        folder, _, _ = nyu
        save(folder / "depth" / "b.npy", np.ones((H + 1, W), np.float32))
        with pytest.raises(ImageError, match="must be the same"):
            load_sample(folder, "b", PROTOCOLS["nyuv2"])

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04"])
    def test_damaged_arrays(self, nyu, content):
        folder, _, _ = nyu
        (folder / "depth" / "b.npy").write_bytes(content)
        with pytest.raises(ImageError, match="cannot be read as a NumPy array"):
            load_sample(folder, "b", PROTOCOLS["nyuv2"])

    def test_pickled_arrays_are_not_run(self, nyu):
        folder, _, _ = nyu
        np.save(folder / "depth" / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with pytest.raises(ImageError, match="cannot be read"):
            load_sample(folder, "b", PROTOCOLS["nyuv2"])

    @pytest.mark.parametrize("made", [torch.zeros(2, H, W), torch.full((H, W), math.nan)])
    def test_maps_of_no_shape(self, nyu, made):
        with pytest.raises(ImageError, match="the map of depth"):
            evaluate_folder(nyu[0], "nyuv2", lambda i, names: dict.fromkeys(names, made))


@pytest.mark.long
def test_jodi_nano_and_the_report(nyu, tmp_path):
    folder, _, _ = nyu
    out, report = tmp_path / "v.json", tmp_path / "report"
    code = main(
        ["evaluate", "--data", str(folder), "--protocol", "nyuv2", "--samples", "2", "--limit", "1",
         "--json", str(out), "--report", str(report), "--quiet"]
    )  # fmt: skip
    assert code == 0
    values = json.loads(out.read_text())
    assert values["samples"] == 2 and values["nyuv2.pictures"] == 1
    assert values["nyuv2.disparity_affine.absrel"] > 0 and values["seconds_per_picture"] > 0
    page = (report / "report.html").read_text()
    assert "depth_worst.png" in page and (report / "pictures" / "depth_worst.png").is_file()
    assert "| nyuv2.disparity_affine.absrel |" in (report / "report.md").read_text()


def test_maps_of_a_pipeline_lie_over_the_whole_picture():
    infer = make_perceiver(JodiPipeline.embedded(), steps=1, samples=2, together=True)
    maps = infer(torch.rand(1, 3, 40, 56), ("depth", "segmentation"))
    assert {name: tuple(m.shape) for name, m in maps.items()} == dict.fromkeys(
        ("depth", "segmentation"), (3, 40, 56)
    )


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "x"],
        ["--protocol", "bsds"],
        ["--samples", "3"],
        ["--competitor", "missing.py"],
    ],
)
def test_options_that_do_not_fit(options, capsys):
    assert main(["evaluate", *options]) == 2
    assert "evaluate: error" in capsys.readouterr().err
