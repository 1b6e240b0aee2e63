"""Segmentation: the model's 12 classes, their colours and numbers, and ADE20K's 150 classes.

Shapes: B batch, H W pixels.
Source of the nearest colour: github VIPL-GENUN/Jodi @ c21bdcb, model/postprocess.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from ...kit.pictures.palettes import (
    ADE20K_PALETTE,
    ADE20K_TO_12,
    SEGMENTATION_CLASSES,
    SEGMENTATION_PALETTE,
    Color,
)
from .checks import check_choice, check_decoded, check_picture

SEGMENTATION_DRAWINGS = ("jodi", "ade20k")

# The ADE20K class (1..150) that stands for each of the 12, where a map is drawn in its colours;
# 0 is black. read_ade20k reads every one of them back.
ADE20K_OF_12: tuple[int, ...] = (0, 13, 127, 5, 22, 17, 3, 2, 21, 1, 7, 20)

ADE20K_COLORS_OF_12: tuple[Color, ...] = tuple(
    ADE20K_PALETTE[number - 1] if number else (0, 0, 0) for number in ADE20K_OF_12
)

IGNORED = (255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, -1)
"""Class numbers that mean "ignore" in files of 8, 16 and 32 bits: such pixels are unlabeled."""

COLORS = {"jodi": SEGMENTATION_PALETTE, "ade20k": ((0, 0, 0), *ADE20K_PALETTE)}
"""Colours of each drawing; ADE20K's black is unlabeled."""

_GREYS = {drawn: {r for r, g, b in colors if r == g == b} for drawn, colors in COLORS.items()}

COMPARISONS_PER_CHUNK = 12 << 15
"""Pixels x colours compared at a time when telling classes by colour: under 10 MB."""


def find_classes(x: Tensor, chunk: int = COMPARISONS_PER_CHUNK) -> Tensor:
    """Class of each pixel, by the nearest of the 12 colours; the first class wins a tie.

    Shapes: x (B, 3, H, W) decoder output -> (B, H, W) uint8, 0..11.
    chunk: pixels x colours compared at a time (at least one row of pixels), bounding the memory.
    """
    check_decoded(x)
    return find_nearest_color(x, SEGMENTATION_PALETTE, chunk, low=-1.0)


def find_nearest_color(
    x: Tensor, palette: Sequence[Color], chunk: int = COMPARISONS_PER_CHUNK, low: float = 0.0
) -> Tensor:
    """Index of the palette entry nearest in RGB: (B, 3, H, W) in [low, 1] -> (B, H, W) uint8.

    Memory beyond the result: about 8 x `chunk` floats, or one row's worth if that is more.
    """
    if chunk < 1:
        raise JodiError(f"chunk must be at least 1, got {chunk}")
    batch, _, height, width = x.shape
    colors = torch.tensor(palette, dtype=torch.float32, device=x.device)[:, :, None, None]
    index = torch.empty(batch, height, width, dtype=torch.uint8, device=x.device)
    rows = max(1, chunk // (width * len(palette)))
    for b in range(batch):
        for top in range(0, height, rows):
            slab = x[b, :, top : top + rows].to(torch.float32).clamp(low, 1)
            slab = (slab - low).mul_(255 / (1 - low))
            distance = (slab - colors).square_().sum(dim=1)
            index[b, top : top + rows] = distance.argmin(dim=0)
    return index


def colorize(index: Tensor, palette: Sequence[Color] = SEGMENTATION_PALETTE) -> Tensor:
    """Picture of a class map: (B, H, W) integers -> (B, 3, H, W) float32 in [0, 1].

    palette: one colour (0..255) per class; the model's own unless another drawing is wanted.
    Raises: ImageError for a wrong shape or a class without a colour.
    """
    check_class_map(index, len(palette))
    table = torch.tensor(palette, dtype=torch.float32, device=index.device).div_(255).T
    picture = torch.empty(index.shape[0], 3, *index.shape[1:], device=index.device)
    for b, classes in enumerate(index):
        flat = classes.reshape(-1).to(torch.int32)  # a byte index would be taken for a mask
        for c in range(3):
            picture[b, c] = table[c].index_select(0, flat).view_as(classes)
    return picture


def read_classes(picture: Tensor, drawn: str = "jodi") -> Tensor:
    """Class 0..11 of each pixel of a class map: (B, 3, H, W) -> (B, H, W) uint8.

    drawn: "jodi" in the model's 12 colours, "ade20k" in ADE20K's 150. The nearest colour counts.
    A grey picture whose 8-bit values are class numbers (0..11, or ADE20K's 0..150, and 255 for
    "ignore") is read as those numbers.
    Raises: ImageError for a wrong picture, JodiError for an unknown drawing.
    """
    check_choice("source", drawn, SEGMENTATION_DRAWINGS)
    picture = check_picture(picture, "segmentation")
    numbers = read_class_numbers(picture, drawn)
    if numbers is not None:
        return numbers
    if drawn == "ade20k":
        return read_ade20k(picture)
    return find_nearest_color(picture, SEGMENTATION_PALETTE)


def read_class_numbers(picture: Tensor, drawn: str = "jodi") -> Tensor | None:
    """Class 0..11 of each pixel where a picture's grey values are class numbers, else None.

    Shapes: picture (B, 3, H, W) in [0, 1] -> (B, H, W) uint8. One grey level of ADE20K's colours
    is a class number too; a picture of such colours alone is taken for colours.
    """
    if not bool((picture == picture[:, :1]).all()):
        return None
    values = (picture[:, 0] * 255).round()
    if bool(((picture[:, 0] * 255 - values).abs() > 0.01).any()):
        return None  # no 8-bit picture, or one that was resized
    top = len(ADE20K_PALETTE) if drawn == "ade20k" else len(SEGMENTATION_CLASSES) - 1
    if not bool(((values <= top) | (values == 255)).all()):
        return None
    if are_colors(values, drawn):
        return None
    return convert_class_numbers(values.to(torch.int64), drawn)


def are_colors(greys: Tensor, drawn: str) -> bool:
    """Whether all grey values (0..255) are colours of a drawing, and so no class numbers."""
    return {int(v) for v in greys.unique()} <= _GREYS[drawn]


def find_strange_share(picture: Tensor, drawn: str, near: float) -> float:
    """Share of the pixels of (B, 3, H, W) in [0, 1] whose colour no class of a drawing has.

    near: how far a channel may be off.
    """
    nearest = colorize(find_nearest_color(picture, COLORS[drawn]), COLORS[drawn])
    return float(((picture - nearest).abs().amax(1) > near).float().mean())


def convert_class_numbers(numbers: Tensor, drawn: str = "jodi") -> Tensor:
    """Class 0..11 of class numbers as files store them: (B, H, W) integers -> (B, H, W) uint8.

    drawn: "jodi" for 0..11, "ade20k" for the data set's own 0..150, 0 being unlabeled. Numbers
    that mean "ignore" (255, the largest of 16 and 32 bits, -1) are unlabeled.
    Raises: ImageError for a number that is no class, JodiError for an unknown drawing.
    """
    check_choice("source", drawn, SEGMENTATION_DRAWINGS)
    top = len(ADE20K_PALETTE) if drawn == "ade20k" else len(SEGMENTATION_CLASSES) - 1
    known = numbers.masked_fill(torch.isin(numbers, torch.tensor(IGNORED).to(numbers)), 0)
    low, high = (int(v) for v in known.aminmax())
    if low < 0 or high > top:
        raise ImageError(
            f"segmentation: expected class numbers 0..{top}, and 255 for pixels to ignore, got "
            f"{low} to {high}; renumber the classes, or say which classes they are"
        )
    return read_ade20k(known) if drawn == "ade20k" else known.to(torch.uint8)


def read_ade20k(
    values: Tensor, zero_based: bool = False, chunk: int = COMPARISONS_PER_CHUNK
) -> Tensor:
    """The model's 12 classes from an ADE20K segmentation; `colorize` draws them.

    Shapes: (B, H, W) integers, or (B, 3, H, W) picture in ADE20K's 150 colours -> (B, H, W) uint8.
    zero_based: classes count from 0 (networks' output) instead of 1 with 0 unlabeled (the data
    set's own). In pictures black is unlabeled, and road stands for the skyscraper that shares its
    colour.
    Raises: ImageError for another shape, or classes out of range.
    """
    if values.ndim == 4:
        picture = check_picture(values, "segmentation")
        index = find_nearest_color(picture, COLORS["ade20k"], chunk)
    else:
        classes = len(ADE20K_PALETTE)
        index = check_class_map(values, classes if zero_based else classes + 1)
        index = index.to(torch.int32) + int(zero_based)
    table = torch.tensor(list(ADE20K_TO_12), dtype=torch.uint8, device=values.device)
    return table.index_select(0, index.reshape(-1).to(torch.int32)).view(index.shape)


def draw_segmentation(index: Tensor, drawn: str = "jodi") -> Tensor:
    """Picture (B, 3, H, W) of a class map (B, H, W), in the colours `read_classes` reads."""
    check_choice("palette", drawn, SEGMENTATION_DRAWINGS)
    return colorize(index, SEGMENTATION_PALETTE if drawn == "jodi" else ADE20K_COLORS_OF_12)


def paint_class(index: Tensor | None, mask: Tensor, which: str | int) -> Tensor:
    """The class map with class `which` wherever the mask is at least one half.

    Shapes: index (B or 1, H, W) integers, or None for an unlabeled one; mask (B or 1, H, W) in
    [0, 1] -> (B, H, W) uint8.
    Raises: ImageError for sizes or counts that do not fit, JodiError for an unknown class.
    """
    if mask.ndim != 3 or not mask.is_floating_point():
        raise ImageError(f"expected a mask (batch, height, width), got {tuple(mask.shape)}")
    if index is None:
        index = torch.zeros(mask.shape, dtype=torch.uint8, device=mask.device)
    counts = {len(index), len(mask)}
    if index.shape[1:] != mask.shape[1:] or not (len(counts) == 1 or 1 in counts):
        raise ImageError(
            f"the mask is {_size(mask)}, the map {_size(index)}; give masks of the map's size, "
            "one for all maps or one for each"
        )
    index = index.to(torch.uint8)
    return torch.where(mask >= 0.5, index.new_tensor(find_class_id(which)), index)


def make_class_mask(index: Tensor, which: str | int) -> Tensor:
    """1 where a pixel is of class `which` (name or number), else 0: (B, H, W) -> (B, H, W) float32.

    Raises: JodiError for an unknown class, listing them; ImageError for a wrong map.
    """
    check_class_map(index, len(SEGMENTATION_CLASSES))
    return (index == find_class_id(which)).to(torch.float32)


def find_class_id(which: str | int) -> int:
    """Number of a class given by name or number. Raises: JodiError, listing the classes."""
    if isinstance(which, str):
        if which.strip().lower() in SEGMENTATION_CLASSES:
            return SEGMENTATION_CLASSES.index(which.strip().lower())
    elif isinstance(which, bool):
        pass  # True is no class number
    elif isinstance(which, int) and 0 <= which < len(SEGMENTATION_CLASSES):
        return which
    listing = ", ".join(f"{i} {name}" for i, name in enumerate(SEGMENTATION_CLASSES))
    raise JodiError(f"no segmentation class is called {which!r}; the classes are {listing}")


def check_class_map(index: Tensor, classes: int) -> Tensor:
    """The class map itself. Raises: ImageError unless (B, H, W) integers in 0..classes-1."""
    if index.ndim != 3 or index.is_floating_point() or index.numel() == 0:
        raise ImageError(
            f"expected a class map of integers (batch, height, width), got {index.dtype} of shape "
            f"{tuple(index.shape)}"
        )
    low, high = (int(v) for v in index.aminmax())
    if low < 0 or high >= classes:
        raise ImageError(f"expected classes 0..{classes - 1}, got {low} to {high}")
    return index


def _size(maps: Tensor) -> str:
    return f"{len(maps)} of {maps.shape[2]} x {maps.shape[1]} pixels"
