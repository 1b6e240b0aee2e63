"""Classes as data, and maps drawn for ControlNets."""

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.exits.classes import (
    find_boxes,
    find_parts,
    make_class_masks,
    read_class_names,
)
from jodi_pack.jodi_core.exits.controlnet import draw_for_controlnet
from jodi_pack.jodi_core.labels.segmentation import read_ade20k
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.scenes.render import render_scenes


@pytest.fixture(scope="module")
def scene():
    return render_scenes([8, 20], 64, supersample=1)


def flooded(mask):
    """Connected parts by flooding one pixel after the other."""
    left, parts = {(y, x) for y, x in np.argwhere(mask).tolist()}, []
    while left:
        todo, part = [left.pop()], []
        while todo:
            y, x = todo.pop()
            part.append((y, x))
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (y + dy, x + dx) in left:
                        left.remove((y + dy, x + dx))
                        todo.append((y + dy, x + dx))
        ys, xs = zip(*part, strict=True)
        parts.append((len(part), min(ys), min(xs), max(ys), max(xs)))
    return sorted(parts)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.45, 0.6, 0.95])
def test_parts_are_those_of_flooding(share):
    rng = np.random.default_rng(int(share * 100))
    for _ in range(20):
        mask = rng.random((9, 13)) < share
        assert sorted(find_parts(mask)) == flooded(mask)
    assert find_parts(np.zeros((3, 4), dtype=bool)) == []


@pytest.mark.long
def test_masks_are_the_classes_of_the_scene(scene):
    masks = make_class_masks(scene.classes, range(12))
    assert masks.shape == (2, 12, 64, 64) and bool((masks.sum(1) == 1).all())
    for number in range(12):
        assert torch.equal(masks[:, number] > 0, scene.classes == number)


def test_boxes_hold_their_parts(scene):
    boxes = find_boxes(scene.classes, read_class_names("person"), least=0)
    for picture, found in zip(scene.classes.numpy() == 1, boxes, strict=True):
        expected = sorted(flooded(picture), key=lambda p: (-p[0], p[1:]))
        got = [(b["y"], b["x"], b["y"] + b["height"] - 1, b["x"] + b["width"] - 1) for b in found]
        assert got == [part[1:] for part in expected]
        assert all(b["label"] == "person" and 0 < b["score"] <= 1 for b in found)
    assert find_boxes(scene.classes, [1], least=1) == [[], []]
    with pytest.raises(JodiError, match="share of the picture"):
        find_boxes(scene.classes, [1], least=2)


def test_names_and_numbers():
    assert read_class_names("") == tuple(range(12))
    assert read_class_names(" Sky, person\n 10, sky") == (6, 1, 10)
    with pytest.raises(JodiError, match="classes are 0 unlabeled"):
        read_class_names("horse")


def test_depth_for_a_controlnet():
    ramp = torch.linspace(0.2, 0.7, 1000).view(1, 1, 20, 50).expand(1, 3, 20, 50)
    v2 = draw_for_controlnet("depth", ramp)[0, 0].numpy()
    low, high = np.quantile(ramp[0, 0].double().numpy(), [0.01, 0.99])
    assert np.allclose(v2, ((ramp[0, 0].numpy() - low) / (high - low)).clip(0, 1), atol=1e-5)
    stretched = draw_for_controlnet("depth", ramp, depth="min max")
    assert stretched.min() == 0 and stretched.max() == 1
    assert torch.equal(draw_for_controlnet("depth", ramp, depth="raw"), ramp)
    flat = torch.full((1, 3, 4, 4), 0.4)
    assert not draw_for_controlnet("depth", flat).any()


def test_lines_normals_and_classes_for_a_controlnet(scene):
    pictures = scene.pictures
    for name, index, drawn_white in (("lineart", 1, False), ("edge", 2, True)):
        white = draw_for_controlnet(name, pictures[:, index])
        assert torch.equal(white, pictures[:, index] if drawn_white else 1 - pictures[:, index])
        black = draw_for_controlnet(name, pictures[:, index], lines="black on white")
        assert torch.allclose(black, 1 - white, atol=1e-6)
        assert float(white.mean()) < 0.5 < float(black.mean())
    same = draw_for_controlnet("normal", pictures[:, 4])
    assert torch.allclose(same, pictures[:, 4], atol=1e-5)
    gl = draw_for_controlnet("normal", pictures[:, 4], normals="opengl")
    assert torch.allclose(gl[:, 0], 1 - pictures[:, 4, 0], atol=1e-5)
    ade = draw_for_controlnet("segmentation", pictures[:, 6])
    assert torch.equal(read_ade20k(ade), scene.classes)
    assert torch.equal(draw_for_controlnet("openpose", pictures[:, 7]), pictures[:, 7])
    with pytest.raises(JodiError, match="depth is 'linear'"):
        draw_for_controlnet("depth", pictures[:, 3], depth="linear")
    with pytest.raises(ImageError):
        draw_for_controlnet("depth", pictures[:, 3] * 255)
