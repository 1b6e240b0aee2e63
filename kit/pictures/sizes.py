"""Sizes on a grid: the nearest one, and the one of a given area."""

import math

from ..errors import ShapeError


def snap_size(height: float, width: float, factor: int) -> tuple[int, int]:
    """(height, width) rounded to multiples of `factor`, halves up, at least one multiple."""
    _positive("size and factor", height, width, factor)
    h, w = (max(1, math.floor(side / factor + 0.5)) * factor for side in (height, width))
    return h, w


def area_size(height: int, width: int, pixels: int, factor: int) -> tuple[int, int]:
    """Size of about `pixels` pixels with the picture's own ratio, in multiples of `factor`."""
    _positive("size and pixels", height, width, pixels)
    scale = math.sqrt(pixels / (height * width))
    return snap_size(height * scale, width * scale, factor)


def _positive(what: str, *sides: float) -> None:
    if not all(side > 0 for side in sides):
        raise ShapeError(f"{what} must be positive, got {' x '.join(map(str, sides))}")
