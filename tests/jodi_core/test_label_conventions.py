"""Maps of other programs in, ours out: round trips, and values worked out by hand."""

import math

import pytest
import torch
from jodi_pack.jodi_core.labels.depth import convert_depth, make_depth_map
from jodi_pack.jodi_core.labels.normals import convert_normals
from jodi_pack.jodi_core.labels.segmentation import (
    ADE20K_COLORS_OF_12,
    ADE20K_OF_12,
    SEGMENTATION_DRAWINGS,
    draw_segmentation,
    paint_class,
    read_classes,
)
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.pictures.palettes import ADE20K_TO_12, SEGMENTATION_CLASSES


def ramp(low: float, high: float, rows: int = 4, columns: int = 50) -> torch.Tensor:
    return torch.linspace(low, high, columns).expand(1, rows, columns).clone()


def sphere(side: int = 33) -> torch.Tensor:
    """Unit normals of a ball seen from the front, (1, 3, S, S): x picture right, y up, z to us."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    z = (1 - x * x - y * y).clamp_min(0).sqrt()
    inside = z > 0.05
    return torch.where(inside, torch.stack([x, -y, z]), 0.0)[None]


def test_raw_depth_of_jodi_is_stretched_as_published():
    raw = torch.rand(3, 3, 9, 7) * 0.5 + 0.2
    assert torch.allclose(convert_depth(raw), make_depth_map(raw * 2 - 1), atol=1e-6)
    assert torch.allclose(
        convert_depth(raw, near="black"), make_depth_map(raw * 2 - 1, near="black"), atol=1e-6
    )
    assert torch.allclose(
        convert_depth(raw, normalize="batch"),
        make_depth_map(raw * 2 - 1, normalize="batch"),
        atol=1e-6,
    )
    bounds = {"low": 0.3, "high": 0.6}
    assert torch.allclose(
        convert_depth(raw, normalize="range", **bounds),
        make_depth_map(raw * 2 - 1, normalize="range", **bounds),
        atol=1e-6,
    )


def test_batch_keeps_frames_comparable_and_image_does_not():
    frames = torch.cat([ramp(0.2, 0.4), ramp(0.4, 0.8)])
    together = convert_depth(frames, normalize="batch")
    assert together[0].max().item() == pytest.approx(1 / 3, abs=1e-6)
    assert together[0, 0, -1].item() == pytest.approx(together[1, 0, 0].item(), abs=1e-6)
    alone = convert_depth(frames, normalize="image")
    assert alone[0].max() == alone[1].max() == 1


def test_distance_becomes_disparity():
    metres = torch.tensor([[[1.0, 2.0, 4.0, float("inf"), 0.0, float("nan")]]])
    depth = convert_depth(metres, "distance")
    # 1/d = 1, 1/2, 1/4, stretched; what has no distance is as far as the farthest
    assert torch.allclose(depth, torch.tensor([[[1.0, 1 / 3, 0, 0, 0, 0]]]), atol=1e-6)
    ranged = convert_depth(metres, "distance", "range", low=1.0, high=8.0)
    expected = torch.tensor([[[1.0, (0.5 - 0.125) / 0.875, 0.125 / 0.875, 0, 0, 0]]])
    assert torch.allclose(ranged, expected, atol=1e-6)
    assert torch.allclose(
        convert_depth(metres, "distance", "range", "black", low=1.0, high=8.0), 1 - expected
    )


def test_near_black_is_turned_round_and_back():
    shown = ramp(0, 1)
    turned = convert_depth(shown, "near black")
    assert torch.allclose(turned, 1 - shown, atol=1e-6)
    assert torch.allclose(convert_depth(turned, "near white", near="black"), shown, atol=1e-6)
    part = convert_depth(shown, "near black", "range", low=0.25, high=0.75)
    assert torch.allclose(part, ((0.75 - shown) / 0.5).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("near", ["white", "black"])
@pytest.mark.parametrize("normalize", ["image", "batch"])
def test_flat_depth_is_zero_not_nan(near, normalize):
    assert convert_depth(torch.full((2, 3, 4), 7.0), normalize=normalize, near=near).eq(0).all()


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("white",), JodiError, "source"),
        (("distance", "range"), JodiError, "bounds"),
        (("distance", "range", "white", 0.0, 5.0), JodiError, "above 0"),
        (("near white", "range", "white", 1.0, 1.0), JodiError, "low < high"),
        (("near white", "video"), JodiError, "normalize"),
        (("near white", "image", "grey"), JodiError, "near"),
    ],
)
def test_wrong_depth_settings(args, error, message):
    with pytest.raises(error, match=message):
        convert_depth(torch.rand(1, 4, 4), *args)


def test_wrong_depth_maps():
    with pytest.raises(ImageError):
        convert_depth(torch.rand(4, 4))
    with pytest.raises(ImageError, match="no pixel"):
        convert_depth(torch.full((1, 4, 4), float("nan")))


def test_normals_of_a_sphere_in_every_convention():
    """A point on the right of a ball faces right: red is low for Jodi, high for the others."""
    ball = sphere()
    pictures = {
        "opengl": (ball + 1) / 2,
        "directx": (ball * torch.tensor([1.0, -1.0, 1.0])[:, None, None] + 1) / 2,
        "jodi": (ball * torch.tensor([-1.0, 1.0, 1.0])[:, None, None] + 1) / 2,
    }
    right, top = (0, slice(None), 16, 30), (0, slice(None), 2, 16)
    assert pictures["jodi"][right][0] < 0.1 and pictures["opengl"][right][0] > 0.9
    assert pictures["directx"][top][1] < 0.1 and pictures["opengl"][top][1] > 0.9
    for source, picture in pictures.items():
        for target, expected in pictures.items():
            got = convert_normals(picture, source, target)
            assert torch.allclose(got, expected, atol=1e-6), (source, target)


def test_normals_get_unit_length_and_no_direction_is_grey():
    picture = torch.tensor([0.75, 0.5, 0.75])[None, :, None, None].repeat(1, 1, 2, 2)
    picture[..., 0, 0] = 0.5
    picture[..., 0, 1] = 0.0
    out = convert_normals(picture, "opengl", "opengl")
    half = 0.5 + 0.5 / math.sqrt(2)
    assert torch.allclose(out[0, :, 1, 1], torch.tensor([half, 0.5, half]), atol=1e-6)
    assert out[..., 0, 0].eq(0.5).all() and out[..., 0, 1].eq(0.5).all()
    with pytest.raises(JodiError, match="target"):
        convert_normals(picture, "opengl", "unity")


@pytest.mark.parametrize("drawn", SEGMENTATION_DRAWINGS)
def test_classes_come_back_from_either_drawing(drawn):
    index = torch.arange(12, dtype=torch.uint8).view(1, 3, 4).repeat(2, 1, 1)
    picture = draw_segmentation(index, drawn)
    assert torch.equal(read_classes(picture, drawn), index)
    noisy = (picture + torch.rand_like(picture) * 0.02).clamp(0, 1)
    assert torch.equal(read_classes(noisy, drawn), index)


def test_ade20k_classes_stand_for_what_they_are_read_as():
    assert [ADE20K_TO_12[n] for n in ADE20K_OF_12] == list(range(12))
    assert len(set(ADE20K_COLORS_OF_12)) == len(SEGMENTATION_CLASSES)


def test_painting_masks_into_a_map():
    mask = torch.zeros(1, 4, 6)
    mask[0, 1] = 0.6
    mask[0, 2] = 0.4
    index = paint_class(None, mask, "person")
    assert index.dtype == torch.uint8
    assert index[0, 1].eq(1).all() and index[0, [0, 2, 3]].eq(0).all()
    column = torch.zeros(3, 4, 6)
    column[:, :, 0] = 1
    index = paint_class(index, column, "sky")
    assert index.shape == (3, 4, 6) and index[:, 1, 0].eq(6).all() and index[:, 1, 1].eq(1).all()
    for wrong in (torch.ones(1, 4, 5), torch.ones(2, 4, 6)):
        with pytest.raises(ImageError, match="one for all maps"):
            paint_class(index, wrong, "sky")
    with pytest.raises(JodiError, match="classes are"):
        paint_class(index, mask, "castle")
