"""The blocks of the transformer and its output heads.

Attribute names are the keys of the released checkpoint.
Source: arXiv 2505.19084; github VIPL-GENUN/Jodi @ c21bdcb (Apache-2.0), model/nets/blocks.py.
Shapes: B rows, A active domains, T tokens per domain, C width, H heads, V texts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import dispatch, reference
from ...kit.layers import make_depthwise_glu_conv, make_expanding_conv, make_pointwise_conv
from .attention import JointLinearAttention, TextCrossAttention, TextKeys, TwoKeys
from .config import TransformerConfig

Texts = tuple[TextKeys | TwoKeys, ...]
Part = tuple[int, slice]

# glibc returns blocks of 32 MB and more to the system at once, and the next such block is faulted
# in page by page, about 1 ms per MB: as long as the arithmetic on it. Smaller blocks are reused.
CPU_PART_BYTES = 24 * 2**20


class JodiBlock(nn.Module):
    """Joint self-attention, text cross-attention, mix-FFN; modulated by time and role.

    Only the self-attention looks across domains. On a CPU everything else is done a few domains
    at a time, in place, so that temporaries stay small.
    """

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        width = config.hidden_size
        args = (operations, device, dtype)
        self.eps = config.norm_eps_blocks
        self.attn = JointLinearAttention(width, config.linear_head_dim, *args)
        self.cross_attn = TextCrossAttention(width, config.cross_attention_heads, *args)
        self.mlp = MixFFN(width, config.mlp_size, *args)
        self.scale_shift_table = nn.Parameter(torch.empty(6, width, device=device, dtype=dtype))

    def forward(
        self,
        x: Tensor,
        t_modulation: Tensor,
        role_modulation: Tensor,
        texts: Texts,
        grid: tuple[int, int],
        *,
        spread: bool = False,
        keep: int | None = None,
    ) -> Tensor:
        """One block.

        Shapes: x (B, A, T, C), which may be written over; t_modulation (B or 1, 6, C);
        role_modulation (A, 6, C) -> (B, A, T, C), or only the first `keep` domains, where nothing
        reads the others.
        texts: V texts share the rows: the first B / V rows read the first text, and so on. spread:
        the rows of x stand for all texts, and the result has V * B rows.
        """
        table = (self.scale_shift_table.to(x) + t_modulation).unsqueeze(1) + role_modulation
        modulation = table.unbind(2)
        kept = x.shape[1] if keep is None else keep
        parts = self._split_work(x, kept)
        if parts:
            return self._forward_in_parts(x, modulation, texts, grid, spread, kept, parts)
        shift1, scale1, *_ = modulation
        z = dispatch.layer_norm_modulate(x, shift1, scale1, self.eps)
        z = self.attn(z, keep)
        _, _, gate1, *rest = (m[:, :kept] for m in modulation)
        x = reference.gated_residual(x[:, :kept], z, gate1)
        if spread and len(texts) > 1:
            x = x.repeat(len(texts), 1, 1, 1)
            rest = [m if len(m) == 1 else m.repeat(len(texts), 1, 1) for m in rest]
        return self._refine(x, texts, grid, *rest)

    def _refine(self, x, texts: Texts, grid, shift, scale, gate) -> Tensor:
        """Cross-attention and mix-FFN, where every domain is by itself. (B, A, T, C) -> same."""
        halves = zip(x.chunk(len(texts)), texts, strict=True)
        read = [self.cross_attn(half.flatten(1, 2), text) for half, text in halves]
        update = (read[0] if len(read) == 1 else torch.cat(read)).view(x.shape)
        x, z = dispatch.gated_residual_norm_modulate(x, update, None, shift, scale, self.eps)
        return reference.gated_residual(x, self.mlp(z, grid), gate)

    def _forward_in_parts(self, x, modulation, texts: Texts, grid, spread, kept, parts) -> Tensor:
        shift1, scale1, gate1, *rest = modulation
        states: dict[int, Tensor] = {}
        queries: dict[tuple[int, int], Tensor] = {}
        for row, domains in parts:
            piece = x[row : row + 1, domains]
            z = dispatch.layer_norm_modulate(
                piece, _select(shift1, row, domains), _select(scale1, row, domains), self.eps
            )
            q, state = self.attn.read(z)
            states[row] = states[row].add_(state) if row in states else state
            if domains.start < kept:
                queries[row, domains.start] = q
        copies = len(texts) if spread else 1
        per_text = len(x) * copies // len(texts)
        out = x
        if copies > 1 or kept < x.shape[1]:
            out = x.new_empty(len(x) * copies, kept, *x.shape[2:])
        for row, domains in [part for part in parts if part[1].start < kept]:
            update = self.attn.answer(queries.pop((row, domains.start)), states[row])
            piece = x[row : row + 1, domains]
            piece = reference.gated_residual(
                piece, update.view(piece.shape), _select(gate1, row, domains)
            )
            local = [_select(m, row, domains) for m in rest]
            for target in range(row, len(out), len(x)):
                text = texts[target // per_text].row(target % per_text)
                out[target : target + 1, domains] = self._refine(piece, (text,), grid, *local)
        return out

    def _split_work(self, x: Tensor, kept: int) -> list[Part]:
        """Slices of rows and domains to work on one after another, kept domains apart from the
        others; [] where the whole tensor is small enough."""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return []
        domain_bytes = x.shape[2] * self.mlp.expanded * x.element_size()
        count = max(1, CPU_PART_BYTES // domain_bytes)
        if len(x) * x.shape[1] <= count:
            return []
        runs = [slice(i, min(i + count, kept)) for i in range(0, kept, count)]
        runs += [slice(i, min(i + count, x.shape[1])) for i in range(kept, x.shape[1], count)]
        return [(row, run) for row in range(len(x)) for run in runs]


def _select(modulation: Tensor, row: int, domains: slice) -> Tensor:
    """(B or 1, A, C) -> (1, domains, C)."""
    row = row if len(modulation) > 1 else 0
    return modulation[row : row + 1, domains]


class MixFFN(nn.Module):
    """Expand, SiLU, depthwise 3x3 on each domain's grid, gate, contract."""

    def __init__(self, width: int, hidden: int, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.expanded = 2 * hidden
        self.inverted_conv = _Conv(make_expanding_conv(operations)(width, 2 * hidden, 1, **kwargs))
        self.depth_conv = _Conv(
            make_depthwise_glu_conv(operations)(
                2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **kwargs
            )
        )
        pointwise = make_pointwise_conv(operations)
        self.point_conv = _Conv(pointwise(hidden, width, 1, bias=False, **kwargs))

    def forward(self, x_BATC: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, A, T, C) -> (B, A, T, C), each domain on its own grid."""
        tokens = self.inverted_conv.conv(x_BATC.flatten(0, 1))
        tokens = F.silu(tokens, inplace=not torch.is_grad_enabled())
        images = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
        gated = self.depth_conv.conv(images).permute(0, 2, 3, 1).flatten(1, 2)
        return self.point_conv.conv(gated).view(x_BATC.shape)


class FinalLayer(nn.Module):
    """LayerNorm, modulation by time and role, linear map to patches: one per domain."""

    def __init__(self, config: TransformerConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        width = config.hidden_size
        self.eps = config.norm_eps_blocks
        self.linear = operations.Linear(
            width, config.patch_size**2 * config.latent_channels, device=device, dtype=dtype
        )
        self.scale_shift_table = nn.Parameter(torch.empty(2, width, device=device, dtype=dtype))

    def forward(self, x_BTC: Tensor, e_BC: Tensor) -> Tensor:
        """(B, T, C) and the raw time-plus-role vector (B or 1, C) -> (B, T, p*p*z)."""
        shift, scale = (self.scale_shift_table.to(x_BTC) + e_BC.unsqueeze(1)).unbind(1)
        z = dispatch.layer_norm_modulate(
            x_BTC.unsqueeze(1), shift.unsqueeze(1), scale.unsqueeze(1), self.eps
        )
        return self.linear(z.squeeze(1))


class _Conv(nn.Module):
    """Puts a convolution under the released name `conv`."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv
