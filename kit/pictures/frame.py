"""Fitting a picture into a size, and the exact way back.

A pixel's centre has its index as coordinate, so pixel i covers [i - 0.5, i + 0.5].
Shapes: B batch, C channels, H W pixels of the original, h w pixels of the fitted picture.
Source of bins and crop: github VIPL-GENUN/Jodi @ c21bdcb, app/jodi_pipeline.py.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError, ShapeError


@dataclass(frozen=True)
class Frame:
    """Where a fitted picture lies in its original: pure geometry, for the way back.

    The original (original_h, original_w) is resized to (resized_h, resized_w). Mode "crop" then
    keeps (height, width) of it, from (top, left) on; mode "pad" lays all of it into (height,
    width) at (top, left). Rows and columns scale by their own resized / original.
    Raises: ShapeError for sides that do not fit together.
    """

    original_h: int
    original_w: int
    resized_h: int
    resized_w: int
    top: int
    left: int
    height: int
    width: int
    mode: str = "crop"

    def __post_init__(self):
        _mode(self.mode)
        check_positive("frame", self.original_h, self.original_w, self.resized_h, self.resized_w)
        check_positive("frame", self.height, self.width)
        inner, outer = (self.height, self.width), (self.resized_h, self.resized_w)
        if self.mode == "pad":
            inner, outer = outer, inner
        for start, small, large in zip((self.top, self.left), inner, outer, strict=True):
            if not 0 <= start <= large - small:
                raise ShapeError(f"a side of {small} does not fit into {large} at {start}: {self}")

    @classmethod
    def fitting(
        cls, original: tuple[int, int], size: tuple[int, int], mode: str = "crop"
    ) -> "Frame":
        """Frame of a picture of `original` (height, width) fitted into `size` (height, width).

        "crop" covers the size and keeps the centre: sides are cut down to whole pixels and margins
        rounded half to even, as released. "pad" shows everything, centred.
        """
        _mode(mode)
        (old_h, old_w), (h, w) = original, size
        check_positive("picture size", old_h, old_w)
        check_positive("target size", h, w)
        if mode == "crop":
            if h * old_w > w * old_h:
                new_h, new_w = h, old_w * h // old_h
            else:
                new_h, new_w = old_h * w // old_w, w
            top, left = round((new_h - h) / 2), round((new_w - w) / 2)
        else:
            scale = min(h / old_h, w / old_w)
            new_h = min(h, max(1, round(old_h * scale)))
            new_w = min(w, max(1, round(old_w * scale)))
            top, left = (h - new_h) // 2, (w - new_w) // 2
        return cls(old_h, old_w, new_h, new_w, top, left, h, w, mode)

    @property
    def unchanged(self) -> bool:
        """Whether the fitted picture is the original, pixel for pixel."""
        original = (self.original_h, self.original_w)
        return original == (self.resized_h, self.resized_w) == (self.height, self.width)

    def to_fitted(self, y, x):
        """Coordinates in the fitted picture of a point (y, x) in the original."""
        top, left = self._start
        return (
            (y + 0.5) * self.resized_h / self.original_h - 0.5 - top,
            (x + 0.5) * self.resized_w / self.original_w - 0.5 - left,
        )

    def _rows_and_columns(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of the resized original in the fitted picture, edges repeated."""
        top, left = self._start
        rows = (_steps(self.height) + top).clamp_(0, self.resized_h - 1)
        return rows, (_steps(self.width) + left).clamp_(0, self.resized_w - 1)

    @property
    def _start(self) -> tuple[int, int]:
        """Place of the fitted picture's corner in the resized original."""
        return (self.top, self.left) if self.mode == "crop" else (-self.top, -self.left)


def fit(
    picture: Tensor, size: tuple[int, int], mode: str = "crop", palette: bool = False
) -> tuple[Tensor, Frame]:
    """The picture at `size` (height, width), and how it lies in the original.

    Shapes: picture (B, C, H, W) -> (B, C, h, w) float32, and the Frame.
    mode: "crop" covers and keeps the centre; "pad" shows all and repeats the edge around it.
    palette: take the nearest pixel, keeping values and dtype (colours that are classes must not
    blend); otherwise antialiased bilinear.
    Raises: ImageError for something that is no picture, ShapeError for an impossible size.
    """
    _check_picture(picture, palette)
    frame = Frame.fitting((picture.shape[-2], picture.shape[-1]), size, mode)
    picture = picture if palette else picture.to(torch.float32)
    if frame.unchanged:
        return picture, frame
    rows, columns = frame._rows_and_columns()
    y = (rows + 0.5) * frame.original_h / frame.resized_h - 0.5
    x = (columns + 0.5) * frame.original_w / frame.resized_w - 0.5
    if palette:
        return _nearest(picture, y, x), frame
    resized = (frame.resized_h, frame.resized_w)
    # torch is fastest and rounds exactly like the published resize, but: a strip of 3 x 500
    # covering 512 x 2048 would be 85,000 wide before the crop, and a resize to one column comes
    # out wrong (torch 2.13 on the CPU, antialiased)
    affordable = 4 * max(picture[0, 0].numel(), frame.height * frame.width)
    if math.prod(resized) <= affordable and frame.resized_w > 1:
        whole = F.interpolate(picture, resized, mode="bilinear", antialias=True)
        return _nearest(whole, rows, columns), frame
    scales = (frame.original_h / frame.resized_h, frame.original_w / frame.resized_w)
    return _bilinear(picture, y, x, scales), frame


def restore(fitted: Tensor, frame: Frame, palette: bool = False) -> Tensor:
    """A fitted map back in the frame of its original, each pixel in its own place.

    Shapes: fitted (B, C, h, w) -> (B, C, H, W) float32 (any dtype kept if `palette`).
    Pixels that were cropped away repeat the nearest edge.
    Raises: ShapeError when the map is not of the frame's size, ImageError when it is no picture.
    """
    _check_picture(fitted, palette)
    if fitted.shape[-2:] != (frame.height, frame.width):
        raise ShapeError(
            f"expected a map of {frame.height} x {frame.width} pixels for this frame, got "
            f"{fitted.shape[-2]} x {fitted.shape[-1]}; resize it to the fitted size first"
        )
    fitted = fitted if palette else fitted.to(torch.float32)
    if frame.unchanged:
        return fitted
    y, x = frame.to_fitted(_steps(frame.original_h), _steps(frame.original_w))
    if frame.mode == "pad":  # leave the padding out, or it would bleed into the border
        fitted = fitted[..., frame.top : frame.top + frame.resized_h, :]
        fitted = fitted[..., frame.left : frame.left + frame.resized_w]
        y, x = y - frame.top, x - frame.left
    if palette:
        return _nearest(fitted, y, x)
    scales = (frame.resized_h / frame.original_h, frame.resized_w / frame.original_w)
    return _bilinear(fitted, y, x, scales)


def _nearest(picture: Tensor, y: Tensor, x: Tensor) -> Tensor:
    for dim, at in ((-2, y), (-1, x)):
        index = torch.floor(at + 0.5).long().clamp_(0, picture.shape[dim] - 1)
        picture = _take(picture, dim, index)
    return picture


def _bilinear(picture: Tensor, y: Tensor, x: Tensor, scales: tuple[float, float]) -> Tensor:
    """Antialiased bilinear samples at rows y and columns x; outside, the edge is repeated.

    Only what is asked for is computed, so that cropping an extreme enlargement costs no more than
    its result. scales: picture pixels per sample along each axis.
    """
    axes = [(-2, y, scales[0]), (-1, x, scales[1])]
    if picture.shape[-2] < len(y):
        axes.reverse()  # columns are the slow axis to gather: do them where rows are fewer
    for dim, at, scale in axes:
        picture = _bilinear_axis(picture, dim, at, scale)
    return picture


def _bilinear_axis(picture: Tensor, dim: int, at: Tensor, scale: float) -> Tensor:
    length = picture.shape[dim]
    at = at.clamp(-0.5, length - 0.5)
    radius = max(1.0, scale)  # of the triangle filter; wider where many pixels make one
    first = torch.floor(at - radius).long() + 1
    taps = first[None, :] + torch.arange(math.ceil(2 * radius))[:, None]
    weights = (1 - (taps - at).abs() / radius).clamp_min_(0)
    weights[(taps < 0) | (taps >= length)] = 0
    weights = (weights / weights.sum(dim=0)).to(torch.float32).to(picture.device)
    taps.clamp_(0, length - 1)
    shape = (-1, 1) if dim == -2 else (-1,)
    out = _take(picture, dim, taps[0]).mul_(weights[0].view(shape))
    for index, weight in zip(taps[1:], weights[1:], strict=True):
        out.addcmul_(_take(picture, dim, index), weight.view(shape))
    return out


def _take(picture: Tensor, dim: int, index: Tensor) -> Tensor:
    """Rows or columns of a picture, by the faster way for each."""
    index = index.to(picture.device)
    return picture.index_select(-2, index) if dim == -2 else picture[..., index]


def _steps(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


def _check_picture(picture: Tensor, palette: bool) -> None:
    if picture.ndim != 4 or picture.numel() == 0:
        raise ImageError(
            f"expected a picture of shape (batch, channels, height, width), got "
            f"{tuple(picture.shape)}"
        )
    if not (palette or picture.is_floating_point()):
        raise ImageError(
            f"expected a floating-point picture, got {picture.dtype}; divide by 255, or say that "
            "its values are classes"
        )


def snap_size(height: float, width: float, factor: int) -> tuple[int, int]:
    """(height, width) rounded to multiples of `factor`, halves up, at least one multiple."""
    check_positive("size and factor", height, width, factor)
    h, w = (max(1, math.floor(side / factor + 0.5)) * factor for side in (height, width))
    return h, w


def check_positive(what: str, *sides: float) -> None:
    if not all(side > 0 for side in sides):
        raise ShapeError(f"{what} must be positive, got {' x '.join(map(str, sides))}")


def _mode(mode: str) -> None:
    if mode not in ("crop", "pad"):
        raise ShapeError(f"mode is {mode!r}; use crop or pad")
