"""The self-attention of a block. Attribute names are the keys of the released checkpoint.

Shapes: B rows, A active domains, T tokens per domain, N = A*T, C width, H heads, D head dim.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dispatch, reference

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
