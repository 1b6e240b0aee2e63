"""Latents, time and modulation as vectors. Attribute names are the keys of the released file.

Shapes: B rows, z latent channels, h w latent grid, T image tokens, C width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kit.errors import ShapeError
from .config import DDiTConfig


class PatchEmbed(nn.Module):
    """Image tokens with their positions.

    The table of positions is read from the file: no formula is sure to give the released values.
    """

    pos_embed: Tensor

    def __init__(self, config: DDiTConfig, operations=nn, device=None, dtype=None):
        super().__init__()
        self.config = config
        kwargs = {"device": device, "dtype": dtype}
        p = config.patch_size
        self.proj = operations.Conv2d(
            config.latent_channels, config.hidden_size, kernel_size=p, stride=p, **kwargs
        )
        cells = config.position_size**2
        self.register_buffer("pos_embed", torch.empty(1, cells, config.hidden_size, **kwargs))

    def forward(self, latent: Tensor) -> Tensor:
        """(B, z, h, w) -> (B, T, C), row by row.

        Raises: ShapeError where the latent is no multiple of the patch, larger than the table of
        positions, or has other channels.
        """
        rows, columns = self.grid(latent)
        tokens = self.proj(latent).flatten(2).transpose(1, 2)
        return tokens + self._positions(rows, columns).to(tokens)

    def grid(self, latent: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens of (B, z, h, w). Raises: ShapeError, as `forward`."""
        p, channels, side = (
            self.config.patch_size,
            self.config.latent_channels,
            self.config.position_size,
        )
        if latent.dim() != 4 or latent.shape[1] != channels:
            raise ShapeError(
                f"latents must be (batch, {channels} channels, h, w), got {tuple(latent.shape)}; "
                "D-DiT takes the latents of the Stable Diffusion 3 VAE"
            )
        h, w = latent.shape[-2:]
        if h % p or w % p or not h or not w:
            raise ShapeError(
                f"the latent grid {h}x{w} must be a multiple of the patch size {p} on both sides; "
                f"with the released VAE, picture sides must be multiples of {8 * p}"
            )
        if max(h, w) > side * p:
            raise ShapeError(
                f"the latent grid {h}x{w} is larger than the model's table of positions, "
                f"{side * p}x{side * p}; use a smaller picture"
            )
        return h // p, w // p

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The middle of the table, (1, T, C)."""
        side = self.config.position_size
        top, left = (side - rows) // 2, (side - columns) // 2
        table = self.pos_embed.unflatten(1, (side, side))
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)


class TimeEmbedding(nn.Module):
    """Time as one vector a row. Unlike in Stable Diffusion 3, there is no pooled text in it."""

    def __init__(self, config: DDiTConfig, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.timestep_embedder = TimestepMLP(config, operations, **kwargs)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """timestep (B,) in 0..1000 -> (B, C) in `dtype`."""
        return self.timestep_embedder(timestep, dtype)


class TimestepMLP(nn.Module):
    """Sinusoid (cosines first) and two layers. The sinusoid is computed in float32 or wider."""

    def __init__(self, config: DDiTConfig, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.frequencies = config.frequency_size // 2
        width = config.hidden_size
        self.linear_1 = operations.Linear(config.frequency_size, width, **kwargs)
        self.linear_2 = operations.Linear(width, width, **kwargs)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        exponents = torch.arange(self.frequencies, dtype=wide, device=timestep.device)
        frequencies = torch.exp(-math.log(10000) * exponents / self.frequencies)
        angles = timestep.to(wide)[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.linear_2(F.silu(self.linear_1(waves.to(dtype))))


class Modulation(nn.Module):
    """Vectors that shift, scale and gate a stream by time, in the order of the file."""

    def __init__(self, width: int, parts: int, operations=nn, device=None, dtype=None):
        super().__init__()
        self.parts = parts
        self.linear = operations.Linear(width, parts * width, device=device, dtype=dtype)

    def forward(self, time: Tensor) -> Tensor:
        """(B, C) -> (B, parts, C)."""
        return self.linear(F.silu(time)).unflatten(-1, (self.parts, -1))
