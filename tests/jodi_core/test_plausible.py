"""What looks odd about given pictures: on rendered scenes, whose maps are exact."""

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.job.plausible import find_doubt, find_drawing_doubt, has_colors
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.pictures.palettes import ADE20K_PALETTE
from jodi_pack.kit.scenes.render import render_scenes
from jodi_pack.tests.conftest import shared_dir, skip_or_fail

SCENES = 40


@pytest.fixture(scope="module")
def scenes() -> dict[str, torch.Tensor]:
    """Maps of rendered scenes by domain, each (SCENES, 3, 64, 64)."""
    pictures = render_scenes(range(SCENES), 64).pictures
    return {name: pictures[:, i] for i, name in enumerate(DOMAIN_NAMES)}


def kinds(name: str, pictures: torch.Tensor) -> list[str | None]:
    found = [find_doubt(name, picture) for picture in pictures.split(1)]
    assert all(odd is None or (odd.name == name and odd.text.startswith(name)) for odd in found)
    return [None if odd is None else odd.kind for odd in found]


@pytest.mark.slow
def test_right_maps_raise_no_doubt(scenes):
    for name, pictures in scenes.items():
        assert kinds(name, pictures) == [None] * SCENES, name
        large = torch.nn.functional.interpolate(pictures[:4], scale_factor=5, mode="nearest")
        assert kinds(name, large) == [None] * 4, name


def turn_upright(normals: torch.Tensor, *signs: int) -> torch.Tensor:
    return (normals * 2 - 1) * torch.tensor(signs).view(3, 1, 1) / 2 + 0.5


def grey(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def on_white(poses: torch.Tensor) -> torch.Tensor:
    return torch.where(poses.amax(1, True) == 0, 1.0, poses)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "source", "change", "kind", "share"),
    [
        # a scene without ground, or without curved surfaces, may tell nothing
        ("depth", "depth", lambda x: 1 - x, "inverted", 0.85),
        ("normal", "normal", lambda x: turn_upright(x, -1, -1, 1), "directx", 0.85),
        ("normal", "normal", lambda x: turn_upright(x, -1, 1, 1), "opengl", 0.6),
        ("normal", "normal", lambda x: 1 - x, "no normals", 1.0),
        ("depth", "image", lambda x: x, "colours", 1.0),
        ("depth", "image", grey, "photo", 0.4),
        ("depth", "lineart", lambda x: x, "photo", 0.3),
        ("normal", "image", grey, "no normals", 0.9),
        ("normal", "depth", lambda x: x, "no normals", 1.0),
        ("lineart", "image", grey, "photo", 1.0),
        ("edge", "image", grey, "photo", 1.0),
        ("edge", "depth", lambda x: x, "photo", 0.7),
        ("openpose", "image", lambda x: x, None, 1.0),
        ("lineart", "lineart", lambda x: 1 - x, "polarity", 1.0),
        ("edge", "edge", lambda x: 1 - x, "polarity", 1.0),
        ("lineart", "edge", lambda x: x, "polarity", 1.0),
        ("edge", "lineart", lambda x: x, "polarity", 1.0),
        ("openpose", "openpose", lambda x: on_white(x), "background", 1.0),
        ("depth", "depth", lambda x: x * 0 + 1, "flat", 1.0),
        ("openpose", "edge", lambda x: x, "grey", 0.9),
        ("openpose", "openpose", lambda x: grey(x), "grey", 0.5),
        ("segmentation", "image", lambda x: x, "classes", 0.9),
        ("segmentation", "image", grey, "classes", 0.9),
        ("segmentation", "segmentation", lambda x: x * 0, "unlabeled", 1.0),
    ],
)  # fmt: skip
def test_wrong_maps_are_doubted(scenes, name, source, change, kind, share):
    found = kinds(name, change(scenes[source]))
    odd = (
        sum(k == kind for k in found) if kind else sum(k in ("photo", "background") for k in found)
    )
    assert odd >= share * SCENES, found


@pytest.mark.parametrize("missing", ["sky", "top"])
def test_inverted_depth_is_doubted_where_its_upper_part_was_not_measured(scenes, missing):
    """What a sensor did not reach is black, and would outweigh the rest."""
    depth = scenes["depth"]
    inverted = 1 - depth
    if missing == "sky":
        inverted = torch.where(depth <= depth.amin((1, 2, 3), True) + 0.02, 0.0, inverted)
    else:
        inverted[:, :, :20] = 0
    found = kinds("depth", inverted)
    assert sum(kind == "inverted" for kind in found) >= 0.75 * SCENES, found


def test_classes_lost_on_the_way_are_doubted_in_colours_and_numbers():
    for picture in (colorize(torch.zeros(1, 8, 8, dtype=torch.long)), torch.zeros(1, 3, 8, 8)):
        odd = find_doubt("segmentation", picture)
        assert odd is not None and odd.kind == "unlabeled"


def test_grey_class_maps_are_told_their_numbers():
    numbers = (torch.arange(64).view(1, 1, 8, 8) / 255).expand(-1, 3, -1, -1)
    odd = find_doubt("segmentation", numbers)
    assert odd is not None and "values up to 63 of 255" in odd.text and "0 to 11" in odd.text


def test_one_odd_row_of_a_batch_is_enough(scenes):
    batch = torch.cat([scenes["depth"][:2], torch.ones(1, 3, 64, 64)])
    odd = find_doubt("depth", batch)
    assert odd is not None and odd.kind == "flat"


def test_doubts_name_the_way_out(scenes):
    odd = find_doubt("depth", 1 - scenes["depth"][:1])
    assert odd is not None and "near is white" in odd.text
    odd = find_doubt("lineart", torch.zeros(1, 3, 8, 8))
    assert odd is not None and odd.text == (
        "lineart is mostly dark; expected dark lines on white: invert it"
    )


def test_class_numbers_are_no_strange_colours():
    index = torch.arange(64 * 64).view(1, 64, 64) % 12
    assert find_doubt("segmentation", (index / 255)[:, None].expand(-1, 3, -1, -1)) is None
    assert find_doubt("segmentation", colorize(index)) is None


def test_colours_are_told_in_maps_of_any_range():
    grey_one = torch.linspace(0.5, 80, 64).view(1, 1, 8, 8).expand(-1, 3, -1, -1)
    coloured = grey_one * torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1)
    for scale in (1 / 80, 1, 1000):
        assert has_colors(scale * coloured) and not has_colors(scale * grey_one)
    for missing in (float("nan"), float("inf")):
        assert not has_colors(torch.where(grey_one > 40, missing, grey_one))


def test_maps_in_ade20ks_colours_are_doubted_where_they_have_others():
    colours = torch.tensor(ADE20K_PALETTE, dtype=torch.float32).T.view(1, 3, 10, 15) / 255
    assert find_drawing_doubt(colours, "ade20k") is None
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert "hardly a colour" in str(find_drawing_doubt(noise, "ade20k"))
    assert find_drawing_doubt(noise, "jodi") is None  # the job says it


def test_one_pixel_is_enough_to_look_at():
    for name in DOMAIN_NAMES:
        find_doubt(name, torch.full((1, 3, 1, 1), 0.5))
        find_doubt(name, torch.full((2, 3, 1, 500), 0.5))


@pytest.mark.reference
def test_published_photos_are_no_maps():
    """A photo in grey is neither depth nor normals nor a drawing."""
    folder = shared_dir() / "data" / "joint_example" / "image"
    if not folder.is_dir():
        skip_or_fail("reference", f"no examples at {folder}; set JODI_SHARED")
    for path in sorted(folder.iterdir()):
        photo = grey(load_image(path)[0])
        found = [find_doubt(name, photo) for name in ("depth", "normal", "lineart")]
        kinds = [odd and odd.kind for odd in found]
        assert kinds[:2] == ["photo", "no normals"] and None not in kinds, (path.name, kinds)


@pytest.mark.parametrize("noise", [0.002, 0.005])
def test_depth_of_a_sensor_is_no_photo(scenes, noise):
    """Noise and missing pixels do not make a photo of it."""
    generator = torch.Generator().manual_seed(0)
    depth = scenes["depth"] + noise * torch.randn(SCENES, 1, 64, 64, generator=generator)
    depth = depth.clamp(0, 1)
    depth[:, :, 20:26, 30:40] = 0
    assert "photo" not in kinds("depth", depth)
    assert "photo" not in kinds("depth", 1 - depth)


@pytest.mark.reference
def test_published_examples_raise_no_doubt():
    """Maps of the model's own training data, as its authors published them."""
    folder = shared_dir() / "data" / "joint_example"
    if not folder.is_dir():
        skip_or_fail("reference", f"no examples at {folder}; set JODI_SHARED")
    names = {name: f"annotation_{name}" for name in DOMAIN_NAMES[1:]}
    names |= {"image": "image", "segmentation": "annotation_seg_12colors"}
    for name, place in names.items():
        for path in sorted((folder / place).iterdir()):
            assert find_doubt(name, load_image(path)[0]) is None, path
