"""Depth, normals and classes between the ways programs draw them, ours being one of them.

Pictures are (B, 3, H, W) or (B, 1, H, W) in [0, 1], maps (B, H, W); results are float32 unless
said. The formulas of the model's own maps are in `labels`.
"""

import torch
from torch import Tensor

from . import labels
from .errors import ImageError, JodiError
from .palettes import ADE20K_PALETTE, SEGMENTATION_PALETTE, Color

DEPTH_SOURCES = ("near white", "near black", "distance")
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
    depth = labels.depth_from_foreign(whole, near=word)[:, 0]
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
    ours = labels.normal_from_foreign(picture, axes.get(source, source))
    return labels.normal_map(ours * 2 - 1, axes.get(target, target))


def read_classes(picture: Tensor, drawn: str = "jodi") -> Tensor:
    """Class 0..11 of each pixel of a map drawn in colours: (B, 3, H, W) -> (B, H, W) uint8.

    drawn: "jodi" in the model's 12 colours, "ade20k" in ADE20K's 150. The nearest colour counts.
    Raises: ImageError for a wrong picture, JodiError for an unknown drawing.
    """
    _choice("source", drawn, SEGMENTATION_DRAWINGS)
    if drawn == "ade20k":
        return labels.segmentation_from_ade(picture)
    picture = labels.checked_picture(picture, "segmentation")
    return labels.nearest_color(picture, SEGMENTATION_PALETTE)


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


def _choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise JodiError(f"{what} is {value!r}; use one of {', '.join(allowed)}")
