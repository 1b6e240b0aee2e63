"""Given pictures as the model draws them, at one size, and their way back."""

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, find_domain
from jodi_pack.jodi_core.job.checks import agree_on_rows
from jodi_pack.jodi_core.job.given import prepare
from jodi_pack.jodi_core.job.restore import restore_map
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.errors import ImageError, ShapeError
from jodi_pack.kit.pictures.frame import fit, restore
from jodi_pack.tests.helpers import random_picture

ABOUT = {"factor": 8, "native": (64, 64)}


def given(pictures, choice="picture size", **options):
    return prepare(pictures, choice, **ABOUT, **options)


def test_the_first_domain_decides_in_whatever_order_they_come():
    pictures = {"depth": random_picture(1, 32, 64), "image": random_picture(1, 64, 32)}
    job = given(pictures)
    assert job.size == (64, 32) and list(job.pictures) == ["image", "depth"]
    assert job.frame == job.frames["image"]
    assert given({}).frame is None and given({}).size == (64, 64)


def test_pictures_are_fitted_in_slices_to_the_same():
    job = given({"albedo": random_picture(5, 40, 56)}, "picture ratio")
    whole = job.fitted("albedo")
    assert torch.equal(whole[2:4], job.fitted("albedo", slice(2, 4)))
    assert torch.equal(whole, fit(random_picture(5, 40, 56), job.size)[0])


def test_depth_is_stretched_to_its_range_and_a_video_as_one():
    plane = torch.linspace(0.2, 0.6, 16).view(1, 1, 16, 1).expand(1, 3, 16, 16)
    video = torch.cat([plane, plane * 0.5])  # 0.1 .. 0.6 together
    job = given({"depth": video})
    expected = (video - 0.1) / (0.6 - 0.1)
    assert torch.allclose(job.fitted("depth"), expected, atol=1e-6)
    assert torch.equal(job.fitted("depth", slice(1, 2)), job.fitted("depth")[1:])
    assert torch.equal(given({"albedo": video}).fitted("albedo"), video)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (0.01, 0.99), (1.0, 1.0), (0.4, 0.405)])
def test_depth_that_fills_its_range_or_is_flat_is_taken_as_it_is(low, high):
    plane = torch.linspace(low, high, 16).view(1, 1, 16, 1).expand(1, 3, 16, 16)
    assert torch.equal(given({"depth": plane}).fitted("depth"), plane)


def test_classes_come_in_colours_or_numbers():
    index = torch.arange(12).repeat(32, 1).repeat_interleave(2, 1)
    drawn, numbers = colorize(index[None]), (index / 255).expand(1, 3, -1, -1)
    for picture in (drawn, numbers, drawn * 0.98):
        assert torch.equal(given({"segmentation": picture}).fitted("segmentation"), drawn)


@pytest.mark.parametrize("value", [torch.nan, 255.0])
def test_what_is_no_picture_is_refused_in_any_row(value):
    for row in (0, 1):
        picture = random_picture(2, 16, 16)
        picture[row, :, 3, 3] = value
        for name in ("depth", "image", "segmentation"):
            with pytest.raises(ImageError, match=f"{name}: expected values in 0..1"):
                job = given({name: picture})
                job.fitted(name)


@pytest.mark.parametrize(("size", "lost"), [((64, 64), False), ((64, 63), False), ((64, 61), True)])
def test_no_crop_of_more_than_three_percent_without_a_word(size, lost):
    job = given({"image": random_picture(1, *size)}, "width and height", explicit=(64, 64))
    assert [doubt.kind for doubt in job.doubts] == ["cut off"] * lost
    assert not given({"image": random_picture(1, *size)}, "width and height", explicit=(64, 64),
                     mode="pad").doubts  # fmt: skip


def test_maps_of_other_proportions_are_doubted_each():
    pictures = {"image": random_picture(1, 32, 32)} | {
        name: random_picture(1, 32, 48) for name in ("lineart", "albedo")
    }
    found = [d.name for d in given(pictures).doubts if d.kind == "proportions"]
    assert found == ["lineart", "albedo"]


@pytest.mark.parametrize(
    ("counts", "batch", "rows"),
    [
        ({}, None, 1),
        ({}, 4, 4),
        ({"image": 1, "depth": 5}, None, 5),
        ({"image": 5, "depth": 5}, 5, 5),
        ({"image": 1}, 3, 3),
    ],
)
def test_parts_of_one_row_serve_all(counts, batch, rows):
    assert agree_on_rows(counts, batch) == rows


@pytest.mark.parametrize(
    ("counts", "batch", "words"),
    [
        ({"image": 5, "depth": 3}, None, "image asks for 5 rows, but depth has 3; give 1 or 5"),
        ({"image": 5}, 2, "batch asks for 2 rows, but image has 5; give 1 or 2"),
        ({"image": 5, "edge": 5, "depth": 2}, None, "image and edge asks? for 5 rows"),
        ({}, 0, "at least 1 row, got 0"),
    ],
)
def test_rows_that_differ_are_refused(counts, batch, words):
    with pytest.raises(ShapeError, match=words):
        agree_on_rows(counts, batch)


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_results_lie_over_their_pictures(mode):
    picture = random_picture(1, 40, 56)
    size = (32, 32)
    fitted, frame = fit(picture, size, mode)
    raw = fitted * 2 - 1
    for name in ("image", "normal"):
        of = find_domain(name)
        expected = postprocess(of, restore(raw, frame))
        assert torch.equal(postprocess(of, restore_map(of, raw, [frame])), expected)
    colours = postprocess("segmentation", restore_map(find_domain("segmentation"), raw, [frame]))
    assert torch.equal(colours, restore(postprocess("segmentation", raw), frame, palette=True))


def test_each_row_has_its_own_frame():
    pictures = [random_picture(1, 40, 56, seed=s) for s in range(2)]
    frames = [fit(pictures[0], (32, 32), mode)[1] for mode in ("crop", "pad")]
    raw = torch.cat(pictures)[:, :, :32, :32] * 2 - 1
    rows = restore_map(find_domain("image"), raw, frames)
    for i, frame in enumerate(frames):
        assert torch.equal(rows[i : i + 1], restore(raw[i : i + 1], frame))


def test_further_domains_are_read_as_colours():
    names = (*DOMAIN_NAMES, "roughness")
    picture = random_picture(1, 32, 32)
    job = given({"roughness": picture}, names=names)
    assert torch.equal(job.fitted("roughness"), picture) and not job.doubts
