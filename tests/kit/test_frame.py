"""Sizes, fitting and the way back: geometry as published, inverse exact, any shape of input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.jodi_core.job.size import ASPECT_BINS, find_nearest_bin, scale_bins
from jodi_pack.kit.errors import ImageError, ShapeError
from jodi_pack.kit.pictures import frame as images
from jodi_pack.kit.pictures.frame import Frame, fit, restore
from jodi_pack.tests.jodi_core.live_bytes import LiveBytes

side = st.integers(1, 48)
long_side = st.integers(1, 5000)
modes = st.sampled_from(["crop", "pad"])
quick = settings(max_examples=100, deadline=None)


def ramp(height, width):
    """(1, 2, H, W): each pixel holds its own row and column."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x])[None].float()


def start_of(frame):
    """Row and column of the resized original that the fitted picture's corner shows."""
    return (frame.top, frame.left) if frame.mode == "crop" else (-frame.top, -frame.left)


def to_original(frame, y, x):
    """Coordinates in the original of a point (y, x) in the fitted picture."""
    top, left = start_of(frame)
    return (
        (y + top + 0.5) * frame.original_h / frame.resized_h - 0.5,
        (x + left + 0.5) * frame.original_w / frame.resized_w - 0.5,
    )


def shown_of_original(frame):
    """(H, W) bool: original pixels whose centre the fitted picture shows."""
    y, x = frame.to_fitted(
        torch.arange(frame.original_h, dtype=torch.float64),
        torch.arange(frame.original_w, dtype=torch.float64),
    )
    rows = (y >= -0.5) & (y <= frame.height - 0.5)
    return rows[:, None] & ((x >= -0.5) & (x <= frame.width - 0.5))[None, :]


def shows_original(frame):
    """(h, w) bool: fitted pixels that show the original; False on padding."""
    top, left = start_of(frame)
    rows = torch.arange(frame.height) + top
    columns = torch.arange(frame.width) + left
    inside = (rows >= 0) & (rows < frame.resized_h)
    return inside[:, None] & ((columns >= 0) & (columns < frame.resized_w))[None, :]


def loop_resize_axis(values, out):
    """Antialiased bilinear of a list of numbers to `out` numbers, from its definition."""
    scale = len(values) / out
    radius = max(1.0, scale)
    result = []
    for i in range(out):
        centre = (i + 0.5) * scale
        weights = [max(0.0, 1 - abs(k + 0.5 - centre) / radius) for k in range(len(values))]
        total = sum(weights)
        result.append(sum(w * v for w, v in zip(weights, values, strict=True)) / total)
    return result


def loop_resize(picture, height, width):
    """(H, W) nested lists -> (height, width) nested lists, in float64."""
    columns = [loop_resize_axis(list(c), height) for c in zip(*picture, strict=True)]
    return [loop_resize_axis(list(r), width) for r in zip(*columns, strict=True)]


class TestSizes:
    def test_bins_are_the_published_ones(self):
        assert len(ASPECT_BINS) == 15
        tokens = {b.label: b.height * b.width // 1024 for b in ASPECT_BINS}
        assert set(tokens.values()) == {1024, 972, 1000, 968, 864, 952}
        for b in ASPECT_BINS:
            assert b.height % 32 == b.width % 32 == 0
            assert abs(float(b.label) - b.height / b.width) < 0.006
            twin = next(o for o in ASPECT_BINS if (o.height, o.width) == (b.width, b.height))
            assert tokens[twin.label] == tokens[b.label]

    @pytest.mark.parametrize(
        ("height", "width", "label"),
        [
            (1024, 1024, "1.0"),
            (1080, 1920, "0.5"),  # 0.5625 is nearer to 0.5 than to 0.67
            (1920, 1080, "2.0"),  # 1.78 is nearer to 2.0 than to 1.5
            (9, 4, "2.0"),  # 2.25 lies between 2.0 and 2.5: the first wins
            (7, 2, "3.0"),
            (1, 100000, "0.25"),
            (100000, 1, "4.0"),
        ],
    )
    def test_nearest_bin(self, height, width, label):
        assert find_nearest_bin(height, width).label == label

    @quick
    @given(long_side, long_side)
    def test_nearest_bin_is_nearest(self, height, width):
        distance = [abs(float(b.label) - height / width) for b in ASPECT_BINS]
        chosen = find_nearest_bin(height, width)
        assert ASPECT_BINS.index(chosen) == distance.index(min(distance))

    def test_scaled_bins(self):
        assert scale_bins(32) == ASPECT_BINS
        for bins, factor, square in (
            (scale_bins(8), 8, 256),
            (scale_bins(8, 64), 8, 64),
        ):
            assert [b.label for b in bins] == [b.label for b in ASPECT_BINS]
            assert (bins[7].height, bins[7].width) == (square, square)
            for b, published in zip(bins, ASPECT_BINS, strict=True):
                assert b.height % factor == b.width % factor == 0
                assert abs(b.height - published.height * square / 1024) <= factor / 2
        assert min(b.height for b in scale_bins(32, 32)) == 32

    def test_snap(self):
        assert images.snap_size(1000, 1050, 32) == (992, 1056)
        assert images.snap_size(48, 80, 32) == (64, 96)  # halves up
        assert images.snap_size(1, 3, 32) == (32, 32)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: find_nearest_bin(0, 5),
            lambda: scale_bins(0),
            lambda: images.snap_size(5, 5, -8),
            lambda: Frame.fitting((5, 5), (0, 5)),
            lambda: Frame.fitting((0, 5), (5, 5)),
            lambda: Frame.fitting((5, 5), (5, 5), "stretch"),
            lambda: Frame(5, 5, 5, 5, 1, 0, 5, 5),
            lambda: Frame(5, 5, 5, 5, 0, 0, 4, 4, "pad"),
        ],
    )
    def test_impossible_sizes(self, call):
        with pytest.raises(ShapeError):
            call()


class TestFrame:
    @quick
    @given(long_side, long_side, st.sampled_from(ASPECT_BINS))
    def test_crop_is_the_published_one(self, height, width, size):
        frame = Frame.fitting((height, width), (size.height, size.width))
        if size.height / height > size.width / width:
            resized = size.height, int(width * size.height / height)
        else:
            resized = int(height * size.width / width), size.width
        assert (frame.resized_h, frame.resized_w) == resized
        assert frame.top == round((resized[0] - size.height) / 2)
        assert frame.left == round((resized[1] - size.width) / 2)

    def test_margins_are_rounded_half_to_even(self):
        assert Frame.fitting((10, 15), (10, 10)).left == 2  # 2.5
        assert Frame.fitting((10, 17), (10, 10)).left == 4  # 3.5

    @quick
    @given(st.integers(1, 400), st.integers(1, 400), side, side)
    def test_pad_shows_everything(self, height, width, h, w):
        frame = Frame.fitting((height, width), (h, w), "pad")
        assert shown_of_original(frame).all()
        assert h == frame.resized_h or w == frame.resized_w
        assert shows_original(frame).sum() == frame.resized_h * frame.resized_w
        exact = min(h / height, w / width)
        assert abs(frame.resized_h - max(1, height * exact)) <= 0.5 + 1e-9
        assert abs(frame.resized_w - max(1, width * exact)) <= 0.5 + 1e-9

    @quick
    @given(long_side, long_side, side, side, modes)
    def test_there_and_back(self, height, width, h, w, mode):
        frame = Frame.fitting((height, width), (h, w), mode)
        for y, x in ((0, 0), (h - 1, w - 1), (3.25, -7.5)):
            back = frame.to_fitted(*to_original(frame, y, x))
            assert back == pytest.approx((y, x), abs=1e-6)
        # the middle of one is the middle of the other, to a whole pixel of rounded margin
        middle = to_original(frame, (h - 1) / 2, (w - 1) / 2)
        assert abs(middle[0] - (height - 1) / 2) <= height / frame.resized_h
        assert abs(middle[1] - (width - 1) / 2) <= width / frame.resized_w

    def test_masks(self):
        crop = Frame.fitting((4, 8), (4, 4))
        assert shown_of_original(crop).sum(dim=1).tolist() == [4] * 4
        assert shown_of_original(crop)[0].tolist() == [False] * 2 + [True] * 4 + [False] * 2
        assert shows_original(crop).all()
        pad = Frame.fitting((4, 8), (8, 8), "pad")
        assert shows_original(pad)[:, 0].tolist() == [False] * 2 + [True] * 4 + [False] * 2


class TestFit:
    @pytest.mark.long
    @quick
    @given(side, side, side, side, st.integers(0, 99))
    def test_crop_rounds_like_the_published_resize(self, height, width, h, w, seed):
        picture = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
        ours, f = fit(picture, (h, w))
        whole = F.interpolate(
            picture,
            (f.resized_h, f.resized_w),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        published = whole[:, :, f.top : f.top + h, f.left : f.left + w]
        assert ours.shape == (2, 3, h, w) and ours.dtype == torch.float32
        if f.resized_w == 1:
            return  # torch's own is wrong there; the float64 loop below covers it
        if f.resized_h * f.resized_w <= 4 * max(height * width, h * w):
            assert torch.equal(ours, published)
        else:
            assert (ours - published).abs().max() < 1e-5

    @pytest.mark.parametrize("size", [(4, 6), (9, 7), (1, 1), (17, 3), (5, 40)])
    @pytest.mark.parametrize("original", [(5, 7), (11, 3), (2, 13), (9, 1)])
    @pytest.mark.parametrize("mode", ["crop", "pad"])
    def test_against_a_float64_loop(self, original, size, mode):
        picture = torch.rand(*original, generator=torch.Generator().manual_seed(1))
        ours, f = fit(picture[None, None], size, mode)
        whole = torch.tensor(loop_resize(picture.double().tolist(), f.resized_h, f.resized_w))
        for y in range(size[0]):
            for x in range(size[1]):
                if mode == "crop":
                    value = whole[y + f.top, x + f.left]
                else:
                    inside_y = min(max(y - f.top, 0), f.resized_h - 1)
                    value = whole[inside_y, min(max(x - f.left, 0), f.resized_w - 1)]
                assert abs(ours[0, 0, y, x] - value) < 1e-5

    def test_a_picture_that_fits_is_left_alone(self):
        picture = torch.rand(1, 3, 8, 8)
        for mode in ("crop", "pad"):
            fitted, frame = fit(picture, (8, 8), mode)
            assert frame.unchanged
            assert torch.equal(fitted, picture)
        cut, frame = fit(torch.arange(8.0).expand(1, 1, 4, 8), (4, 4))
        assert not frame.unchanged
        assert torch.equal(cut[0, 0, 0], torch.arange(2.0, 6.0))

    @quick
    @given(side, side, side, side, modes, st.sampled_from([torch.uint8, torch.int64, torch.half]))
    def test_palettes_take_whole_pixels(self, height, width, h, w, mode, dtype):
        picture = ramp(height, width).to(dtype)
        fitted, f = fit(picture, (h, w), mode, palette=True)
        assert fitted.dtype == dtype
        for axis, length, resized, start, out in (
            (0, height, f.resized_h, f.top, h),
            (1, width, f.resized_w, f.left, w),
        ):
            for i in range(out):
                place = i + start if mode == "crop" else min(max(i - start, 0), resized - 1)
                # whole numbers: floor((place + 1/2) * length / resized)
                source = (2 * place + 1) * length // (2 * resized)
                line = fitted[0, axis].select(axis, i)
                assert (line == source).all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_float_comes_out_as_float32(self, dtype):
        fitted, _ = fit(torch.full((1, 3, 5, 9), 0.25, dtype=dtype), (4, 4))
        assert torch.allclose(fitted, torch.full((1, 3, 4, 4), 0.25))
        assert fitted.dtype == torch.float32

    def test_wrong_pictures(self):
        for picture in (
            torch.zeros(3, 4, 4),
            torch.zeros(1, 3, 0, 4),
            torch.zeros(1, 3, 4, 4).byte(),
        ):
            with pytest.raises(ImageError):
                fit(picture, (4, 4))


class TestRestore:
    @quick
    @given(side, side, side, side, modes)
    def test_every_pixel_comes_home(self, height, width, h, w, mode):
        picture = ramp(height, width)
        fitted, frame = fit(picture, (h, w), mode, palette=True)
        back = restore(fitted, frame, palette=True)
        assert back.shape == picture.shape
        valid = shown_of_original(frame)
        for axis, scale in ((0, height / frame.resized_h), (1, width / frame.resized_w)):
            error = (back - picture)[0, axis][valid].abs()
            if scale <= 1 and len(error):
                assert error.max() == 0  # nothing was lost
            elif len(error):
                assert error.max() <= (scale + 1) / 2  # half a pixel on each side

    @quick
    @given(side, side, side, side, modes)
    def test_smooth_maps_land_where_they_were(self, height, width, h, w, mode):
        picture = ramp(height, width)
        fitted, frame = fit(picture, (h, w), mode)
        back = restore(fitted, frame)
        assert back.shape == picture.shape and back.dtype == torch.float32
        assert back.min() >= fitted.min() - 1e-3 and back.max() <= fitted.max() + 1e-3
        # A slope survives resizing both ways, except where a filter hangs over the edge.
        y, x = frame.to_fitted(torch.arange(height).double(), torch.arange(width).double())
        for axis, at, out, scale, length in (
            (0, y, h, height / frame.resized_h, height),
            (1, x, w, width / frame.resized_w, width),
        ):
            reach = max(1, scale) + max(1, 1 / scale) * scale
            i = torch.arange(length)
            inside = (i > reach) & (i < length - 1 - reach)
            inside &= (at > 1 + 1 / scale) & (at < out - 2 - 1 / scale)
            error = (back - picture)[0, axis].select(1 - axis, 0)[inside].abs()
            # an antialiasing filter's centre of mass strays by up to 0.07 of its pitch
            assert not len(error) or error.max() < 0.1 * max(1, scale)

    @pytest.mark.parametrize("original", [(1, 1), (3, 500), (500, 3), (1, 4000), (700, 2), (1, 2)])
    @pytest.mark.parametrize("mode", ["crop", "pad"])
    @pytest.mark.parametrize("palette", [True, False])
    def test_very_small_and_very_long(self, original, mode, palette):
        size = find_nearest_bin(*original, scale_bins(8, 128))
        picture = ramp(*original)
        fitted, frame = fit(picture, (size.height, size.width), mode, palette)
        assert fitted.shape[-2:] == (size.height, size.width)
        back = restore(fitted, frame, palette)
        assert back.shape == picture.shape
        assert back.isfinite().all()
        if mode == "pad" or original == (1, 1):
            allowed = max(1.0, original[0] / frame.resized_h, original[1] / frame.resized_w)
            assert (back - picture).abs().max() <= allowed

    def test_extreme_enlargement_costs_what_its_result_costs(self):
        picture = torch.rand(1, 3, 3, 500)
        with LiveBytes(picture) as used:
            fitted, frame = fit(picture, (128, 512))
            restore(fitted, frame)
        assert frame.resized_w == 21333  # 33 MB, were it made
        assert used.peak < 5 * fitted.nbytes

    def test_cropped_away_repeats_the_edge(self):
        picture = torch.arange(8.0).expand(1, 1, 4, 8)
        fitted, frame = fit(picture, (4, 4))
        assert restore(fitted, frame)[0, 0, 0].tolist() == [2, 2, 2, 3, 4, 5, 5, 5]

    def test_padding_does_not_bleed(self):
        picture = torch.rand(1, 1, 8, 20)
        fitted, frame = fit(picture, (32, 32), "pad")
        poisoned = torch.where(shows_original(frame), fitted, torch.nan)
        assert torch.equal(restore(poisoned, frame), restore(fitted, frame))

    def test_wrong_maps(self):
        _, frame = fit(torch.rand(1, 3, 5, 9), (4, 4))
        with pytest.raises(ShapeError, match=r"a map of 4 x 4 pixels .* got 4 x 5"):
            restore(torch.rand(1, 3, 4, 5), frame)
        with pytest.raises(ImageError):
            restore(torch.rand(3, 4, 4), frame)
        with pytest.raises(ImageError, match="classes"):
            restore(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), frame)


def test_bilinear_window_equals_the_whole_resize():
    """The windowed sampler against torch's own resize, enlarging and shrinking."""
    g = torch.Generator().manual_seed(2)
    for height, width, h, w in ((5, 9, 13, 40), (40, 13, 9, 5), (30, 30, 7, 64), (1, 8, 6, 3)):
        picture = torch.rand(1, 2, height, width, generator=g)
        frame = Frame(height, width, h, w, 0, 0, h, w)
        y, x = to_original(frame, torch.arange(h).double(), torch.arange(w).double())
        ours = images._bilinear(picture, y, x, (height / h, width / w))
        whole = F.interpolate(picture, (h, w), mode="bilinear", antialias=True)
        assert (ours - whole).abs().max() < 1e-5
