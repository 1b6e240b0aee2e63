"""How latents, time, text and positions become vectors.

Source: github VIPL-GENUN/Jodi @ c21bdcb, model/nets/jodi.py and model/nets/blocks.py.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kit.layers import RMSNorm
from .config import TransformerConfig


class PatchEmbed(nn.Module):
    """Latent (B, z, h, w) -> tokens (B, T, C), row-major."""

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        p = config.patch_size
        self.proj = operations.Conv2d(
            config.latent_channels, config.hidden_size, p, stride=p, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """Time on 0..1000 -> (B, C): sinusoid (cosines first), Linear, SiLU, Linear."""

    def __init__(self, width: int, frequency_size: int, *, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.frequency_size = frequency_size
        self.mlp = nn.Sequential(
            operations.Linear(frequency_size, width, **kwargs),
            nn.SiLU(),
            operations.Linear(width, width, **kwargs),
        )

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.frequency_size // 2
        wide = torch.promote_types(dtype, torch.float32)
        index = torch.arange(half, dtype=wide, device=timestep.device)
        frequencies = torch.exp(-math.log(10000) * index / half)
        angles = timestep.to(wide)[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class CaptionEmbedder(nn.Module):
    """Text features (B, S, Cc) -> (B, S, C), and the null text used when the image is given."""

    y_embedding: Tensor  # the null text, (S', Cc)

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        shape = (config.caption_length, config.caption_channels)
        self.register_buffer("y_embedding", torch.zeros(shape, **kwargs))
        self.y_proj = _CaptionMLP()
        self.y_proj.fc1 = operations.Linear(config.caption_channels, config.hidden_size, **kwargs)
        self.y_proj.fc2 = operations.Linear(config.hidden_size, config.hidden_size, **kwargs)

    def forward(self, features: Tensor) -> Tensor:
        return self.y_proj.fc2(F.gelu(self.y_proj.fc1(features), approximate="tanh"))

    @staticmethod
    def make_norm(config: TransformerConfig, device=None, dtype=None) -> RMSNorm:
        """The norm behind the caption MLP; it sits at the top level of the released keys."""
        return RMSNorm(config.hidden_size, config.caption_norm_eps, device=device, dtype=dtype)


class _CaptionMLP(nn.Module):
    """Holds two layers under their released names."""

    fc1: nn.Module
    fc2: nn.Module


def make_position_table(config: TransformerConfig, grid: tuple[int, int]) -> Tensor:
    """Sine-cosine table (T, C) float64 on the CPU; the same for every domain. Do not write to it.

    Coordinates are scaled so that every grid spans [0, base) on both axes; the column takes the
    first half of the channels. Angles are computed in float64.
    """
    return _position_table(config.hidden_size, config.pe_base_size, config.pe_interpolation, *grid)


@functools.lru_cache(maxsize=32)
def _position_table(width: int, base: int, interpolation: float, rows: int, columns: int) -> Tensor:
    # Outside inference mode, since the cached table may be used in training later; on the CPU by
    # name, since the default device may lack float64.
    with torch.inference_mode(False), torch.device("cpu"):
        quarter = width // 4
        omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
        y = torch.arange(rows, dtype=torch.float32) / (rows / base) / interpolation
        x = torch.arange(columns, dtype=torch.float32) / (columns / base) / interpolation
        angle_y = (y.double()[:, None] * omega).unsqueeze(1).expand(-1, columns, -1)
        angle_x = (x.double()[:, None] * omega).unsqueeze(0).expand(rows, -1, -1)
        parts = [angle_x.sin(), angle_x.cos(), angle_y.sin(), angle_y.cos()]
        return torch.cat(parts, dim=-1).flatten(0, 1)
