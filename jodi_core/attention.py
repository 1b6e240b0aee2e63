"""The two attentions of a block. Attribute names are the keys of the released checkpoint.

Shapes: B rows, A active domains, T tokens per domain, N = A*T, C width, H heads, D head dim,
S text tokens.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dispatch

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


class TextCrossAttention(nn.Module):
    """Softmax attention from every token to the text. Keys and values are prepared once per job.

    Source: github VIPL-GENUN/Jodi @ c21bdcb, MultiHeadCrossAttention.
    """

    def __init__(self, width: int, num_heads: int, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.q_linear = operations.Linear(width, width, **kwargs)
        self.kv_linear = operations.Linear(width, 2 * width, **kwargs)
        self.proj = operations.Linear(width, width, **kwargs)

    def keys_values(self, text_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Text (B, S, C) -> keys and values, each (B, H, S, D)."""
        k, v = self.kv_linear(text_BSC).chunk(2, dim=-1)
        return self._split(k), self._split(v)

    def forward(
        self, x_BATC: Tensor, keys_values: tuple[Tensor, Tensor], bias: Tensor | None
    ) -> Tensor:
        """(B, A, T, C) -> (B, A, T, C). bias: additive on the scores, (B or 1, 1, 1, S)."""
        q = self._split(self.q_linear(x_BATC.flatten(1, 2)))
        # Fused attention wants equal batches; one text for all rows is repeated without a copy.
        k, v = (part.expand(len(q), -1, -1, -1) for part in keys_values)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(x_BATC.shape))

    def _split(self, x_BNC: Tensor) -> Tensor:
        return x_BNC.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
