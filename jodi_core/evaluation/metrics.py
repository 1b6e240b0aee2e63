"""Pixel measures: aligned depth, angles of normals, PSNR, confusion and IoU. Pure functions.

Shapes: B images, H W pixels. Everything is computed in float64, whatever comes in.
"""

import math

import torch
from torch import Tensor

from ...kit.errors import ShapeError

DEPTH_RANGE = (0.1, 100.0)
"""Metres an aligned depth is clipped to before it is scored: the range the scenes are made for."""

MIN_DISPARITY = 1e-3
NORMAL_THRESHOLDS = (5.0, 7.5, 11.25, 22.5, 30.0)
ANGLE_BINS = 18000
"""Bins of the angle histogram over [0, 180] degrees: 0.01 degrees each."""

PSNR_FLOOR = 1e-10
"""Smallest mean squared error that PSNR tells apart from zero: equal pictures score 100 dB."""


def align_disparity(
    prediction: Tensor,
    depth: Tensor,
    valid: Tensor,
    bounds: tuple[float, float] = DEPTH_RANGE,
) -> Tensor:
    """Depth in metres from a disparity-like map: per image, scale and shift fitted to 1/depth.

    Plain least squares over valid pixels where the prediction is positive (all valid pixels where
    fewer than two are); the fit is clipped to at least 1e-3 per metre, inverted, and clipped to
    `bounds` in metres. A constant map becomes the inverse of the mean of 1/depth. An image without
    valid pixels comes back at the far end of the range.

    Shapes: three (B, H, W), `valid` bool -> (B, H, W) float64.
    Raises: ShapeError when the three differ in shape.
    Source: github prs-eth/Marigold, src/util/alignment.py and script/depth/eval.py.
    """
    _same_shape(prediction, depth, valid)
    p, d = prediction.double(), depth.double()
    target = 1.0 / d.clamp(min=1e-6)
    usable = valid & (d > 0) & torch.isfinite(d)
    positive = usable & (p > 0)
    enough = positive.sum(dim=(1, 2), keepdim=True) >= 2
    scale, shift = _least_squares(p, target, torch.where(enough, positive, usable))
    fitted = (scale * p + shift).clamp(min=MIN_DISPARITY)
    return (1.0 / fitted).clamp(*bounds)


def depth_errors(depth: Tensor, truth: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Per image: mean of |p - d| / d, and the share of pixels with max(p/d, d/p) < 1.25.

    Shapes: three (B, H, W), metres -> two (B,) float64, NaN for images without valid pixels.
    Source: AbsRel and delta1 as github prs-eth/Marigold, src/util/metric.py.
    """
    _same_shape(depth, truth, valid)
    p, d = depth.double(), torch.where(valid, truth.double(), 1.0)
    relative = (p - d).abs() / d
    within = (torch.maximum(p / d, d / p) < 1.25).double()
    return masked_mean(relative, valid), masked_mean(within, valid)


def angular_errors(prediction: Tensor, truth: Tensor) -> Tensor:
    """Degrees between two fields of vectors; 90 where one of them has no length.

    Shapes: two (B, 3, H, W), any length -> (B, H, W) float64 in [0, 180].
    """
    _same_shape(prediction, truth)
    p = torch.nn.functional.normalize(prediction.double(), dim=1, eps=1e-12)
    n = torch.nn.functional.normalize(truth.double(), dim=1, eps=1e-12)
    return torch.rad2deg(torch.arccos((p * n).sum(dim=1).clamp(-1, 1)))


def angle_histogram(angles: Tensor) -> Tensor:
    """Counts of degrees in `ANGLE_BINS` equal bins over [0, 180]; any shape -> int64."""
    bins = (angles.flatten() * (ANGLE_BINS / 180.0)).long().clamp(0, ANGLE_BINS - 1)
    return torch.bincount(bins, minlength=ANGLE_BINS)


def histogram_median(counts: Tensor) -> float:
    """Median in degrees from `angle_histogram` counts, right to one bin; NaN when empty.

    Pooling millions of angles as counts keeps the memory of an evaluation bounded.
    """
    total = int(counts.sum())
    if total == 0:
        return math.nan
    below = torch.cumsum(counts, 0)
    index = int(torch.searchsorted(below, (total + 1) // 2))
    before = int(below[index]) - int(counts[index])
    inside = ((total + 1) // 2 - before - 0.5) / int(counts[index])
    return (index + inside) * 180.0 / ANGLE_BINS


def psnr(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio per image in dB, range 1, over all pixels or those of `mask`.

    Shapes: two (B, C, H, W) in [0, 1], mask (B, H, W) bool -> (B,) float64; at most 100 dB (equal
    pictures), NaN where the mask is empty. No scale is fitted.
    """
    _same_shape(prediction, truth)
    squared = (prediction.double() - truth.double()).square().mean(dim=1)
    if mask is None:
        mask = torch.ones_like(squared, dtype=torch.bool)
    return -10.0 * torch.log10(masked_mean(squared, mask).clamp(min=PSNR_FLOOR))


def confusion(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixel counts per image: entry [b, t, p] counts pixels of true class t predicted as p.

    Shapes: two (B, H, W) of class indices below `classes` -> (B, classes, classes) int64.
    """
    _same_shape(prediction, truth)
    batch = torch.arange(len(truth), device=truth.device).view(-1, 1, 1) * classes * classes
    cells = batch + truth.long() * classes + prediction.long()
    counts = torch.bincount(cells.flatten(), minlength=len(truth) * classes * classes)
    return counts.view(len(truth), classes, classes)


def intersection_over_union(matrix: Tensor) -> Tensor:
    """TP / (TP + FP + FN) of each class, NaN for a class that neither side holds.

    Shapes: (..., N, N) counts [truth, prediction] -> (..., N) float64.
    """
    matrix = matrix.double()
    hits = matrix.diagonal(dim1=-2, dim2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - hits
    return torch.where(union > 0, hits / union, math.nan)


def _least_squares(p: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (B, 1, 1) with the least squares of scale * p + shift - target on mask."""
    weight = mask.double()
    count = weight.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    p_mean = (weight * p).sum(dim=(1, 2), keepdim=True) / count
    target_mean = (weight * target).sum(dim=(1, 2), keepdim=True) / count
    centred = weight * (p - p_mean)
    variance = (centred * (p - p_mean)).sum(dim=(1, 2), keepdim=True) / count
    covariance = (centred * (target - target_mean)).sum(dim=(1, 2), keepdim=True) / count
    # A constant map carries no scale: the best fit is then the mean of the target.
    flat = variance <= 1e-12
    scale = torch.where(flat, 0.0, covariance / torch.where(flat, 1.0, variance))
    return scale, target_mean - scale * p_mean


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean per image over the pixels of a mask: two (B, H, W) -> (B,), NaN where it is empty."""
    total = torch.where(mask, values, 0.0).sum(dim=(1, 2))
    return total / mask.sum(dim=(1, 2))


def _same_shape(*tensors: Tensor):
    shapes = [tuple(t.shape) for t in tensors]
    if len(set(shapes)) > 1:
        raise ShapeError(
            f"the maps to compare must have one shape, got {', '.join(map(str, shapes))}; "
            "resize or crop them to the same size first"
        )
