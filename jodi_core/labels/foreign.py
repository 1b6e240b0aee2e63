"""Depth, normals and classes between the ways programs draw them, ours being one of them.

Pictures are (B, 3, H, W) or (B, 1, H, W) in [0, 1], maps (B, H, W); results are float32 unless
said. The formulas of the model's own maps are in `labels`.
"""

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
from . import maps as labels
from .maps import (
    COMPARISONS_PER_CHUNK,
    _axes,
    _choice,
    _gray,
    checked_index,
    checked_picture,
    nearest_color,
    stretch,
)

DEPTH_SOURCES = ("near white", "near black", "distance")
"""In the order of the node's list, which saved graphs depend on."""
NORMAL_CONVENTIONS = ("jodi", "opengl", "directx")
SEGMENTATION_DRAWINGS = ("jodi", "ade20k")

# The ADE20K class (1..150) that stands for each of the 12, where a map is drawn in its colours;
# 0 is black. labels.segmentation_from_ade reads every one of them back.
ADE20K_OF_12: tuple[int, ...] = (0, 13, 127, 5, 22, 17, 3, 2, 21, 1, 7, 20)

ADE20K_COLORS_OF_12: tuple[Color, ...] = tuple(
    ADE20K_PALETTE[number - 1] if number else (0, 0, 0) for number in ADE20K_OF_12
)


def convert_depth(
    values: Tensor,
    source: str = "near white",
    normalize: str = "image",
    near: str = "white",
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """A depth map of any program as relative depth (disparity-like) in [0, 1].

    Shapes: values (B, H, W), (B, 1, H, W) or (B, 3, H, W) -> (B, H, W).
    source: "near white" where larger is nearer (Jodi, Depth Anything, MiDaS), "near black" where
    larger is farther and the map was drawn for looking at, "distance" for lengths (metres), which
    become 1/distance as the model's depth is like disparity.
    normalize: "image" stretches each map to its own extremes, "batch" all of them together, so
    that frames of a video stay comparable, "range" takes `low`..`high` of the values as they come
    in and cuts off what lies outside.
    near: how the result is drawn, "white" or "black". A flat map gives zeros.
    Pixels that are not finite, and distances not above 0, count as farthest.
    Raises: ImageError for a wrong shape or a map without a usable value; JodiError for an unknown
    choice or bounds that are missing, not in order, or not above 0 for distances.
    """
    _choice("source", source, DEPTH_SOURCES)
    _choice("normalize", normalize, ("image", "batch", "range"))
    _choice("near", near, ("white", "black"))
    if values.ndim not in (3, 4) or values.numel() == 0:
        raise ImageError(f"expected depth maps (batch, height, width), got {tuple(values.shape)}")
    plane = values.to(torch.float32)
    plane = plane.mean(dim=1) if plane.ndim == 4 else plane
    if normalize == "range":
        depth = _between(plane, source, low, high)
        return depth if near == "white" else 1 - depth
    # seen as one tall picture, a batch has one pair of extremes
    whole = plane if normalize == "image" else plane.reshape(1, -1, plane.shape[-1])
    word = source.removeprefix("near ")
    depth = depth_from_foreign(whole, near=word)[:, 0]
    if near == "black":
        depth = labels.stretch(depth, flip=True)
    return depth.reshape(plane.shape)


def convert_normal(picture: Tensor, source: str = "jodi", target: str = "opengl") -> Tensor:
    """Normals (B, 3, H, W) drawn in one convention, drawn in another; lengths become 1.

    jodi: red is high facing picture left, green up, blue towards the camera. opengl: red right,
    green up. directx: red right, green down. Grey and black, which mean no direction, become grey.
    Raises: ImageError for a wrong picture, JodiError for an unknown convention.
    """
    for what, value in (("source", source), ("target", target)):
        _choice(what, value, NORMAL_CONVENTIONS)
    axes = {"jodi": "model"}
    ours = normal_from_foreign(picture, axes.get(source, source))
    return labels.normal_map(ours * 2 - 1, axes.get(target, target))


IGNORED = (255, 65535, 2**32 - 1, -1)
"""Class numbers that mean "ignore" in files of 8, 16 and 32 bits: such pixels are unlabeled."""


def read_classes(picture: Tensor, drawn: str = "jodi") -> Tensor:
    """Class 0..11 of each pixel of a class map: (B, 3, H, W) -> (B, H, W) uint8.

    drawn: "jodi" in the model's 12 colours, "ade20k" in ADE20K's 150. The nearest colour counts.
    A grey picture whose 8-bit values are class numbers (0..11, or ADE20K's 0..150, and 255 for
    "ignore") is read as those numbers.
    Raises: ImageError for a wrong picture, JodiError for an unknown drawing.
    """
    _choice("source", drawn, SEGMENTATION_DRAWINGS)
    picture = labels.checked_picture(picture, "segmentation")
    numbers = class_numbers(picture, drawn)
    if numbers is not None:
        return numbers
    if drawn == "ade20k":
        return segmentation_from_ade(picture)
    return labels.nearest_color(picture, SEGMENTATION_PALETTE)


def class_numbers(picture: Tensor, drawn: str = "jodi") -> Tensor | None:
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
    if drawn == "ade20k":
        greys = {0, *(r for r, g, b in ADE20K_PALETTE if r == g == b)}
        if {int(v) for v in values.unique()} <= greys:
            return None
    return classes_of_numbers(values.to(torch.int64), drawn)


def classes_of_numbers(numbers: Tensor, drawn: str = "jodi") -> Tensor:
    """Class 0..11 of class numbers as files store them: (B, H, W) integers -> (B, H, W) uint8.

    drawn: "jodi" for 0..11, "ade20k" for the data set's own 0..150, 0 being unlabeled. Numbers
    that mean "ignore" (255, the largest of 16 and 32 bits, -1) are unlabeled.
    Raises: ImageError for a number that is no class, JodiError for an unknown drawing.
    """
    _choice("source", drawn, SEGMENTATION_DRAWINGS)
    top = len(ADE20K_PALETTE) if drawn == "ade20k" else len(SEGMENTATION_CLASSES) - 1
    known = numbers.masked_fill(torch.isin(numbers, torch.tensor(IGNORED).to(numbers)), 0)
    low, high = (int(v) for v in known.aminmax())
    if low < 0 or high > top:
        raise ImageError(
            f"segmentation: expected class numbers 0..{top}, and 255 for pixels to ignore, got "
            f"{low} to {high}; renumber the classes, or say which classes they are"
        )
    return segmentation_from_ade(known) if drawn == "ade20k" else known.to(torch.uint8)


def draw_classes(index: Tensor, drawn: str = "jodi") -> Tensor:
    """Picture (B, 3, H, W) of a class map (B, H, W), in the colours `read_classes` reads."""
    _choice("palette", drawn, SEGMENTATION_DRAWINGS)
    return labels.colorize(index, SEGMENTATION_PALETTE if drawn == "jodi" else ADE20K_COLORS_OF_12)


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
    return torch.where(mask >= 0.5, index.new_tensor(labels.class_id(which)), index)


def _between(plane: Tensor, source: str, low: float | None, high: float | None) -> Tensor:
    if low is None or high is None or not low < high:
        raise JodiError(f"a range needs bounds with low < high, got low={low}, high={high}")
    known = torch.isfinite(plane)
    if source == "distance":
        if low <= 0:
            raise JodiError(f"distances need bounds above 0, got low={low}, high={high}")
        known &= plane > 0
        plane = torch.where(known, plane, 1.0).reciprocal()
        low, high = 1 / high, 1 / low
    elif source == "near black":
        plane, low, high = -plane, -high, -low
    return ((plane - low) / (high - low)).clamp(0, 1).masked_fill(~known, 0.0)


def _size(maps: Tensor) -> str:
    return f"{len(maps)} of {maps.shape[2]} x {maps.shape[1]} pixels"


def depth_from_foreign(values: Tensor, near: str = "white") -> Tensor:
    """Depth picture (near white, stretched per picture) from another program's depth map.

    Shapes: values (B, H, W), (B, 1, H, W) or (B, 3, H, W), of any range -> (B, 3, H, W).
    near: "white" where larger is nearer (Depth Anything, MiDaS, disparity), "black" where larger
    is farther and the map was drawn for looking at, "distance" for lengths along the view (MoGe,
    metres): the model's depth is like disparity, so distances d become 1/d.
    Pixels that are not finite (sky), and distances not above 0, are taken as farthest. Flat maps
    give zeros.
    Raises: ImageError for a wrong shape, or when no pixel has a value.
    """
    _choice("near", near, ("white", "black", "distance"))
    plane = _plane(values)
    known = torch.isfinite(plane)
    if near == "distance":
        known &= plane > 0
        plane = torch.where(known, plane, 1.0).reciprocal()
    elif near == "black":
        plane = -plane
    if not known.flatten(1).any(dim=1).all():
        raise ImageError("depth map: no pixel holds a usable value; check the map's source")
    # each picture's own farthest value stands in where there is none
    farthest = plane.masked_fill(~known, torch.inf).amin((1, 2), keepdim=True)
    plane = torch.where(known, plane, farthest)
    # any unit may come in: what counts as flat is measured against the values themselves
    largest = plane.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(plane.dtype).tiny)
    return _gray(stretch(plane / largest))


def normal_from_foreign(picture: Tensor, convention: str = "opengl") -> Tensor:
    """Normal picture in the model's axes from one drawn in another convention.

    convention: "opengl" (red high facing right, green up; MoGe draws so), "directx" (green down)
    or "model" (already right). Lengths are set to 1; grey and pure black, which other programs
    use for "nothing here", become grey.
    Raises: ImageError for a wrong picture, JodiError for an unknown convention.
    """
    picture = checked_picture(picture, "normal map")
    vectors = picture.mul(2).sub_(1).masked_fill_((picture == 0).all(dim=1, keepdim=True), 0.0)
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # 8-bit pictures cannot hold exact grey: 127 and 128 are both half a step off
    vectors = torch.where(length < 0.05, 0.0, vectors / length.clamp_min(1e-12))
    return (vectors * _axes(convention, picture.device) + 1) / 2


def segmentation_from_ade(
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
        picture = checked_picture(values, "segmentation")
        index = nearest_color(picture, ((0, 0, 0), *ADE20K_PALETTE), chunk)
    else:
        classes = len(ADE20K_PALETTE)
        index = checked_index(values, classes if zero_based else classes + 1)
        index = index.to(torch.int32) + int(zero_based)
    table = torch.tensor(list(ADE20K_TO_12), dtype=torch.uint8, device=values.device)
    return table.index_select(0, index.reshape(-1).to(torch.int32)).view(index.shape)


def lineart_from_foreign(picture: Tensor, lines: str = "white") -> Tensor:
    """Line art as dark lines on white.

    lines: "white" for white lines on black (ControlNet preprocessors draw so) which is inverted,
    "black" for what is right already, "auto" to take the more frequent side as the background.
    Raises: ImageError for a wrong picture.
    """
    _choice("lines", lines, ("white", "black", "auto"))
    picture = checked_picture(picture, "line art")
    if lines == "auto":
        dark = (picture < 0.5).float().mean((1, 2, 3), keepdim=True) > 0.5
        return torch.where(dark, 1 - picture, picture)
    return 1 - picture if lines == "white" else picture


def _plane(values: Tensor) -> Tensor:
    """(B, H, W), (B, 1, H, W) or (B, 3, H, W) -> float32 (B, H, W), the mean over channels."""
    if values.numel() == 0 or not (
        values.ndim == 3 or (values.ndim == 4 and values.shape[1] in (1, 3))
    ):
        raise ImageError(
            "depth map: expected shape (batch, height, width) or (batch, 3, height, width), got "
            f"{tuple(values.shape)}"
        )
    plane = values.to(torch.float32)
    return plane if plane.ndim == 3 else plane.mean(dim=1)
