"""Jodi's depth as distances.

Its depth is like disparity: near is 1, far is 0, and it has no unit. What stands at 1 and at 0 has
to be said. Shapes: B pictures, H W pixels.
"""

import math

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError


def read_depth_plane(picture: Tensor) -> Tensor:
    """Depth pictures (B, 3 or 1, H, W) as (B, H, W) float32: grey values stay exact.

    Raises: ImageError for a wrong shape or values that are no numbers.
    """
    if picture.ndim != 4 or picture.shape[1] not in (1, 3) or picture.numel() == 0:
        raise ImageError(
            f"depth: expected pictures (batch, 3, height, width), got {tuple(picture.shape)}"
        )
    picture = picture.to(torch.float32)
    if not bool(picture.isfinite().all()):
        raise ImageError("depth: the map holds values that are no numbers; decode in float32")
    grey = bool((picture == picture[:, :1]).all())
    return picture[:, 0] if grey else picture.mean(dim=1)


def find_distances(depth: Tensor, near: float = 1.0, far: float = 0.0) -> Tensor:
    """Distances along the viewing axis of relative depths in [0, 1], 1 being near.

    Shapes: (B, H, W) -> (B, H, W) float32, in the unit of near and far; infinite where 0 depth is
    infinitely far. 1 / distance runs evenly from 1 / far at 0 to 1 / near at 1.
    near: distance of 1. far: distance of 0; 0 says infinitely far (the sky is in the picture).
    Raises: JodiError unless 0 < near < far (or far is 0).
    """
    check_range(near, far)
    least = 1 / far if far else 0.0
    inverse = least + depth.double().clamp(0, 1) * (1 / near - least)
    return torch.where(inverse > 0, 1 / inverse, math.inf).to(torch.float32)


def check_range(near: float, far: float) -> None:
    """Raises: JodiError unless 0 < near < far, or far is 0 for infinitely far."""
    if not (math.isfinite(near) and math.isfinite(far) and near > 0 and (far == 0 or near < far)):
        raise JodiError(
            f"expected 0 < near < far, or far = 0 for infinitely far, got near={near}, far={far}"
        )
