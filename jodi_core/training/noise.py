"""The noise levels and the loss of flow training, as published."""

import numpy as np
import torch
from torch import Tensor

FLOW_SHIFT = 3.0
FULL_NOISE = 0.9997
"""The noise level of a sampler's first step."""

BANDS = 5
"""Equal parts of the noise levels that losses are logged by."""


def draw_sigma(rng: np.random.Generator) -> float:
    """A noise level: logit-normal, shifted as in sampling.

    Source: github VIPL-GENUN/Jodi @ c21bdcb, which rounds it down to a thousandth; here it is not.
    """
    base = 1 / (1 + np.exp(-rng.standard_normal()))
    return float(FLOW_SHIFT * base / (1 + (FLOW_SHIFT - 1) * base))


def measure_velocity_errors(
    velocity: Tensor, clean: Tensor, noise: Tensor, chosen: list[int]
) -> Tensor:
    """Mean squared error of each chosen domain in each row: (B, L, z, h, w) each -> (B, G).

    Domains that are not generated do not count: the published code counts them as zeros.
    """
    target = noise - clean
    wide = torch.promote_types(velocity.dtype, torch.float32)
    return (velocity[:, chosen].to(wide) - target[:, chosen]).square().mean((2, 3, 4))


def name_band(sigma: float) -> str:
    """The name of a noise level's part, for curves."""
    part = min(int(sigma * BANDS), BANDS - 1)
    return f"noise {part / BANDS:.1f}-{(part + 1) / BANDS:.1f}"
