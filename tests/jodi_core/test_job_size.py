"""The size of a job, and regions of it on the latent grid."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jodi_pack.jodi_core.job.region import lay_region_on_grid, make_change_mask
from jodi_pack.jodi_core.job.size import (
    DEFAULT_SIZE,
    MAX_RATIO,
    SIZE_CHOICES,
    choose_size,
    resolve_size,
)
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.kit.errors import ImageError, JodiError, ShapeError
from jodi_pack.kit.pictures.frame import Frame

RELEASED = {"factor": 32, "native": (1024, 1024), "explicit": (700, 1300)}
NANO = {"factor": 8, "native": (64, 64), "explicit": (70, 130)}


@pytest.mark.parametrize(
    ("choice", "first", "about", "size"),
    [
        ("trained shape", (1080, 1920), RELEASED, (704, 1408)),
        ("trained shape", (900, 1200), RELEASED, (864, 1152)),
        ("trained shape", (10, 500), RELEASED, (512, 2048)),
        ("trained shape", None, RELEASED, (1024, 1024)),
        ("picture ratio", (1080, 1920), RELEASED, (768, 1376)),
        ("picture ratio", (1500, 1000), RELEASED, (1248, 832)),
        ("picture ratio", (480, 640), RELEASED, (896, 1184)),
        ("picture ratio", (60, 200), NANO, (32, 104)),
        ("picture ratio", None, NANO, (64, 64)),
        ("picture size", (1080, 1920), RELEASED, (1088, 1920)),
        ("picture size", (3, 3), RELEASED, (32, 32)),
        ("width and height", (1080, 1920), RELEASED, (704, 1312)),
        ("width and height", None, NANO, (72, 128)),
        ("trained shape", (300, 300), NANO, (64, 64)),
    ],
)
def test_sizes(choice, first, about, size):
    assert choose_size(choice, first, **about) == size


@pytest.mark.parametrize("choice", SIZE_CHOICES)
@pytest.mark.parametrize("first", [None, (1, 1), (17, 4000), (999, 1001)])
def test_sides_are_multiples_of_the_factor(choice, first):
    for about in (RELEASED, NANO):
        height, width = choose_size(choice, first, **about)
        assert min(height, width) > 0
        assert height % about["factor"] == width % about["factor"] == 0


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.sampled_from([(8, 64), (8, 128), (32, 1024), (64, 1024)]))
def test_the_default_keeps_proportions_and_pixels(height, width, model):
    factor, side = model
    about = {"factor": factor, "native": (side, side)}
    h, w = choose_size(DEFAULT_SIZE, (height, width), **about)
    assert h % factor == w % factor == 0
    if max(height / width, width / height) > MAX_RATIO:
        assert max(h / w, w / h) <= 2 * MAX_RATIO
        return
    assert 0.4 < h * w / side**2 < 2
    frame = Frame.fitting((height * 1000, width * 1000), (h, w))
    seen = frame.height * frame.width / (frame.resized_h * frame.resized_w)
    assert seen > (0.9 if max(height / width, width / height) <= 3 else 0.7)


@pytest.mark.parametrize("side_of", [(32, 1024), (8, 64)])
def test_the_default_cuts_little_off_usual_pictures(side_of):
    factor, side = side_of
    for ratio in itertools.product((2, 3, 4, 9, 16), repeat=2):
        if not 0.5 <= ratio[0] / ratio[1] <= 2:
            continue
        original = (200 * ratio[0], 200 * ratio[1])
        size = choose_size(DEFAULT_SIZE, original, factor=factor, native=(side, side))
        frame = Frame.fitting(original, size)
        assert frame.height * frame.width >= 0.97 * frame.resized_h * frame.resized_w


def test_wrong_sizes():
    with pytest.raises(JodiError, match="trained shape"):
        choose_size("largest", None, **NANO)
    with pytest.raises(ShapeError):
        choose_size("width and height", None, factor=8, native=(64, 64), explicit=(-8, 64))
    for asked in ({"explicit": (16384, 16384)}, {"explicit": (0, 16384)}, {"native": (16384,) * 2}):
        with pytest.raises(ShapeError, match="16384 x 16384 has 268,435,456 pixels"):
            wanted = {"native": (64, 64), "explicit": (0, 0), **asked}
            choose_size("width and height", None, factor=8, **wanted)
    wide = {"native": (64, 64), "explicit": (8, 16384)}
    assert choose_size("width and height", None, factor=8, **wide) == (8, 16384)


def test_a_side_of_zero_follows_from_the_other():
    about = {"factor": 8, "native": (64, 64)}
    wide = (100, 200)
    assert choose_size("width and height", wide, explicit=(0, 160), **about) == (80, 160)
    assert choose_size("width and height", wide, explicit=(80, 0), **about) == (80, 160)
    assert choose_size("width and height", None, explicit=(0, 96), **about) == (96, 96)
    both = choose_size("width and height", wide, explicit=(0, 0), **about)
    assert both == choose_size("picture ratio", wide, **about)


def test_a_cell_is_free_when_any_of_its_pixels_is():
    mask = torch.zeros(2, 64, 128)
    mask[0, 9, 17] = 1  # row 1, column 2 of cells of 8 pixels
    mask[1, :, 64:] = 0.5
    region = lay_region_on_grid(mask, (64, 128), (8, 16))
    assert region.shape == (2, 8, 16)
    assert region[0].nonzero().tolist() == [[1, 2]] and region[0, 1, 2] == 1
    assert region[1, :, :8].eq(0).all() and region[1, :, 8:].eq(0.5).all()


@pytest.mark.parametrize("times", [1, 2, 8])
def test_a_border_between_cells_stays_between_them(times):
    """Of a mask that is larger than the job too: nothing of it reaches into the next cell."""
    mask = torch.zeros(1, 64 * times, 64 * times)
    mask[..., : 32 * times] = 1
    region = lay_region_on_grid(mask, (64, 64), (8, 8))
    assert region[..., :4].eq(1).all() and region[..., 4:].eq(0).all()


def test_a_mask_follows_the_crop_of_its_picture():
    mask = torch.zeros(1, 100, 300)
    mask[:, :, :90] = 1  # the left of a wide picture, all of it cropped away
    assert lay_region_on_grid(mask, (64, 64), (8, 8)).eq(0).all()
    assert lay_region_on_grid(mask, (64, 64), (8, 8), "pad")[0, :, 0].eq(1).all()


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(4, 4),
        torch.zeros(1, 4, 4, dtype=torch.uint8),
        torch.full((1, 4, 4), 255.0),
        torch.full((1, 4, 4), float("nan")),
        torch.zeros(0, 4, 4),
    ],
)
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ImageError, match="expected a mask"):
        lay_region_on_grid(mask, (64, 64), (8, 8))


def test_change_mask():
    plan = RolePlan.parse("image=generate, depth=generate, normal=condition")
    region = torch.rand(3, 4, 5)
    mask = make_change_mask(plan, (4, 5), {3: region})
    assert mask.shape == (3, 1, 8, 4, 5)
    assert mask[:, 0, 0].eq(1).all()
    assert torch.equal(mask[:, 0, 3], region)
    assert mask[:, 0, [1, 2, 4, 5, 6, 7]].eq(0).all()
    assert make_change_mask(plan, (4, 5), {}).shape == (1, 1, 8, 4, 5)


def test_a_size_as_people_ask_for_it():
    assert resolve_size("trained shape", (64, 48)) == ("trained shape", (64, 48), (0, 0))
    assert resolve_size(512, (64, 48)) == ("picture ratio", (512, 512), (0, 0))
    assert resolve_size((40, 72), (64, 48)) == ("width and height", (64, 48), (40, 72))
