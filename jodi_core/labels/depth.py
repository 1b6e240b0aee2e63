"""Depth: the model's own, and maps of other programs.

The model draws near white. Its depth is relative and like disparity: equal steps are equal steps
of 1/distance. Shapes: B batch, H W pixels.
Source of the formulas: github VIPL-GENUN/Jodi @ c21bdcb, model/postprocess.
"""

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from .checks import check_choice, clamp_decoded, repeat_gray

DEPTH_SOURCES = ("near white", "near black", "distance")
"""In the order of the node's list, which saved graphs depend on."""

FLAT_SPAN = 1e-6
"""Depth that varies by less than this (network range is 2 wide) is flat: the rest is rounding."""


def make_depth_map(
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
    check_choice("normalize", normalize, ("image", "batch", "range"))
    check_choice("near", near, ("white", "black"))
    if normalize == "range":
        if low is None or high is None or not low < high:
            raise JodiError(
                f"range normalisation needs bounds with low < high, got low={low}, high={high}"
            )
        bottom, top = 2 * float(low) - 1, 2 * float(high) - 1
        depth = ((clamp_decoded(x).mean(dim=1) - bottom) / (top - bottom)).clamp_(0, 1)
        return depth if near == "white" else 1 - depth
    if low is not None or high is not None:
        raise JodiError(f'low and high only apply to normalize="range", not to "{normalize}"')
    return stretch(
        clamp_decoded(x).mean(dim=1), per_image=normalize == "image", flip=near == "black"
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
    check_choice("source", source, DEPTH_SOURCES)
    check_choice("normalize", normalize, ("image", "batch", "range"))
    check_choice("near", near, ("white", "black"))
    if values.ndim not in (3, 4) or values.numel() == 0:
        raise ImageError(f"expected depth maps (batch, height, width), got {tuple(values.shape)}")
    plane = values.to(torch.float32)
    plane = plane.mean(dim=1) if plane.ndim == 4 else plane
    if normalize == "range":
        depth = _between(plane, source, low, high)
        return depth if near == "white" else 1 - depth
    # a batch laid out as one tall picture has one pair of extremes
    whole = plane if normalize == "image" else plane.reshape(1, -1, plane.shape[-1])
    word = source.removeprefix("near ")
    depth = read_depth(whole, near=word)[:, 0]
    if near == "black":
        depth = stretch(depth, flip=True)
    return depth.reshape(plane.shape)


def read_depth(values: Tensor, near: str = "white") -> Tensor:
    """Depth picture (near white, stretched per picture) from another program's depth map.

    Shapes: values (B, H, W), (B, 1, H, W) or (B, 3, H, W), of any range -> (B, 3, H, W).
    near: "white" where larger is nearer (Depth Anything, MiDaS, disparity), "black" where larger
    is farther and the map was drawn for looking at, "distance" for lengths along the view (MoGe,
    metres): the model's depth is like disparity, so distances d become 1/d.
    Pixels that are not finite (sky), and distances not above 0, are taken as farthest. Flat maps
    give zeros.
    Raises: ImageError for a wrong shape, or when no pixel has a value.
    """
    check_choice("near", near, ("white", "black", "distance"))
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
    # the unit is not known, so flatness is measured relative to the largest value
    largest = plane.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(plane.dtype).tiny)
    return repeat_gray(stretch(plane / largest))


def stretch(values: Tensor, per_image: bool = True, flip: bool = False) -> Tensor:
    """(B, H, W) -> the same stretched to [0, 1], per image or over the batch; flat gives zeros."""
    dims = (1, 2) if per_image else (0, 1, 2)
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    span = high - low
    flat = span <= FLAT_SPAN
    shifted = high - values if flip else values - low
    return (shifted / span.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


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
