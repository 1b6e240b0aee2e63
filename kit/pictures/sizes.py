"""The nearest size on a grid."""

import math

from ..errors import ShapeError


def snap_size(height: float, width: float, factor: int) -> tuple[int, int]:
    """(height, width) rounded to multiples of `factor`, halves up, at least one multiple."""
    _positive("size and factor", height, width, factor)
    h, w = (max(1, math.floor(side / factor + 0.5)) * factor for side in (height, width))
    return h, w


def _positive(what: str, *sides: float) -> None:
    if not all(side > 0 for side in sides):
        raise ShapeError(f"{what} must be positive, got {' x '.join(map(str, sides))}")
