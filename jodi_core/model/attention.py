"""The self-attention of a block. Attribute names are the keys of the released checkpoint.

Shapes: B rows, A active domains, T tokens per domain, N = A*T, C width, H heads, D head dim.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...kernels import dispatch, reference

SELF_ATTENTION_EPS = 1e-8


class JointLinearAttention(nn.Module):
    """ReLU linear attention over the tokens of all active domains at once.

    The only operation in which domains exchange information.
    Source: arXiv 2505.19084 section 3; github VIPL-GENUN/Jodi @ c21bdcb, LiteLA.
    """

    def __init__(self, width: int, head_dim: int, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.head_dim = head_dim
        self.qkv = operations.Linear(width, 3 * width, bias=False, **kwargs)
        self.proj = operations.Linear(width, width, **kwargs)

    def forward(self, x_BATC: Tensor, queries: int | None = None) -> Tensor:
        """(B, A, T, C) -> (B, A or `queries`, T, C): the first `queries` domains ask all."""
        batch, domains, tokens, width = x_BATC.shape
        asking = domains if queries is None else queries
        qkv = self.qkv(x_BATC.reshape(batch, domains * tokens, width))
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv.chunk(3, dim=-1))
        q = q[:, : asking * tokens]
        out = dispatch.relu_linear_attention(q, k, v, SELF_ATTENTION_EPS)
        return self.proj(out.reshape(batch, asking, tokens, width))

    def read(self, x_BATC: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, A*T, H, D) of some domains, and their part of the state."""
        qkv = self.qkv(x_BATC.flatten(1, 2))
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv.chunk(3, dim=-1))
        # ReLU copies the queries, which lets go of the keys and values beside them.
        return F.relu(q), reference.relu_linear_state(k, v)

    def answer(self, q: Tensor, state: Tensor) -> Tensor:
        """Queries and the state of all domains, as `read` gave them -> (B, A*T, C)."""
        out = reference.relu_linear_apply(q, state, SELF_ATTENTION_EPS)
        return self.proj(out.flatten(-2))


@dataclass(frozen=True)
class TextKeys:
    """Keys and values of one text, (B or 1, H, S, D); bias on the scores, (B or 1, 1, 1, S)."""

    keys: Tensor
    values: Tensor
    bias: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in (self.keys, self.values, self.bias) if part is not None)

    def row(self, index: int) -> "TextKeys":
        """The text of one row."""
        bias = None if self.bias is None else _select_row(self.bias, index)
        return TextKeys(_select_row(self.keys, index), _select_row(self.values, index), bias)


@dataclass(frozen=True)
class TwoKeys:
    """A text of two keys, folded into the projections around the attention.

    A softmax over two keys is a sigmoid of the difference of their scores, so with q = Wq x + bq
    the whole branch is, summed over heads h,
        out = base + sum_h sigmoid(x . direction_h + offset_h) * step_h
    direction_h = Wq_h^T (k0 - k1)_h / sqrt(D), step_h = Wo_h (v0 - v1)_h, base = Wo v1 + bo: two
    thin products instead of two square ones, 15 % of a block.
    Shapes: direction (B or 1, C, H) and offset (B or 1, 1, H) float32 or wider; steps
    (B or 1, H + 1, C), whose last row is the base.
    """

    direction: Tensor
    offset: Tensor
    steps: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return self.direction.nbytes + self.offset.nbytes + self.steps.nbytes

    def row(self, index: int) -> "TwoKeys":
        """The text of one row."""
        parts = (self.direction, self.offset, self.steps)
        return TwoKeys(*(_select_row(part, index) for part in parts))


class TextCrossAttention(nn.Module):
    """Softmax attention from every token to the text. The text's keys and values are prepared once
    per job.

    Source: github VIPL-GENUN/Jodi @ c21bdcb, MultiHeadCrossAttention.
    """

    def __init__(self, width: int, num_heads: int, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.q_linear = operations.Linear(width, width, **kwargs)
        self.kv_linear = operations.Linear(width, 2 * width, **kwargs)
        self.proj = operations.Linear(width, width, **kwargs)

    def prepare(self, text_BSC: Tensor, bias: Tensor | None) -> TextKeys | TwoKeys:
        """Text (B, S, C) and an additive bias on its scores (B or 1, 1, 1, S) or None.

        Texts of two keys are folded. Where gradients flow only one that all rows share is: folding
        many would differentiate through more work than it saves.
        """
        k, v = self.kv_linear(text_BSC).chunk(2, dim=-1)
        if text_BSC.shape[1] == 2 and (len(text_BSC) == 1 or not torch.is_grad_enabled()):
            return self._fold(k, v, bias)
        if bias is not None:
            bias = bias.to(k.dtype)
        return TextKeys(self._split_heads(k), self._split_heads(v), bias)

    def forward(self, x_BNC: Tensor, text: TextKeys | TwoKeys) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        if isinstance(text, TwoKeys):
            score = x_BNC.to(text.direction.dtype) @ text.direction + text.offset
            share = F.pad(torch.sigmoid(score), (0, 1), value=1.0)
            return share.to(x_BNC.dtype) @ text.steps
        q = self._split_heads(self.q_linear(x_BNC))
        # Fused attention wants equal batches; one text for all rows is repeated without a copy.
        k, v = (part.expand(len(q), -1, -1, -1) for part in (text.keys, text.values))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=text.bias)
        return self.proj(out.transpose(1, 2).reshape(x_BNC.shape))

    def _fold(self, k_B2C: Tensor, v_B2C: Tensor, bias: Tensor | None) -> TwoKeys:
        wide = torch.promote_types(k_B2C.dtype, torch.float32)
        heads = (self.num_heads, -1)
        weight, q_bias = read_weight(self.q_linear, k_B2C)
        k = k_B2C.to(wide)
        k = (k[:, 0] - k[:, 1]).unflatten(-1, heads) / (k.shape[-1] // self.num_heads) ** 0.5
        direction = torch.einsum("chd,bhd->bch", weight.to(wide).unflatten(-1, heads), k)
        offset = torch.einsum("hd,bhd->bh", q_bias.to(wide).unflatten(-1, heads), k).unsqueeze(1)
        if bias is not None:
            bias = bias[:, 0].to(wide)
            offset = offset + bias[..., :1] - bias[..., 1:]
        v = v_B2C.to(wide)
        proj, proj_bias = (part.to(wide) for part in read_weight(self.proj, v_B2C))
        # One row for each head: the difference of the values there, zero in other heads.
        per_head = rearrange(v[:, 0] - v[:, 1], "b (h d) -> b d h", h=self.num_heads)
        rows = rearrange(torch.diag_embed(per_head), "b d row h -> b row (h d)")
        steps = torch.cat([rows @ proj, v[:, 1:] @ proj + proj_bias], dim=1)
        return TwoKeys(direction, offset, steps.to(k_B2C.dtype))

    def _split_heads(self, x_BNC: Tensor) -> Tensor:
        return x_BNC.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def read_weight(layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (in, out) and bias (out) of a linear layer, as it applies them to inputs like `like`.

    A host's layer may cast, patch or fetch its weights inside the call, so only the call knows
    them: it is asked about the unit vectors. They are scaled up, so that adding the bias does not
    round the weight away; powers of two change no digits. Layers that multiply in 8 bits clamp
    their inputs at 448, so the scale stays below.
    """
    if type(layer) is nn.Linear:
        return layer.weight.T, layer.bias
    size = cast(int, layer.in_features)
    scale = 2.0**8
    bias = layer(like.new_zeros(1, size))[0]
    wide = torch.promote_types(like.dtype, torch.float32)
    scaled = layer(torch.eye(size, dtype=like.dtype, device=like.device) * scale)
    return (scaled.to(wide) - bias.to(wide)) / scale, bias


def _select_row(x: Tensor, index: int) -> Tensor:
    return x if len(x) == 1 else x[index : index + 1]
