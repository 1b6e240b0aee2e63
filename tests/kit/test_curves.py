"""Loss curves as a picture."""

import math
import random

import pytest
import torch
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.training import curves as plot
from jodi_pack.kit.training.curves import plot_curves, running_mean

ROWS = [
    {"step": 50 * i, "time": 1.0, "samples_per_s": 9.0, "image": 2 / i, "task.free": 3.0 / i**2}
    for i in range(1, 41)
]


def blue(picture):
    """Pixels of the dark lines."""
    color = torch.tensor(plot.LINE)[:, None, None] / 255
    return (picture - color).abs().amax(0) < 0.15


def test_one_plot_for_each_loss_and_none_for_the_rest():
    sheet = plot_curves(ROWS, "title")
    assert sheet.shape == (3, plot.HEIGHT + 24, 2 * plot.WIDTH)
    left, right = blue(sheet)[:, : plot.WIDTH], blue(sheet)[:, plot.WIDTH :]
    assert left.sum() > 200 and right.sum() > 200
    six = [{"step": 1, **{f"loss{i}": 1.0 + i for i in range(6)}}]
    assert plot_curves(six).shape == (3, 2 * plot.HEIGHT + 24, plot.COLUMNS * plot.WIDTH)


def test_a_falling_loss_falls_on_the_picture():
    inside = blue(plot_curves(ROWS))[24 + plot.TOP : -plot.BOTTOM, plot.LEFT : plot.WIDTH]
    heights = [column.nonzero().float().mean() for column in inside.T if column.any()]
    first, last = heights[5], heights[-5]
    assert last - first > 60, "rows count downwards"
    assert all(b >= a - 2 for a, b in zip(heights, heights[4:], strict=False))


def test_what_a_logarithmic_axis_cannot_show_is_left_out():
    rows = [*ROWS, {"step": 3000, "image": math.nan, "task.free": 0.0, "note": "text"}]
    assert plot_curves(rows).shape == plot_curves(ROWS).shape
    with pytest.raises(JodiError, match="no losses"):
        plot_curves([{"step": 1, "image": math.inf}])
    with pytest.raises(JodiError, match="no losses"):
        plot_curves([])


def test_running_mean_is_the_mean_of_the_neighbours():
    curve = [(i, random.Random(i).random()) for i in range(100)]
    for (step, mean), i in zip(running_mean(curve, share=0.1), range(100), strict=True):
        near = [v for s, v in curve if abs(s - i) <= 5]
        assert step == i and math.isclose(mean, sum(near) / len(near))


@pytest.mark.parametrize("span", [(1.0, 1.01), (0.5, 3.0), (1e-4, 0.02), (1e-9, 1e4), (0.3, 0.3)])
def test_axes_have_a_few_round_ticks(span):
    axes = plot._Axes((0, 10), [(0, span[0]), (10, span[1])])
    ticks = axes.ticks()
    assert len(ticks) <= 6
    assert all(axes.low <= math.log10(t) <= axes.high for t in ticks)
    if span[1] / span[0] > 1.5:
        assert len(ticks) >= 2
