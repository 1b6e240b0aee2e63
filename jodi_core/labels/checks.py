"""What a label's picture must be, coming from the decoder or from a program.

Two ranges occur. The network's is [-1, 1] (the autoencoder in and out), a picture's is [0, 1].
Everything in this room takes any floating dtype, clamps to its range and returns float32.
Shapes: B batch, H W pixels.
"""

import math

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError


def check_picture(picture: Tensor, what: str = "picture") -> Tensor:
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


def check_decoded(x: Tensor) -> None:
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


def clamp_decoded(x: Tensor) -> Tensor:
    check_decoded(x)
    return x.to(torch.float32).clamp(-1, 1)


def repeat_gray(plane: Tensor) -> Tensor:
    return plane[:, None].expand(-1, 3, -1, -1).contiguous()


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise JodiError(f"{what} is {value!r}; use one of {', '.join(allowed)}")
