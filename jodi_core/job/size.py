"""The size a job works at: one rule for the command line, the pipeline and the nodes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ...kit.errors import JodiError, ShapeError
from ...kit.pictures.files import MAX_PIXELS
from ...kit.pictures.frame import check_positive, snap_size

SIZE_CHOICES = ("trained shape", "picture ratio", "picture size", "width and height")
"""In the order of the node's list, which saved graphs depend on."""

DEFAULT_SIZE = "picture ratio"

MAX_RATIO = 8
"""Longest side over shortest of the sizes that "picture ratio" gives."""


def choose_size(
    choice: str,
    first: tuple[int, int] | None,
    *,
    factor: int,
    native: tuple[int, int],
    explicit: tuple[int, int] = (0, 0),
) -> tuple[int, int]:
    """(height, width) in multiples of `factor`.

    choice: "picture ratio" keeps the first picture's own proportions at the model's pixel count;
    "trained shape" is the nearest of the model's aspect-ratio bins, as published; "picture size"
    is the first picture's own size; "width and height" is `explicit`, where a side of 0 follows
    from the other by the picture's proportions, and two of 0 mean "picture ratio". Without a first
    picture (`first` None) the first three are the native size.
    Raises: JodiError for an unknown choice; ShapeError for negative sides, and for more pixels than
    pictures may have.
    """
    height, width = _choose_size(choice, first, factor, native, explicit)
    if height * width > MAX_PIXELS:
        raise ShapeError(
            f"a size of {width} x {height} has {height * width:,} pixels, and pictures have at "
            f"most {MAX_PIXELS:,} here; choose a smaller one"
        )
    return height, width


def _choose_size(
    choice: str,
    first: tuple[int, int] | None,
    factor: int,
    native: tuple[int, int],
    explicit: tuple[int, int],
) -> tuple[int, int]:
    if choice not in SIZE_CHOICES:
        raise JodiError(f"size is {choice!r}; use one of {', '.join(SIZE_CHOICES)}")
    if choice == "width and height" and explicit == (0, 0):
        choice = DEFAULT_SIZE
    if choice == "width and height":
        height, width = first or native
        rows, columns = explicit
        return snap_size(rows or columns * height / width, columns or rows * width / height, factor)
    if first is None:
        return snap_size(*native, factor)
    if choice == "picture size":
        return snap_size(*first, factor)
    pixels = native[0] * native[1]
    if choice == "picture ratio":
        return choose_ratio_size(*first, pixels, factor)
    shape = find_nearest_bin(*first, scale_bins(factor, round(math.sqrt(pixels))))
    return shape.height, shape.width


def choose_ratio_size(height: int, width: int, pixels: int, factor: int) -> tuple[int, int]:
    """Multiples of `factor` of about height/width and about `pixels` pixels, at most 8 to 1.

    Where the factor is coarse against the size, rounding each side alone would cut off up to a
    seventh of a picture; a few pixels more or fewer matter less.
    """
    check_positive("size, pixels and factor", height, width, pixels, factor)
    longest = max(height, width)
    ratio = max(height, longest / MAX_RATIO) / max(width, longest / MAX_RATIO)
    middle = math.sqrt(pixels * ratio) / factor

    def cost(rows: int, columns: int) -> float:
        cut = 1 - math.exp(-abs(math.log(rows / columns / ratio)))
        return cut + 0.25 * abs(math.log(rows * columns * factor**2 / pixels))

    sizes = (
        (rows, columns)
        for rows in range(max(1, math.floor(0.75 * middle)), math.ceil(1.3 * middle) + 1)
        for columns in {max(1, math.floor(rows / ratio)), max(1, math.ceil(rows / ratio))}
    )
    rows, columns = min(sizes, key=lambda size: cost(*size))
    return rows * factor, columns * factor


def resolve_size(
    asked: int | tuple[int, int] | str, native: tuple[int, int]
) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """(choice, native, explicit) for `choose_size`, from a size as people ask for it.

    asked: a choice by name; a side, for about that many pixels squared in the first picture's
    proportions; or (height, width). native: the model's own size.
    """
    if isinstance(asked, int):
        return "picture ratio", (asked, asked), (0, 0)
    if isinstance(asked, tuple):
        return "width and height", native, asked
    return asked, native, (0, 0)


class AspectBin(NamedTuple):
    """A size the model was trained at; `label` is its height/width as the release writes it."""

    label: str
    height: int
    width: int


ASPECT_BINS: tuple[AspectBin, ...] = (
    AspectBin("0.25", 512, 2048),
    AspectBin("0.33", 576, 1728),
    AspectBin("0.4", 640, 1600),
    AspectBin("0.5", 704, 1408),
    AspectBin("0.67", 768, 1152),
    AspectBin("0.75", 864, 1152),
    AspectBin("0.82", 896, 1088),
    AspectBin("1.0", 1024, 1024),
    AspectBin("1.21", 1088, 896),
    AspectBin("1.33", 1152, 864),
    AspectBin("1.5", 1152, 768),
    AspectBin("2.0", 1408, 704),
    AspectBin("2.5", 1600, 640),
    AspectBin("3.0", 1728, 576),
    AspectBin("4.0", 2048, 512),
)


_BIN_FACTOR, _BIN_BASE = 32, 1024


def find_nearest_bin(height: int, width: int, bins: Sequence[AspectBin] = ASPECT_BINS) -> AspectBin:
    """The bin whose label is nearest to height/width; the first wins a tie.

    The distance is linear in the ratio, as released, which treats tall and wide differently.
    """
    check_positive("picture size", height, width)
    return min(bins, key=lambda b: abs(float(b.label) - height / width))


def scale_bins(factor: int, base: int | None = None) -> tuple[AspectBin, ...]:
    """The bins of a model with another autoencoder factor or working size.

    base: side of the square bin in pixels; by default 32 x factor, which keeps the latent grids of
    the released model. Sides are the nearest multiples of `factor`, at least one.
    """
    base = _BIN_FACTOR * factor if base is None else base
    check_positive("factor and base", factor, base)
    scale = base / _BIN_BASE
    return tuple(
        AspectBin(b.label, *snap_size(b.height * scale, b.width * scale, factor))
        for b in ASPECT_BINS
    )
