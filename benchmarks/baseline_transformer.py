"""The transformer in the published code's structure: what ours is compared with.

Written from the formulas, to be read beside `jodi_core.transformer`. All eight domains are computed
whatever their roles, in Python loops; the mix-FFN's 1x1 convolutions are convolutions; keys of
ignored domains are masked; the text side is computed anew at every evaluation and attended through
an additive mask. Nothing is made slower than that. Module names are the checkpoint's keys.
Source: arXiv 2505.19084; github VIPL-GENUN/Jodi @ c21bdcb (Apache-2.0), for structure only.

Shapes: B rows, L domains, T tokens per domain, C width, H heads, D head dim, S text tokens,
z latent channels, h w latent grid.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..jodi_core.model.config import TransformerConfig
from ..jodi_core.model.embeddings import make_position_table
from ..jodi_core.roles import Role
from .holder import Holder

ATTENTION_EPS = 1e-8


class BaselineTransformer(nn.Module):
    """Velocity of all domains; only that of generated domains has a meaning."""

    def __init__(self, config: TransformerConfig, *, device=None, dtype=None):
        super().__init__()
        self.config = config
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        width, domains, p = config.hidden_size, config.num_domains, config.patch_size
        self.domain_embedding = nn.Parameter(torch.empty(domains, width, **made))
        embedders = nn.ModuleList(
            Holder(proj=nn.Conv2d(config.latent_channels, width, p, stride=p, **made))
            for _ in range(domains)
        )
        self.x_embedders = cast(Sequence[Holder], embedders)
        self.t_embedder = Holder(
            mlp=nn.Sequential(
                nn.Linear(config.frequency_size, width, **made),
                nn.SiLU(),
                nn.Linear(width, width, **made),
            )
        )
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width, **made))
        self.y_embedder = Holder(
            y_proj=Holder(
                fc1=nn.Linear(config.caption_channels, width, **made),
                fc2=nn.Linear(width, width, **made),
            )
        )
        null_text = torch.empty(config.caption_length, config.caption_channels, **made)
        self.y_embedder.register_buffer("y_embedding", null_text)
        self.attention_y_norm = RMSNorm(width, config.caption_norm_eps, made)
        self.role_embedder = nn.Embedding(3, width, **made)
        self.role_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width, **made))
        self.blocks = nn.ModuleList(Block(config, made) for _ in range(config.depth))
        self.final_layers = nn.ModuleList(FinalLayer(config, made) for _ in range(domains))

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        caption: Tensor,
        caption_mask: Tensor,
        role: Tensor,
        clean_x: Tensor | None = None,
    ) -> Tensor:
        """One evaluation.

        Shapes: x and clean_x (B, L, z, h, w); timestep (B,) in 0..1000; caption (B or 1, 1, S, Cc);
        caption_mask (B or 1, S), 1 keeps; role (B, L) int -> velocity (B, L, z, h, w). Like the
        published code, time is rounded to the dtype of the weights.
        """
        dtype = self.domain_embedding.dtype
        x, caption, timestep = x.to(dtype), caption.to(dtype), timestep.to(dtype)
        clean_x = torch.zeros_like(x) if clean_x is None else clean_x.to(dtype)
        x = torch.where((role == Role.CONDITION)[:, :, None, None, None], clean_x, x)
        p = self.config.patch_size
        grid = (x.shape[-2] // p, x.shape[-1] // p)
        position = make_position_table(self.config, grid).to(x.device, dtype)

        tokens = []
        for i, embedder in enumerate(self.x_embedders):
            tokens.append(embedder.proj(x[:, i]).flatten(2).transpose(1, 2) + position)
        x_BLTC = torch.stack(tokens, dim=1)
        x_BLTC = x_BLTC.masked_fill((role == Role.IGNORE)[:, :, None, None], 0)

        role_vector = self.role_embedder(role) + self.domain_embedding
        role_modulation = self.role_block(role_vector)
        time_vector = self.t_embedder.mlp(self._sinusoid(timestep).to(dtype))
        time_modulation = self.t_block(time_vector)
        text, bias = self._text(caption, caption_mask, role, dtype)

        for block in self.blocks:
            x_BLTC = block(x_BLTC, time_modulation, role_modulation, role, text, bias, grid)
        outputs = []
        for i, layer in enumerate(self.final_layers):
            out = layer(x_BLTC[:, i], time_vector + role_vector[:, i])
            outputs.append(self._unpatchify(out, grid))
        return torch.stack(outputs, dim=1)

    def _sinusoid(self, timestep: Tensor) -> Tensor:
        half = self.config.frequency_size // 2
        index = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angles = timestep.float()[:, None] * torch.exp(-math.log(10000) * index / half)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    def _text(self, caption, mask, role, dtype) -> tuple[Tensor, Tensor]:
        """Projected text (B, S, C) and an additive score bias (B, 1, 1, S)."""
        rows = len(role)
        dropped = role[:, 0] == Role.CONDITION
        caption = caption.expand(rows, -1, -1, -1).squeeze(1)
        mask = mask.repeat(rows // len(mask), 1).masked_fill(dropped[:, None], 1)
        null = self.y_embedder.y_embedding
        caption = torch.where(dropped[:, None, None], null[: caption.shape[1]], caption)
        mlp = self.y_embedder.y_proj
        text = mlp.fc2(F.gelu(mlp.fc1(caption), approximate="tanh"))
        bias = (1 - mask.to(dtype)) * -10000.0
        return self.attention_y_norm(text), bias[:, None, None]

    def _unpatchify(self, tokens: Tensor, grid) -> Tensor:
        p, channels = self.config.patch_size, self.config.latent_channels
        x = tokens.reshape(len(tokens), *grid, p, p, channels).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(len(tokens), channels, grid[0] * p, grid[1] * p)


class Block(nn.Module):
    """Joint self-attention, text cross-attention, mix-FFN per domain."""

    def __init__(self, config: TransformerConfig, made: dict):
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, config.norm_eps_blocks, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, config.norm_eps_blocks, elementwise_affine=False)
        self.attn = LinearAttention(width, config.linear_head_dim, made)
        self.cross_attn = CrossAttention(width, config.cross_attention_heads, made)
        self.mlp = GatedConv(width, config.mlp_size, made)
        self.scale_shift_table = nn.Parameter(torch.empty(6, width, **made))

    def forward(self, x, time_modulation, role_modulation, role, text, bias, grid) -> Tensor:
        """x (B, L, T, C) -> the same shape."""
        rows, domains, tokens, width = x.shape
        vectors, parts = [], []
        for i in range(domains):
            table = self.scale_shift_table + time_modulation.reshape(rows, 6, width)
            table = table + role_modulation[:, i].reshape(rows, 6, width)
            vectors.append(table.chunk(6, dim=1))
            shift, scale = vectors[i][:2]
            parts.append(modulate(self.norm1(x[:, i]), shift, scale))
        attended = self.attn(torch.cat(parts, dim=1), role, tokens)
        attended = attended.reshape(rows, domains, tokens, width)
        parts = [x[:, i] + vectors[i][2] * attended[:, i] for i in range(domains)]
        x = torch.cat(parts, dim=1)
        x = x + self.cross_attn(x, text, bias)
        x = x.reshape(rows, domains, tokens, width)
        parts = []
        for i in range(domains):
            shift, scale, gate = vectors[i][3:]
            z = self.mlp(modulate(self.norm2(x[:, i]), shift, scale), grid)
            parts.append(x[:, i] + gate * z)
        return torch.stack(parts, dim=1)


class LinearAttention(nn.Module):
    """ReLU linear attention; the row of ones appended to the values gives the denominator."""

    def __init__(self, width: int, head_dim: int, made: dict):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False, **made)
        self.proj = nn.Linear(width, width, **made)

    def forward(self, x_BNC: Tensor, role: Tensor, tokens: int) -> Tensor:
        """(B, N, C) with N = L * tokens; role (B, L) -> (B, N, C)."""
        rows, count, width = x_BNC.shape
        q, k, v = self.qkv(x_BNC).chunk(3, dim=-1)
        keys = [
            part.masked_fill((role[:, i] == Role.IGNORE)[:, None, None], 0)
            for i, part in enumerate(k.split(tokens, dim=1))
        ]
        k = torch.cat(keys, dim=1)
        q, k, v = (
            part.transpose(1, 2).reshape(rows, -1, self.head_dim, count) for part in (q, k, v)
        )
        q, k = F.relu(q), F.relu(k)
        v = F.pad(v, (0, 0, 0, 1), value=1.0)
        out = (v @ k.transpose(-1, -2)) @ q
        out = out.to(torch.promote_types(out.dtype, torch.float32))
        out = (out[:, :, :-1] / (out[:, :, -1:] + ATTENTION_EPS)).to(x_BNC.dtype)
        return self.proj(out.reshape(rows, width, count).transpose(1, 2))


class CrossAttention(nn.Module):
    """Softmax attention of every token to the text."""

    def __init__(self, width: int, heads: int, made: dict):
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width, **made)
        self.kv_linear = nn.Linear(width, 2 * width, **made)
        self.proj = nn.Linear(width, width, **made)

    def forward(self, x_BNC: Tensor, text_BSC: Tensor, bias: Tensor) -> Tensor:
        q = self._split(self.q_linear(x_BNC))
        k, v = (self._split(part) for part in self.kv_linear(text_BSC).chunk(2, dim=-1))
        mask = bias.expand(-1, self.heads, q.shape[2], -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(x_BNC.shape))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GatedConv(nn.Module):
    """The mix-FFN of one domain: expand, SiLU, depthwise 3x3, gate, contract; all convolutions."""

    def __init__(self, width: int, hidden: int, made: dict):
        super().__init__()
        both = 2 * hidden
        self.inverted_conv = Holder(conv=nn.Conv2d(width, both, 1, **made))
        self.depth_conv = Holder(conv=nn.Conv2d(both, both, 3, padding=1, groups=both, **made))
        self.point_conv = Holder(conv=nn.Conv2d(hidden, width, 1, bias=False, **made))

    def forward(self, x_BTC: Tensor, grid) -> Tensor:
        rows, tokens, width = x_BTC.shape
        x = x_BTC.reshape(rows, *grid, width).permute(0, 3, 1, 2)
        x = self.depth_conv.conv(F.silu(self.inverted_conv.conv(x)))
        value, gate = x.chunk(2, dim=1)
        x = self.point_conv.conv(value * F.silu(gate))
        return x.reshape(rows, width, tokens).permute(0, 2, 1)


class FinalLayer(nn.Module):
    """LayerNorm, modulation, linear map to patches."""

    def __init__(self, config: TransformerConfig, made: dict):
        super().__init__()
        width, out = config.hidden_size, config.patch_size**2 * config.latent_channels
        self.norm_final = nn.LayerNorm(width, config.norm_eps_blocks, elementwise_affine=False)
        self.linear = nn.Linear(width, out, **made)
        self.scale_shift_table = nn.Parameter(torch.empty(2, width, **made))

    def forward(self, x_BTC: Tensor, vector_BC: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + vector_BC[:, None]).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x_BTC), shift, scale))


class RMSNorm(nn.Module):
    """RMSNorm over the last axis in float32, weight only."""

    def __init__(self, width: int, eps: float, made: dict):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, **made))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed).to(x.dtype)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift
