"""Layers of rendered scenes in one EXR: what each channel holds, and the class mattes."""

import math

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.exits.depth import find_distances
from jodi_pack.jodi_core.exits.layers import LAYERS, LayerOptions, make_layers
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.pictures.cryptomatte import read_matte
from jodi_pack.kit.pictures.exr import read_exr, write_exr
from jodi_pack.kit.pictures.palettes import SEGMENTATION_CLASSES
from jodi_pack.kit.scenes.render import render_scenes


@pytest.fixture(scope="module")
def scene():
    return render_scenes([8], (48, 64), supersample=1)


@pytest.fixture(scope="module")
def pictures(scene):
    return {name: scene.pictures[0, i] for i, name in enumerate(DOMAIN_NAMES)}


def linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def test_every_domain_has_a_layer():
    assert set(LAYERS) == set(DOMAIN_NAMES)


def test_light_is_linear(pictures):
    channels, _ = make_layers(pictures)
    for prefix, name in (("", "image"), ("albedo.", "albedo")):
        for c, letter in enumerate("RGB"):
            for y, x in ((0, 0), (20, 30), (47, 63), (11, 5)):
                expected = linear(float(pictures[name][c, y, x]))
                assert channels[f"{prefix}{letter}"][y, x] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("convention", "signs"),
    [("jodi", (1, 1, 1)), ("opengl", (-1, 1, 1)), ("directx", (-1, -1, 1))],
)
def test_normals_are_the_scene_s(scene, pictures, convention, signs):
    channels, header = make_layers({"normal": pictures["normal"]}, LayerOptions(convention))
    for axis, (letter, sign) in enumerate(zip("XYZ", signs, strict=True)):
        exact = scene.normal[0, axis].numpy() * sign
        assert np.abs(channels[f"N.{letter}"] - exact).max() < 1e-6
    assert header["jodi/N/axes"].startswith(convention)


def test_depth_keeps_its_bits_or_becomes_distance(scene, pictures):
    depth = pictures["depth"]
    near, _ = make_layers({"depth": depth})
    assert np.array_equal(near["Z"], depth[0].numpy())
    far, header = make_layers({"depth": depth}, LayerOptions(z="far high"))
    assert np.array_equal(far["Z"], 1 - depth[0].numpy())
    assert header["jodi/Z/polarity"] == "far high"
    # The map stretches 1 / distance between its extremes, which make it whole again.
    valid, true = scene.valid[0].numpy(), scene.depth[0].numpy()
    nearest = float(true[valid].min())
    farthest = 0.0 if not valid.all() else float(true[valid].max())
    channels, header = make_layers(
        {"depth": depth}, LayerOptions(z="distance", near=nearest, far=farthest)
    )
    assert np.allclose(channels["Z"][valid], true[valid], rtol=1e-4)
    assert np.isinf(channels["Z"][~valid]).all()
    assert header["jodi/Z/near"] == pytest.approx(nearest)
    assert header["jodi/Z/max"] == pytest.approx(float(true[valid].max()), rel=1e-4)


def test_distances_by_the_formula():
    depth = torch.tensor([[[0.0, 0.25, 1.0]]])
    for near, far in ((2.0, 10.0), (0.5, 0.0)):
        least = 1 / far if far else 0.0
        expected = [
            1 / v if (v := least + d * (1 / near - least)) else math.inf for d in (0.0, 0.25, 1.0)
        ]
        assert find_distances(depth, near, far)[0, 0].tolist() == pytest.approx(expected, rel=1e-6)
    for near, far in ((0, 1), (2, 1), (1, 1), (math.nan, 2), (1, math.inf)):
        with pytest.raises(JodiError, match="0 < near < far"):
            find_distances(depth, near, far)


def test_the_file_holds_all_layers_and_its_mattes_are_the_class_masks(scene, pictures, tmp_path):
    pytest.importorskip("OpenEXR")
    path = tmp_path / "all.exr"
    channels, header = make_layers(pictures)
    write_exr(path, channels, header)
    back, told = read_exr(path)
    assert set(back) == {
        *("R", "G", "B", "albedo.R", "albedo.G", "albedo.B", "N.X", "N.Y", "N.Z", "Z", "edge.Y"),
        *("lineart.Y", "pose.R", "pose.G", "pose.B", "class.id"),
        *(f"classes00.{c}" for c in "RGBA"),
    }
    for name, plane in channels.items():
        assert np.array_equal(back[name], plane), name
    classes = scene.classes[0].numpy()
    assert np.array_equal(back["class.id"], classes.astype(np.float32))
    for number, name in enumerate(SEGMENTATION_CLASSES):
        assert np.array_equal(read_matte(back, told, name), (classes == number).astype(np.float32))
    for c, name in ((0, "edge"), (0, "lineart")):
        assert np.array_equal(back[f"{name}.Y"], pictures[name][c].numpy())


def test_what_cannot_be_one_file_is_refused(pictures):
    with pytest.raises(ImageError, match="nothing to write"):
        make_layers({})
    with pytest.raises(ImageError, match="these differ: image 64 x 48, depth 10 x 20"):
        make_layers({"image": pictures["image"], "depth": torch.zeros(3, 20, 10)})
    with pytest.raises(JodiError, match="heat has no layer"):
        make_layers({"heat": pictures["image"]})
    with pytest.raises(JodiError, match="use one of near high"):
        LayerOptions(z="metres")
