"""Label formulas against float64 loops written from the definitions, and their guards."""

import math

import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, DOMAINS
from jodi_pack.jodi_core.labels.depth import make_depth_map, read_depth
from jodi_pack.jodi_core.labels.maps import postprocess, preprocess
from jodi_pack.jodi_core.labels.normals import find_normals, make_normal_map, read_normals
from jodi_pack.jodi_core.labels.segmentation import (
    colorize,
    find_class_id,
    find_classes,
    find_nearest_color,
    make_class_mask,
    read_ade20k,
)
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.pictures.palettes import (
    ADE20K_PALETTE,
    ADE20K_TO_12,
    SEGMENTATION_CLASSES,
    SEGMENTATION_PALETTE,
)
from jodi_pack.tests.jodi_core.live_bytes import LiveBytes

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def decoded(seed=0, batch=2, height=5, width=7, dtype=torch.float32, spread=1.3):
    """Decoder output that also oversteps [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(batch, 3, height, width, generator=g) * 2 - 1) * spread
    return x.to(dtype)


def pixels(x):
    """(b, y, x, [r, g, b]) in Python floats (float64), clamped to [-1, 1]."""
    for b, picture in enumerate(x.double().tolist()):
        for y in range(x.shape[2]):
            for i in range(x.shape[3]):
                yield b, y, i, [min(1.0, max(-1.0, picture[c][y][i])) for c in range(3)]


def loop_nearest(rgb255, palette):
    best, best_distance = 0, math.inf
    for k, color in enumerate(palette):
        distance = sum((a - b) ** 2 for a, b in zip(rgb255, color, strict=True))
        if distance < best_distance:
            best, best_distance = k, distance
    return best


def assert_near(ours, oracle, tolerance=1e-6):
    assert ours.dtype == torch.float32
    assert ours.shape == oracle.shape
    assert (ours.double() - oracle).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestPublishedFormulas:
    def test_color_and_pose(self, dtype):
        x = decoded(1, dtype=dtype)
        oracle = torch.zeros(x.shape, dtype=torch.float64)
        for b, y, i, rgb in pixels(x):
            for c in range(3):
                oracle[b, c, y, i] = (rgb[c] + 1) / 2
        for name in ("image", "albedo", "openpose"):
            assert_near(postprocess(name, x), oracle)

    def test_gray(self, dtype):
        x = decoded(2, dtype=dtype)
        oracle = torch.zeros(x.shape, dtype=torch.float64)
        for b, y, i, rgb in pixels(x):
            oracle[b, :, y, i] = (sum(rgb) / 3 + 1) / 2
        for name in ("lineart", "edge"):
            assert_near(postprocess(name, x), oracle)

    def test_depth(self, dtype):
        x = decoded(3, dtype=dtype)
        mean = torch.zeros(2, 5, 7, dtype=torch.float64)
        for b, y, i, rgb in pixels(x):
            mean[b, y, i] = sum(rgb) / 3
        oracle = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in mean])
        assert_near(make_depth_map(x), oracle)
        assert_near(postprocess("depth", x), oracle[:, None].expand(-1, 3, -1, -1))
        assert_near(make_depth_map(x, near="black"), 1 - oracle)
        whole = (mean - mean.min()) / (mean.max() - mean.min())
        assert_near(make_depth_map(x, "batch"), whole)
        cut = (((mean + 1) / 2 - 0.3) / 0.2).clamp(0, 1)
        assert_near(make_depth_map(x, "range", low=0.3, high=0.5), cut, 1e-5)
        assert_near(make_depth_map(x, "range", "black", low=0.3, high=0.5), 1 - cut, 1e-5)

    def test_normal(self, dtype):
        x = decoded(4, dtype=dtype)
        unit = torch.zeros(x.shape, dtype=torch.float64)
        for b, y, i, rgb in pixels(x):
            length = math.sqrt(sum(v * v for v in rgb))
            for c in range(3):
                unit[b, c, y, i] = rgb[c] / length
        assert_near(find_normals(x), unit)
        assert_near(postprocess("normal", x), (unit + 1) / 2)
        for convention, signs in (("opengl", (-1, 1, 1)), ("directx", (-1, -1, 1))):
            turned = unit * torch.tensor(signs)[None, :, None, None]
            assert_near(make_normal_map(x, convention), (turned + 1) / 2)

    def test_segmentation(self, dtype):
        x = decoded(5, height=11, width=13, dtype=dtype)
        index = torch.zeros(2, 11, 13, dtype=torch.uint8)
        for b, y, i, rgb in pixels(x):
            index[b, y, i] = loop_nearest([255 * (v + 1) / 2 for v in rgb], SEGMENTATION_PALETTE)
        ours = find_classes(x)
        assert ours.dtype == torch.uint8
        assert torch.equal(ours, index)
        colors = torch.tensor(SEGMENTATION_PALETTE, dtype=torch.float64) / 255
        assert_near(postprocess("segmentation", x), colors[index.long()].permute(0, 3, 1, 2))


class TestDepth:
    def test_flat_gives_zeros_not_nan(self):
        x = torch.full((2, 3, 4, 4), 0.3)
        x[1] += torch.rand(3, 4, 4) * 1e-7  # rounding, not depth
        for options in ({}, {"normalize": "batch"}, {"near": "black"}):
            assert torch.equal(make_depth_map(x, **options), torch.zeros(2, 4, 4))
        assert torch.equal(postprocess("depth", x), torch.zeros(2, 3, 4, 4))

    def test_one_flat_picture_leaves_the_others_alone(self):
        x = decoded(6)
        alone = make_depth_map(x[:1])
        x[1] = 0.5
        depth = make_depth_map(x)
        assert torch.equal(depth[0], alone[0])
        assert torch.equal(depth[1], torch.zeros(5, 7))

    def test_a_very_slight_slope_is_still_depth(self):
        x = torch.linspace(0.2, 0.201, 8).expand(1, 3, 1, 8)
        depth = make_depth_map(x)[0, 0]
        assert depth[0] == 0 and depth[-1] == 1
        assert (depth.diff() > 0).all()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"normalize": "frame"}, "image, batch, range"),
            ({"near": "grey"}, "white, black"),
            ({"normalize": "range"}, "low=None"),
            ({"normalize": "range", "low": 0.5, "high": 0.5}, "low < high"),
            ({"normalize": "range", "low": math.nan, "high": 1.0}, "low < high"),
            ({"low": 0.1, "high": 0.9}, 'only apply to normalize="range"'),
        ],
    )
    def test_refusals(self, options, words):
        with pytest.raises(JodiError, match=words):
            make_depth_map(decoded(), **options)


class TestNormals:
    def test_zero_length_is_grey(self):
        x = torch.zeros(1, 3, 2, 2)
        x[0, :, 1, 1] = torch.tensor([0.0, 1e-4, 0.0])  # short, but it has a direction
        assert torch.equal(find_normals(x)[0, :, 0, 0], torch.zeros(3))
        assert torch.equal(make_normal_map(x)[0, :, 0, 0], torch.full((3,), 0.5))
        assert torch.allclose(find_normals(x)[0, :, 1, 1], torch.tensor([0.0, 1.0, 0.0]))

    def test_axes(self):
        left = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)  # faces picture left
        up = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1)
        assert make_normal_map(left)[0, 0] == 1
        assert make_normal_map(left, "opengl")[0, 0] == 0  # red is high on the right there
        assert make_normal_map(up, "opengl")[0, 1] == 1
        assert make_normal_map(up, "directx")[0, 1] == 0

    def test_unknown_convention(self):
        with pytest.raises(JodiError, match="model, opengl, directx"):
            make_normal_map(decoded(), "maya")


class TestSegmentation:
    def test_ties_go_to_the_first_class(self):
        for color in ((255, 127, 127), (127, 255, 127), (127, 127, 0), (127, 127, 127)):
            distances = [
                sum((a - b) ** 2 for a, b in zip(color, c, strict=True))
                for c in SEGMENTATION_PALETTE
            ]
            assert distances.count(min(distances)) > 1
            picture = torch.tensor(color, dtype=torch.float32).view(1, 3, 1, 1) / 255
            first = distances.index(min(distances))
            assert find_nearest_color(picture, SEGMENTATION_PALETTE).item() == first
        double = (*SEGMENTATION_PALETTE, *SEGMENTATION_PALETTE)
        picture = colorize(torch.arange(12).view(1, 3, 4))
        assert torch.equal(
            find_nearest_color(picture, double).long(), torch.arange(12).view(1, 3, 4)
        )

    def test_every_palette_entry_comes_back(self):
        index = torch.arange(12, dtype=torch.uint8).view(1, 3, 4)
        picture = colorize(index)
        assert torch.equal(find_classes(picture * 2 - 1), index)
        assert torch.equal(find_classes(preprocess("seg", picture)), index)

    @pytest.mark.parametrize("chunk", [1, 13 * 12, 50 * 12, 10**9])
    def test_the_chunk_changes_nothing(self, chunk):
        x = decoded(7, height=11, width=13).to(memory_format=torch.channels_last)
        assert torch.equal(find_classes(x, chunk), find_classes(x))

    @pytest.mark.slow
    def test_memory_is_bounded(self):
        x = torch.rand(1, 3, 2048, 2048, dtype=torch.bfloat16) * 2 - 1
        result = 2048 * 2048
        with LiveBytes(x) as used:
            find_classes(x)
        # all twelve differences at once would be 604 MB
        assert result < used.peak < result + 16e6
        x, result = x[..., :512, :512].clone(), 512 * 512
        with LiveBytes(x) as small:
            find_classes(x, chunk=12 * 512)
        assert small.peak < result + 5e5

    def test_masks(self):
        index = torch.arange(12).view(1, 3, 4)
        for number, name in enumerate(SEGMENTATION_CLASSES):
            mask = make_class_mask(index, name)
            assert mask.dtype == torch.float32
            assert torch.equal(mask, make_class_mask(index, number))
            assert mask.flatten().nonzero().item() == number
        assert find_class_id(" Sky ") == 6
        for wrong in ("car", 12, -1, True, 1.0):
            with pytest.raises(JodiError, match="8 vehicle"):
                make_class_mask(index, wrong)

    def test_other_colours(self):
        grays = [(v, v, v) for v in range(0, 240, 20)]
        picture = colorize(torch.tensor([[[0, 11]]]), grays)
        assert torch.equal(picture[0, :, 0, 1], torch.full((3,), 220 / 255))
        with pytest.raises(ImageError, match=r"classes 0\.\.1, got 0 to 2"):
            colorize(torch.tensor([[[0, 2]]]), grays[:2])

    @pytest.mark.parametrize(
        "index",
        [torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.long), torch.full((1, 2, 2), -1)],
        ids=["float", "two axes", "negative"],
    )
    def test_wrong_class_maps(self, index):
        with pytest.raises(ImageError):
            colorize(index)


class TestRanges:
    @pytest.mark.parametrize("name", DOMAIN_NAMES)
    def test_every_domain_stays_in_range(self, name):
        picture = postprocess(name, decoded(8, spread=3.0))
        assert picture.dtype == torch.float32
        assert picture.min() >= 0 and picture.max() <= 1

    @pytest.mark.parametrize("d", DOMAINS, ids=DOMAIN_NAMES)
    def test_in_and_out_again(self, d):
        exact = postprocess(d, decoded(9))
        again = postprocess(d.index, preprocess(d.name, exact))
        assert (again - exact).abs().max() < 1e-6

    def test_one_channel_is_repeated_and_the_input_left_alone(self):
        picture = torch.rand(2, 1, 3, 3)
        kept = picture.clone()
        x = preprocess("depth", picture)
        assert torch.equal(picture, kept)
        assert torch.equal(x, (picture * 2 - 1).expand(-1, 3, -1, -1))

    def test_a_little_overshoot_is_clamped(self):
        x = preprocess("image", torch.tensor([-0.1, 0.5, 1.1]).view(1, 1, 1, 3))
        assert x[0, 0, 0].tolist() == [-1.0, 0.0, 1.0]

    @pytest.mark.parametrize(
        ("picture", "words"),
        [
            (torch.rand(1, 3, 2, 2) * 255, "scale it"),
            (torch.linspace(-1, 1, 12).view(1, 3, 2, 2), "got -1 to 1"),
            (torch.full((1, 3, 2, 2), math.nan), "got nan"),
            (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "divide by 255"),
            (torch.zeros(3, 2, 2), "(3, 2, 2)"),
            (torch.zeros(1, 4, 2, 2), "(1, 4, 2, 2)"),
            (torch.zeros(1, 3, 0, 2), "(1, 3, 0, 2)"),
        ],
    )
    def test_pictures_of_another_range_or_shape(self, picture, words):
        with pytest.raises(ImageError) as error:
            preprocess("normal", picture)
        assert "normal: expected" in str(error.value)
        assert words in str(error.value)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("name", DOMAIN_NAMES)
    def test_a_broken_decode_is_not_drawn(self, name, value):
        x = decoded()
        x[1, 2, 3, 4] = value
        with pytest.raises(ImageError, match="not finite"):
            postprocess(name, x)

    def test_wrong_shapes(self):
        for x in (torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4).int()):
            with pytest.raises(ImageError, match="decoder output of shape"):
                postprocess("depth", x)


class TestForeignDepth:
    def test_larger_is_nearer(self):
        values = torch.tensor([[[2.0, 4.0, 10.0]], [[0.0, 1.0, 2.0]]])
        for shaped in (values, values[:, None], values[:, None].expand(-1, 3, -1, -1)):
            picture = read_depth(shaped)
            assert torch.allclose(picture[:, 0, 0], torch.tensor([[0, 0.25, 1], [0, 0.5, 1]]))
            assert picture.shape == (2, 3, 1, 3)

    def test_larger_is_farther(self):
        picture = read_depth(torch.tensor([[[2.0, 4.0, 10.0]]]), near="black")
        assert torch.allclose(picture[0, 2, 0], torch.tensor([1.0, 0.75, 0.0]))

    def test_distances_become_disparity(self):
        metres = torch.tensor([[[1.0, 2.0, 4.0, math.inf, math.nan, 0.0, -1.0]]])
        picture = read_depth(metres, near="distance")[0, 0, 0]
        # 1, 1/2, 1/4 stretched to 0..1; what has no distance is as far as the farthest
        assert torch.allclose(picture, torch.tensor([1.0, 1 / 3, 0, 0, 0, 0, 0]))

    def test_flat_and_empty(self):
        for near in ("white", "black", "distance"):
            flat = read_depth(torch.full((1, 2, 2), 7.0), near)
            assert torch.equal(flat, torch.zeros(1, 3, 2, 2))
        with pytest.raises(ImageError, match="no pixel"):
            read_depth(torch.full((1, 2, 2), math.nan))
        with pytest.raises(ImageError, match="expected shape"):
            read_depth(torch.zeros(2, 2))

    def test_small_and_large_units(self):
        values = torch.rand(1, 4, 4)
        near = read_depth(values)
        for unit in (1e-4, 1e6):
            assert torch.allclose(read_depth(values * unit), near, atol=1e-4)
            metric = read_depth((values + 1) * unit, "distance")
            assert metric.min() == 0 and metric.max() == 1


class TestForeignNormals:
    @pytest.mark.parametrize("convention", ["model", "opengl", "directx"])
    def test_inverse_of_our_own_drawing(self, convention):
        x = decoded(10)
        drawn = make_normal_map(x, convention)
        back = read_normals(drawn, convention)
        assert (back - make_normal_map(x)).abs().max() < 1e-6

    def test_nothing_here_becomes_grey(self):
        for value in (0.0, 127 / 255, 128 / 255, 0.5):
            picture = torch.full((1, 3, 2, 2), value)
            back = read_normals(picture, "directx")
            assert torch.equal(back, torch.full((1, 3, 2, 2), 0.5))

    def test_unknown_convention(self):
        with pytest.raises(JodiError, match="opengl"):
            read_normals(torch.rand(1, 3, 2, 2), "unreal")


class TestForeignSegmentation:
    def test_indices(self):
        index = torch.arange(151).view(1, 1, 151)
        ours = read_ade20k(index)
        assert ours.dtype == torch.uint8
        assert bytes(ours.flatten().tolist()) == ADE20K_TO_12
        zero_based = read_ade20k(index[..., :150].to(torch.uint8), zero_based=True)
        assert bytes(zero_based.flatten().tolist()) == ADE20K_TO_12[1:]

    def test_colours(self):
        colors = torch.tensor([(0, 0, 0), *ADE20K_PALETTE], dtype=torch.float32) / 255
        picture = colors.T.reshape(1, 3, 1, 151)
        expected = bytearray(ADE20K_TO_12)
        expected[49] = ADE20K_TO_12[7]  # the two share a colour
        noisy = picture + 0.003  # jpeg would do worse
        for p in (picture, noisy):
            ours = read_ade20k(p, chunk=151 * 10)
            assert bytes(ours.flatten().tolist()) == bytes(expected)

    def test_colours_in_bounded_memory(self):
        picture = torch.rand(1, 3, 256, 256)
        with LiveBytes(picture) as used:
            read_ade20k(picture)
        assert used.peak < picture.nbytes * 2 + 16e6  # all comparisons at once: 119 MB

    def test_refusals(self):
        with pytest.raises(ImageError, match=r"0\.\.149"):
            read_ade20k(torch.full((1, 1, 1), 150), zero_based=True)
        with pytest.raises(ImageError, match="class map"):
            read_ade20k(torch.zeros(2, 2))
