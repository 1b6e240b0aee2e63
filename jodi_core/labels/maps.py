"""What the pictures of each label mean: into the network, out of it, and from other programs.

Two ranges occur. The network's is [-1, 1] (the autoencoder in and out), a picture's is [0, 1].
Everything here takes any floating dtype, clamps to its range and returns float32. Functions
ending in `_from_foreign` or `_from_ade` turn maps of other programs into the pictures the model
knows.

Shapes: B batch, H W pixels.
Source of the formulas: github VIPL-GENUN/Jodi @ c21bdcb, model/postprocess.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from ...kit.pictures.palettes import (
    SEGMENTATION_CLASSES,
    SEGMENTATION_PALETTE,
    Color,
)
from ..domains import Domain, domain

FLAT_SPAN = 1e-6
"""Depth that varies by less than this (network range is 2 wide) is flat: the rest is rounding."""

COMPARISONS_PER_CHUNK = 12 << 15
"""Pixels x colours compared at a time when telling classes by colour: under 10 MB."""

# Signs that turn the model's axes (+X picture left, +Y up, +Z to the viewer) into others.
NORMAL_AXES: dict[str, tuple[float, float, float]] = {
    "model": (1.0, 1.0, 1.0),
    "opengl": (-1.0, 1.0, 1.0),  # +X right, +Y up
    "directx": (-1.0, -1.0, 1.0),  # +X right, +Y down
}


def postprocess(of: str | int | Domain, x: Tensor) -> Tensor:
    """The picture of a domain as the released model shows it.

    Shapes: x (B, 3, H, W), decoder output in [-1, 1] or beyond -> (B, 3, H, W) float32 in [0, 1].
    color and pose are shifted to [0, 1]; gray is the mean over RGB; depth is stretched per picture,
    near white; normals have unit length, in the model's axes; classes get their exact colours.
    Raises: JodiError for an unknown domain, ImageError for a wrong shape or values not finite.
    """
    kind = (of if isinstance(of, Domain) else domain(of)).kind
    if kind == "depth":
        return _gray(depth_map(x))
    if kind == "normal":
        return normal_map(x)
    if kind == "palette":
        return colorize(segmentation_index(x))
    picture = (_decoded(x) + 1) / 2
    return _gray(picture.mean(dim=1)) if kind == "gray" else picture


def preprocess(of: str | int | Domain, picture: Tensor) -> Tensor:
    """Network input of a domain: (B, 3 or 1, H, W) in [0, 1] -> (B, 3, H, W) float32 in [-1, 1].

    Every domain is shown to the network as the picture it is; one channel is repeated.
    Raises: ImageError for a wrong shape, or values so far outside [0, 1] that they must be of
    another range.
    """
    name = (of if isinstance(of, Domain) else domain(of)).name
    return checked_picture(picture, name).mul(2).sub_(1)


def checked_picture(picture: Tensor, what: str = "picture") -> Tensor:
    """(B, 1 or 3, H, W) in [0, 1] -> the same as (B, 3, H, W) float32, clamped, a new tensor.

    Raises: ImageError for a wrong shape, values not finite, or far outside [0, 1] (a resampling
    filter may overshoot a little; 0..255 or -1..1 is a mistake that clamping would hide).
    """
    if picture.ndim != 4 or picture.shape[1] not in (1, 3) or picture.numel() == 0:
        raise ImageError(
            f"{what}: expected a picture of shape (batch, 3, height, width), got "
            f"{tuple(picture.shape)}"
        )
    if not picture.is_floating_point():
        raise ImageError(f"{what}: expected values in 0..1, got {picture.dtype}; divide by 255")
    picture = picture.to(torch.float32)
    low, high = (float(v) for v in picture.aminmax())
    if not (low >= -0.25 and high <= 1.25):  # also true for NaN
        raise ImageError(
            f"{what}: expected values in 0..1, got {low:.4g} to {high:.4g}; scale it to 0..1 first"
        )
    return picture.expand(-1, 3, -1, -1).clamp(0, 1)


def depth_map(
    x: Tensor,
    normalize: str = "image",
    near: str = "white",
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """Relative depth (disparity-like) in [0, 1].

    Shapes: x (B, 3, H, W) decoder output -> (B, H, W) float32.
    normalize: "image" stretches each picture to its own extremes (as released), "batch" to those
    of the whole batch, so that frames stay comparable; "range" takes `low`..`high` of the model's
    own grey values (0..1) as the extremes, and cuts off what lies outside.
    near: "white" (as released) or "black". A flat map gives zeros, never NaN.
    Raises: JodiError for an unknown choice, or bounds that are missing or not in order.
    """
    _choice("normalize", normalize, ("image", "batch", "range"))
    _choice("near", near, ("white", "black"))
    if normalize == "range":
        if low is None or high is None or not low < high:
            raise JodiError(
                f"range normalisation needs bounds with low < high, got low={low}, high={high}"
            )
        bottom, top = 2 * float(low) - 1, 2 * float(high) - 1
        depth = ((_decoded(x).mean(dim=1) - bottom) / (top - bottom)).clamp_(0, 1)
        return depth if near == "white" else 1 - depth
    if low is not None or high is not None:
        raise JodiError(f'low and high only apply to normalize="range", not to "{normalize}"')
    return stretch(_decoded(x).mean(dim=1), per_image=normalize == "image", flip=near == "black")


def stretch(values: Tensor, per_image: bool = True, flip: bool = False) -> Tensor:
    """(B, H, W) -> the same stretched to [0, 1], per image or over the batch; flat gives zeros."""
    dims = (1, 2) if per_image else (0, 1, 2)
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    span = high - low
    flat = span <= FLAT_SPAN
    shifted = high - values if flip else values - low
    return (shifted / span.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def normal_vectors(x: Tensor) -> Tensor:
    """Unit vectors in the model's axes: +X picture left, +Y up, +Z to the viewer.

    Shapes: x (B, 3, H, W) decoder output -> (B, 3, H, W) float32, length 1 (0 where x is 0).
    """
    x = _decoded(x)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)


def normal_map(x: Tensor, convention: str = "model") -> Tensor:
    """Normals as a picture: (B, 3, H, W) decoder output -> (B, 3, H, W) float32 in [0, 1].

    convention: "model" as released (red high facing picture left, green up, blue to the viewer),
    "opengl" (red high facing right) or "directx" (red right, green down). No direction is grey.
    """
    return (normal_vectors(x) * _axes(convention, x.device) + 1) / 2


def segmentation_index(x: Tensor, chunk: int = COMPARISONS_PER_CHUNK) -> Tensor:
    """Class of each pixel, by the nearest of the 12 colours; the first class wins a tie.

    Shapes: x (B, 3, H, W) decoder output -> (B, H, W) uint8, 0..11.
    chunk: pixels x colours compared at a time (at least one row of pixels), bounding the memory.
    """
    _check_decoded(x)
    return nearest_color(x, SEGMENTATION_PALETTE, chunk, low=-1.0)


def nearest_color(
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
    checked_index(index, len(palette))
    table = torch.tensor(palette, dtype=torch.float32, device=index.device).div_(255).T
    picture = torch.empty(index.shape[0], 3, *index.shape[1:], device=index.device)
    for b, classes in enumerate(index):
        flat = classes.reshape(-1).to(torch.int32)  # a byte index would be taken for a mask
        for c in range(3):
            picture[b, c] = table[c].index_select(0, flat).view_as(classes)
    return picture


def class_mask(index: Tensor, which: str | int) -> Tensor:
    """1 where a pixel is of class `which` (name or number), else 0: (B, H, W) -> (B, H, W) float32.

    Raises: JodiError for an unknown class, listing them; ImageError for a wrong map.
    """
    checked_index(index, len(SEGMENTATION_CLASSES))
    return (index == class_id(which)).to(torch.float32)


def class_id(which: str | int) -> int:
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


def checked_index(index: Tensor, classes: int) -> Tensor:
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


def _check_decoded(x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point() or x.numel() == 0:
        raise ImageError(
            "expected decoder output of shape (batch, 3, height, width) in -1..1, got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    low, high = (float(v) for v in x.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError(
            f"decoder output is not finite ({low} to {high}); decode in float32 or bfloat16"
        )


def _decoded(x: Tensor) -> Tensor:
    _check_decoded(x)
    return x.to(torch.float32).clamp(-1, 1)


def _gray(plane: Tensor) -> Tensor:
    return plane[:, None].expand(-1, 3, -1, -1).contiguous()


def _axes(convention: str, device) -> Tensor:
    _choice("convention", convention, tuple(NORMAL_AXES))
    return torch.tensor(NORMAL_AXES[convention], device=device)[None, :, None, None]


def _choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise JodiError(f"{what} is {value!r}; use one of {', '.join(allowed)}")
