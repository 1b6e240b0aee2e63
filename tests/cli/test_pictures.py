"""Given map files in the conventions of other programs, as the model draws them."""

import numpy as np
import pytest
import torch
from jodi_pack.cli.pictures import DEPTH_SOURCES, Maps, explain_doubt, read_picture
from jodi_pack.jodi_core.job.given import prepare
from jodi_pack.jodi_core.job.plausible import find_doubt
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures.palettes import ADE20K_PALETTE, ADE20K_TO_12
from jodi_pack.tests.conftest import shared_dir, skip_or_fail
from PIL import Image

H, W = 24, 32


def depth_of(path, **maps) -> torch.Tensor:
    """As the job takes it, (H, W)."""
    picture = read_picture("depth", path, Maps(**maps))
    given = prepare({"depth": picture}, "picture size", factor=1, native=(H, W))
    fitted = given.fitted("depth")
    assert torch.equal(fitted[:, :1].expand(-1, 3, -1, -1), fitted)
    return fitted[0, 0]


def stored(tmp_path, array, name="map.png"):
    Image.fromarray(array).save(tmp_path / name)
    return tmp_path / name


def ramp(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, H * W).reshape(H, W)


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (ramp(0, 1023).round().astype(np.uint16), "ten_bits.png"),
        (ramp(0, 32768).round().astype(np.uint16), "fifteen_bits.png"),
        (ramp(700, 60000).round().astype(np.uint16), "sixteen_bits.tif"),
        (ramp(30, 200).round().astype(np.uint8), "eight_bits.png"),
        (ramp(0, 255).round().astype(np.uint8), "full.png"),
        (ramp(0.2, 0.7).astype(np.float32), "floats.tif"),
        (ramp(0, 2e6).round().astype(np.int32), "wide.tif"),
    ],
)
def test_one_rule_for_depth_of_any_range(array, name, tmp_path):
    """Near white and near black of one map and of its inverse are the same map, stretched."""
    top = {np.uint8: 255, np.uint16: 65535, np.int32: 2**32 - 1, np.float32: 1}[array.dtype.type]
    values = array.astype(np.float64)
    expected = (values - values.min()) / (values.max() - values.min())
    white = depth_of(stored(tmp_path, array, name), near="white")
    assert np.abs(white.numpy() - expected).max() < 2e-4  # of 32 bits float32 keeps 24
    black = depth_of(tmp_path / name, near="black")
    assert np.abs(black.numpy() - (1 - expected)).max() < 2e-4
    explicit = depth_of(tmp_path / name, near="white", depth_source="near-black")
    assert torch.equal(black, explicit)
    if array.dtype != np.int32:  # a container of 2^31 cannot hold its inverse
        inverse = (top - values).astype(array.dtype)
        again = depth_of(stored(tmp_path, inverse, f"inverse_{name}"), near="black")
        assert (again - white).abs().max() < 2e-4


@pytest.mark.parametrize("source", ["metres", "millimetres"])
def test_distances_become_nearness_and_missing_ones_farthest(source, tmp_path):
    values = ramp(500, 5000).round()
    whole = 1 / values
    expected = (whole - whole.min()) / (whole.max() - whole.min())
    values[3, 4:9] = 0
    expected[3, 4:9] = 0
    path = stored(tmp_path, values.astype(np.uint16))
    assert np.abs(depth_of(path, depth_source=source).numpy() - expected).max() < 1e-5
    floats = values.astype(np.float32) / 1000
    floats[3, 4], floats[3, 5], floats[3, 6] = np.nan, np.inf, -1
    path = stored(tmp_path, floats, "map.tif")
    assert np.abs(depth_of(path, depth_source=source).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("near", ["near-white", "near-black"])
def test_missing_tones_are_farthest(near, tmp_path):
    values = ramp(0.1, 0.9).astype(np.float32)
    values[0, :3] = np.nan
    expected = (values - np.nanmin(values)) / (np.nanmax(values) - np.nanmin(values))
    expected = np.nan_to_num(expected if near == "near-white" else 1 - expected, nan=0.0)
    depth = depth_of(stored(tmp_path, values, "map.tif"), depth_source=near)
    assert np.abs(depth.numpy() - expected).max() < 1e-5


def test_numbers_that_may_be_distances_are_asked_about(tmp_path):
    path = stored(tmp_path, ramp(0.5, 10).astype(np.float32), "map.tif")
    with pytest.raises(ImageError, match=r"map.tif holds numbers from 0.5 to 10.*--depth-source"):
        read_picture("depth", path, Maps())
    tones = depth_of(path, depth_source="near-white")
    assert np.abs(tones.numpy() - (ramp(0.5, 10) - 0.5) / 9.5).max() < 1e-5
    nothing = stored(tmp_path, np.full((H, W), np.nan, np.float32), "nothing.tif")
    for source in (None, *DEPTH_SOURCES):
        with pytest.raises(ImageError, match=r"nothing.tif"):
            read_picture("depth", nothing, Maps(depth_source=source))


INDEX = np.arange(H * W).reshape(H, W) // 40 % 12


@pytest.mark.parametrize(
    ("dtype", "name", "ignored"),
    [
        (np.uint8, "numbers.png", 255),
        (np.uint16, "numbers.png", 255),
        (np.uint16, "numbers.png", 65535),
        (np.int32, "numbers.tif", 255),
        (np.int32, "numbers.tif", -1),
        (np.int32, "numbers.tif", 2**31 - 1),
        (np.float32, "numbers.tif", 255),
    ],
)
def test_class_numbers_of_any_width(dtype, name, ignored, tmp_path):
    numbers = INDEX.astype(dtype)
    expected = INDEX.copy()
    numbers[2, 5:9], expected[2, 5:9] = ignored, 0
    picture = read_picture("segmentation", stored(tmp_path, numbers, name), Maps())
    given = prepare({"segmentation": picture}, "picture size", factor=1, native=(H, W))
    assert torch.equal(given.fitted("segmentation"), colorize(torch.from_numpy(expected)[None]))


def test_class_numbers_in_an_indexed_file(tmp_path):
    image = Image.fromarray(INDEX.astype(np.uint8), "P")
    image.putpalette([v for color in ADE20K_PALETTE[:12] for v in color])
    image.save(tmp_path / "indexed.png")
    picture = read_picture("segmentation", tmp_path / "indexed.png", Maps())
    assert torch.equal(picture, colorize(torch.from_numpy(INDEX)[None]))


def test_ade20k_numbers_in_an_indexed_file_of_other_colours(tmp_path):
    numbers = np.arange(H * W).reshape(H, W) % 151
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    colours = np.random.default_rng(0).integers(0, 256, 768)
    image.putpalette(colours.tolist())
    image.save(tmp_path / "indexed.png")
    expected = colorize(torch.tensor(list(ADE20K_TO_12))[torch.from_numpy(numbers)][None])
    maps = Maps(segmentation_source="ade20k")
    assert torch.equal(read_picture("segmentation", tmp_path / "indexed.png", maps), expected)
    image.putpalette([v for color in ((0, 0, 0), *ADE20K_PALETTE) for v in color])
    image.save(tmp_path / "indexed.png")
    same = numbers != 49  # it is drawn in the colour of 7
    picture = read_picture("segmentation", tmp_path / "indexed.png", maps)
    assert torch.equal(picture[0, :, same], expected[0, :, same])


def test_a_photo_is_doubted_as_a_map_in_ade20ks_colours(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    maps = Maps(segmentation_source="ade20k")
    read_picture("segmentation", stored(tmp_path, noise), maps)
    assert "hardly a colour of ADE20K" in caplog.text and "map.png" in caplog.text
    caplog.clear()
    drawn = np.array([(0, 0, 0), *ADE20K_PALETTE], np.uint8)[INDEX]
    read_picture("segmentation", stored(tmp_path, drawn), maps)
    assert not caplog.text


def test_distances_are_not_read_from_colours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    for source in ("metres", "millimetres"):
        with pytest.raises(ImageError, match=r"map.png is in colours.*one number for each pixel"):
            read_picture("depth", stored(tmp_path, noise), Maps(depth_source=source))


def test_ade20k_in_numbers_and_in_colours(tmp_path):
    numbers = np.arange(H * W).reshape(H, W) % 151
    expected = colorize(torch.tensor(list(ADE20K_TO_12))[torch.from_numpy(numbers)][None])
    maps = Maps(segmentation_source="ade20k")
    for dtype in (np.uint8, np.uint16):
        path = stored(tmp_path, numbers.astype(dtype))
        assert torch.equal(read_picture("segmentation", path, maps), expected)
    drawn = np.array([(0, 0, 0), *ADE20K_PALETTE], np.uint8)[numbers]
    picture = read_picture("segmentation", stored(tmp_path, drawn), maps)
    same = numbers != 49  # it is drawn in the colour of 7
    assert torch.equal(picture[0, :, same], expected[0, :, same])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((H, W), 150, np.uint16), r"class numbers 0..11, .* got 150 to 150"),
        (np.full((H, W), 0.5, np.float32), "fractions"),
        (np.full((H, W), np.nan, np.float32), "without a number.*255"),
        (np.where(INDEX == 3, np.inf, INDEX).astype(np.float32), "without a number.*255"),
        (np.where(INDEX == 3, 1e20, INDEX).astype(np.float32), "got 0 to 1099511627776"),
        (np.where(INDEX == 3, 12, INDEX).astype(np.uint8), "class numbers 0..11, .* got 0 to 12"),
        ((23 * INDEX).astype(np.uint8), "class numbers 0..11, .* got 0 to 253"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(array, words, tmp_path):
    path = stored(tmp_path, array, "map.tif")
    with pytest.raises(ImageError, match=f"map.tif.*{words}"):
        read_picture("segmentation", path, Maps())


def test_sources_are_of_given_files_only(tmp_path):
    normals = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    path = stored(tmp_path, normals)
    turned = read_picture("normal", path, Maps(normals="opengl"))
    assert torch.equal(read_picture("normal", path, Maps(normal_source="opengl")), turned)
    plain = read_picture("normal", path, Maps(normals="opengl", normal_source="model"))
    assert torch.equal(plain, torch.from_numpy(normals / np.float32(255)).permute(2, 0, 1)[None])


def test_lines_are_inverted_when_asked(tmp_path):
    path = stored(tmp_path, ramp(0, 255).round().astype(np.uint8))
    for name in ("lineart", "edge"):
        plain = read_picture(name, path, Maps())
        inverted = read_picture(name, path, Maps(inverted=["lineart", "edge"]))
        assert torch.equal(inverted, 1 - plain)


def test_doubts_name_the_option():
    odd = find_doubt("depth", torch.linspace(1, 0, H).view(1, 1, H, 1).expand(1, 3, H, W))
    assert odd is not None and "--depth-source near-black" in explain_doubt(odd)


def test_only_lines_are_inverted(jodi, picture):
    status, _, err = jodi("control", "--depth", picture("d.png"), "--invert", "depth,edge")
    assert status == 2 and "--invert depth" in err[-1] and "--depth-source" in err[-1]


@pytest.mark.reference
def test_shared_depth_and_classes():
    folder = shared_dir() / "cases" / "pictures"
    if not folder.is_dir():
        skip_or_fail("reference", f"no pictures at {folder}; set JODI_SHARED")
    eight, sixteen = (
        read_picture("segmentation", folder / f"seg_index_{bits}bit_gray.png", Maps())
        for bits in (8, 16)
    )
    given = prepare({"segmentation": eight}, "picture size", factor=1, native=(64, 64))
    assert torch.equal(given.fitted("segmentation"), sixteen)
    full = depth_of(folder / "depth_16bit_gray_full.png")
    ten = depth_of(folder / "depth_16bit_container_of_10bit_values.png")
    assert (ten - full).abs().max() < 1 / 500  # what ten bits lose
    metres = depth_of(folder / "depth_float32_metres.tif", depth_source="metres")
    assert metres.min() == 0 and metres.max() == 1
    name = "depth_16bit_in_millimetres_500_5000_zero_is_missing.png"
    with Image.open(folder / name) as image:
        missing = torch.from_numpy(np.asarray(image) == 0)
    depth = depth_of(folder / name, depth_source="millimetres")
    assert missing.any() and depth[missing].eq(0).all() and depth.max() == 1
    for odd, of in (("depth_all_white", "depth"), ("openpose_white_background", "openpose")):
        assert find_doubt(of, read_picture(of, folder / f"{odd}.png", Maps())) is not None
