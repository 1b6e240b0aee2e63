"""Between the values of an sRGB picture and amounts of light (IEC 61966-2-1)."""

import torch
from torch import Tensor


def srgb_to_linear(x: Tensor) -> Tensor:
    """IEC 61966-2-1 decoding, [0, 1] -> [0, 1]."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0.0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """IEC 61966-2-1 encoding of values clipped to [0, 1]."""
    x = x.clamp(0.0, 1.0)
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp_min(1e-8) ** (1 / 2.4) - 0.055)
