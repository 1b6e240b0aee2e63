"""Loss curves of a run as one picture: a small plot for each domain, and one for each task."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import JodiError
from ..pictures.contact_sheet import font, write

WIDTH, HEIGHT, COLUMNS = 300, 190, 4
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 28, 22
"""Pixels of a plot, and of the margins around its axes."""

PAPER, INK, FAINT, GRID = (255, 255, 255), (40, 42, 48), (150, 182, 216), (230, 231, 234)
LINE = (31, 96, 163)
FINE = 3
"""Lines are drawn this much larger and shrunk, which smooths them."""

NOT_LOSSES = ("step", "time", "pictures_per_s", "samples_per_s")


def plot_curves(rows: Sequence[dict], title: str = "") -> Tensor:
    """Every loss in the reports of a run over its steps: (3, H, W) float32 in [0, 1].

    rows: as `RunFolder.read_log` gives them. Values are on a logarithmic axis; the pale line is the
    reported loss, the dark line its running mean, and the number in the corner the last value of
    that.
    Raises: JodiError when there is nothing to draw.
    """
    names = list(dict.fromkeys(k for row in rows for k in row if k not in NOT_LOSSES))
    curves = {name: curve for name in names if (curve := _curve(rows, name))}
    if not curves:
        raise JodiError("the log holds no losses yet; train for longer, then draw the curves")
    steps = [row["step"] for row in rows]
    lines = math.ceil(len(curves) / COLUMNS)
    width, height = min(len(curves), COLUMNS) * WIDTH, lines * HEIGHT + 24
    places = [(i % COLUMNS * WIDTH, 24 + i // COLUMNS * HEIGHT) for i in range(len(curves))]
    axes = [_Axes((min(steps), max(steps)), curve) for curve in curves.values()]
    large = Image.new("RGB", (width * FINE, height * FINE), PAPER)
    for place, axis, curve in zip(places, axes, curves.values(), strict=True):
        _draw_lines(ImageDraw.Draw(large), place, axis, curve)
    sheet = large.resize((width, height), Image.Resampling.BOX)
    draw = ImageDraw.Draw(sheet)
    write(draw, (8, 6), title, 14, INK, width - 16)
    for place, axis, (name, curve) in zip(places, axes, curves.items(), strict=True):
        _write_texts(draw, place, axis, name, curve)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).to(torch.float32).div_(255)


Curve = list[tuple[int, float]]


def running_mean(curve: Curve, share: float = 0.06) -> Curve:
    """Each value averaged with those around it, over `share` of the reports (at least three)."""
    reach = max(1, round(len(curve) * share / 2))
    means = []
    for i, (step, _) in enumerate(curve):
        near = [v for _, v in curve[max(0, i - reach) : i + reach + 1]]
        means.append((step, sum(near) / len(near)))
    return means


def _curve(rows: Sequence[dict], name: str) -> Curve:
    """Points that a logarithmic axis can show."""
    values = [(row["step"], row.get(name)) for row in rows]
    return [(s, float(v)) for s, v in values if isinstance(v, (int, float)) and 0 < v < math.inf]


class _Axes:
    """Where steps and values lie inside a plot."""

    def __init__(self, steps: tuple[int, int], curve: Curve):
        self.first, self.last = steps
        low, high = (math.log10(f(v for _, v in curve)) for f in (min, max))
        room = max(0.05, 0.06 * (high - low))
        self.low, self.high = low - room, high + room

    def at(self, step: float, value: float) -> tuple[float, float]:
        x = (step - self.first) / max(1, self.last - self.first)
        y = (math.log10(value) - self.low) / (self.high - self.low)
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + x * across, TOP + (1 - y) * down

    def ticks(self) -> list[float]:
        """Two to six round values: 1, 2 and 5 times powers of ten, fewer on a long axis."""
        powers = range(math.floor(self.low) - 1, math.ceil(self.high) + 1)
        for leads in (
            (1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
            (1, 2, 3, 5, 7),
            (1, 2, 5),
            (1, 3),
            (1,),
        ):
            found = [m * 10.0**p for p in powers for m in leads]
            found = [v for v in found if self.low <= math.log10(v) <= self.high]
            if len(found) <= 6:
                break
        step = -(-len(found) // 6) or 1
        return found[::step]


def _draw_lines(draw: ImageDraw.ImageDraw, place, axes: _Axes, curve: Curve) -> None:
    def on_sheet(step, value):
        x, y = axes.at(step, value)
        return (place[0] + x) * FINE, (place[1] + y) * FINE

    for value in axes.ticks():
        ends = [on_sheet(axes.first, value), on_sheet(max(axes.last, axes.first + 1), value)]
        draw.line(ends, GRID, FINE)
    draw.line([on_sheet(*point) for point in curve], FAINT, FINE, joint="curve")
    smooth = [on_sheet(*point) for point in running_mean(curve)]
    draw.line(smooth, LINE, 2 * FINE, joint="curve")
    if len(curve) == 1:
        x, y = smooth[0]
        draw.ellipse([x - 2 * FINE, y - 2 * FINE, x + 2 * FINE, y + 2 * FINE], LINE)


def _write_texts(draw: ImageDraw.ImageDraw, place, axes: _Axes, name: str, curve: Curve) -> None:
    left, top = place
    write(draw, (left + LEFT, top + 8), name, 13, INK, 130)
    last = f"{running_mean(curve)[-1][1]:.3g}"
    right = left + WIDTH - RIGHT
    write(draw, (right - font(13).getlength(last), top + 8), last, 13, LINE)
    for value in axes.ticks():
        _, y = axes.at(axes.first, value)
        write(draw, (left + 6, top + y - 7), f"{value:.3g}", 11, INK, LEFT - 8)
    write(draw, (left + LEFT, top + HEIGHT - BOTTOM + 4), f"{axes.first:,}", 11, INK)
    end = f"{axes.last:,} steps"
    write(draw, (right - font(11).getlength(end), top + HEIGHT - BOTTOM + 4), end, 11, INK)
