"""Edge F: the matching against exhaustive search, the thinning on lines drawn by hand."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.evaluation import edges


def _largest_matching(predicted, truth, tolerance):
    """Size of the largest one-to-one matching, by trying everything."""
    near = [[j for j, t in enumerate(truth) if np.hypot(*(p - t)) <= tolerance] for p in predicted]

    @lru_cache(None)
    def best(i, used):
        if i == len(near):
            return 0
        takes = [1 + best(i + 1, used | 1 << j) for j in near[i] if not used >> j & 1]
        return max([best(i + 1, used), *takes])

    return best(0, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tolerance", [0.68, 1.0, 1.5, 2.3])
def test_matching_is_the_largest_at_every_threshold(seed, tolerance):
    generator = np.random.default_rng(seed)
    truth = generator.random((5, 6)) < 0.3
    strength = np.where(generator.random((5, 6)) < 0.35, generator.random((5, 6)), 0)
    present, matched = edges.count_matches(strength, truth, tolerance)
    for k, threshold in enumerate(edges.THRESHOLDS):
        predicted = np.argwhere(strength >= threshold)
        assert present[k] == len(predicted)
        assert matched[k] == _largest_matching(predicted, np.argwhere(truth), tolerance)


def test_threshold_is_inclusive_in_float32():
    strength = np.zeros((4, 4), np.float32)
    strength[1, 1], strength[2, 3] = np.float32(0.3), np.float32(0.7)
    present, _ = edges.count_matches(strength, strength > 0, 1.0)
    assert present[29] == 2 and present[30] == 1  # thresholds 0.30 and 0.31
    assert present[69] == 1 and present[70] == 0


def test_a_weak_pixel_never_takes_a_match_from_the_strong_ones():
    """One true pixel, two predictions: the count stays one and precision falls."""
    truth = np.zeros((5, 5), bool)
    truth[2, 2] = True
    strength = np.zeros((5, 5))
    strength[2, 1], strength[2, 3] = 0.9, 0.4
    present, matched = edges.count_matches(strength, truth, 1.0)
    assert (present[0], matched[0]) == (2, 1)
    assert (present[80], matched[80]) == (1, 1)


def test_matching_is_quick_on_a_full_picture():
    """Everything is an edge, nearly everything fails: the case that must not go quadratic."""
    generator = np.random.default_rng(0)
    truth = generator.random((64, 64)) < 0.1
    present, matched = edges.count_matches(np.ones((64, 64)), truth, 1.5)
    assert present[0] == 4096 and matched[0] == truth.sum()


def test_f_measure_by_hand():
    matched, predicted, true = np.array([6, 0, 0]), np.array([8, 5, 0]), np.array([12, 0, 0])
    assert edges.f_measure(matched, predicted, true).tolist() == [2 * 0.75 * 0.5 / 1.25, 0, 0]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("direction", ["row", "column", "diagonal"])
def test_thinning_leaves_one_pixel_across_a_line(width, direction):
    line = torch.zeros(1, 24, 24)
    for i in range(24):
        for w in range(width):
            y, x = {"row": (11 + w, i), "column": (i, 11 + w), "diagonal": (i, i + w)}[direction]
            if x < 24:
                line[0, y, x] = 1
    thinned = edges.thin(line)[0] > 0
    inner = slice(4, 20)
    across = thinned.sum(dim=0 if direction == "row" else 1)[inner]
    assert across.eq(1).all()
    assert (line[0][thinned] == 1).all()


def test_thinning_keeps_strengths_and_drops_flats():
    flat = torch.full((1, 16, 16), 0.7)
    assert edges.thin(flat)[0, 2:-2, 2:-2].eq(0).all()
    soft = torch.zeros(1, 16, 16)
    soft[0, :, 7:10] = torch.tensor([0.3, 0.8, 0.3])
    assert edges.thin(soft)[0, 3:-3].unique().tolist() == pytest.approx([0.0, 0.8])


def test_thinning_keeps_two_lines_two_pixels_apart():
    lines = torch.zeros(1, 16, 16)
    lines[0, :, 6] = lines[0, :, 8] = 1
    kept = edges.thin(lines)[0, 4:12] > 0
    assert kept.sum(dim=1).eq(2).all() and kept[:, 6].all() and kept[:, 8].all()


def test_a_band_is_not_a_line_and_its_sides_are_not_either():
    band = torch.zeros(1, 24, 24)
    band[0, :, 8:17] = 1
    assert edges.thin(band)[0, 4:-4].eq(0).all()


def test_thinning_keeps_a_closed_curve_whole():
    """Every pixel of a thin circle keeps two neighbours; nothing else is left over."""
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    radius = (y - 16).hypot(x - 16)
    kept = (edges.thin((1 - (radius - 10).abs()).clamp(min=0)[None]) > 0)[0]
    assert (radius[kept] - 10).abs().max() < 1
    neighbours = torch.nn.functional.conv2d(kept[None, None].float(), torch.ones(1, 1, 3, 3))
    assert (neighbours[0, 0][kept[1:-1, 1:-1]] - 1).ge(2).all()


def test_thinning_finds_a_line_on_the_border():
    line = torch.zeros(1, 16, 16)
    line[0, :, 0] = 1
    assert (edges.thin(line)[0, 3:-3, 0] == 1).all()


def test_thinning_is_the_same_in_any_batch():
    maps = torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(0))
    together = edges.thin(maps)
    for i in range(3):
        assert torch.equal(edges.thin(maps[i : i + 1])[0], together[i])


def test_class_borders():
    index = torch.zeros(1, 4, 4, dtype=torch.uint8)
    index[0, :, 2:] = 5
    assert edges.find_class_borders(index)[0].nonzero().tolist() == [[y, 1] for y in range(4)]


def test_sobel_of_a_step_is_the_step():
    picture = torch.zeros(1, 3, 8, 8)
    picture[..., 4:] = 0.5
    response = edges.sobel(picture)[0]
    assert response.max() == 1 and (response[:, 3:5] == 1).all() and response[:, :3].eq(0).all()
    assert edges.sobel(torch.full((1, 3, 8, 8), 0.3)).max() < 1e-6


def test_tolerance_is_stated_in_pixels():
    assert edges.find_tolerance(64, 64) == 1.5
    assert edges.find_tolerance(321, 481) == pytest.approx(4.337, abs=1e-3)
