"""One block of two streams. Attribute names are the keys of the released checkpoint.

Both streams have the same layers under other names; they meet only in the attention. Every block
is complete, the last one too, unlike in Stable Diffusion 3.

Shapes: B rows, T image tokens, L text tokens, P of these that are asked for, C width, H heads,
D head dim. A modulation is (B or 1, 6, C): shift, scale and gate of the attention, then of the MLP.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import DDiTConfig
from .embeddings import Modulation

NORM_EPS = 1e-6

# Queries, keys and values of one stream, each (B, tokens, H, D).
Read = tuple[Tensor, Tensor, Tensor]


class JointBlock(nn.Module):
    """A block of the transformer. Source: Esser et al. 2024, figure 2b."""

    def __init__(self, config: DDiTConfig, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"operations": operations, "device": device, "dtype": dtype}
        width = config.hidden_size
        self.norm1 = Modulation(width, 6, **kwargs)
        self.norm1_context = Modulation(width, 6, **kwargs)
        self.attn = JointAttention(config, **kwargs)
        self.ff = FeedForward(width, config.mlp_size, **kwargs)
        self.ff_context = FeedForward(width, config.mlp_size, **kwargs)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        image_mod: Tensor,
        text_mod: Tensor,
        image_read: Read | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both streams, (B, T, C) and (B, L, C) -> the same.

        image_read: what `read_image` gives, where the caller has it already.
        """
        read = self.read_image(image, image_mod) if image_read is None else image_read
        pairs = zip(read, self.attn.read_text(_modulate(text, text_mod, 0)), strict=True)
        attended = attend(*(torch.cat(pair, dim=1) for pair in pairs))
        tokens = image.shape[1]
        image = self._write_image(image, attended[:, :tokens], image_mod)
        return image, self._write_text(text, attended[:, tokens:], text_mod)

    def read_image(self, image: Tensor, image_mod: Tensor) -> Read:
        """Queries, keys and values of the image stream."""
        return self.attn.read_image(_modulate(image, image_mod, 0))

    def image_only(self, image: Tensor, text: Tensor, image_mod: Tensor, text_mod: Tensor):
        """The image stream alone, (B, T, C): for the last block, where no one reads the text."""
        q, *keys_values = self.read_image(image, image_mod)
        others = self.attn.text_keys_values(_modulate(text, text_mod, 0))
        k, v = (torch.cat(pair, dim=1) for pair in zip(keys_values, others, strict=True))
        return self._write_image(image, attend(q, k, v), image_mod)

    def text_only(
        self, image: Tensor, text: Tensor, image_mod: Tensor, text_mod: Tensor, positions: Tensor
    ) -> Tensor:
        """The text stream at `positions` (B, P) alone, (B, P, C): for the last block."""
        text_in = _modulate(text, text_mod, 0)
        keys_values = self.attn.image_keys_values(_modulate(image, image_mod, 0))
        others = self.attn.text_keys_values(text_in)
        k, v = (torch.cat(pair, dim=1) for pair in zip(keys_values, others, strict=True))
        q = self.attn.text_queries(take_positions(text_in, positions))
        return self._write_text(take_positions(text, positions), attend(q, k, v), text_mod)

    def _write_image(self, image: Tensor, attended: Tensor, mod: Tensor) -> Tensor:
        image = image + mod[:, 2:3] * self.attn.to_out[0](attended)
        return image + mod[:, 5:6] * self.ff(_modulate(image, mod, 3))

    def _write_text(self, text: Tensor, attended: Tensor, mod: Tensor) -> Tensor:
        text = text + mod[:, 2:3] * self.attn.to_add_out(attended)
        return text + mod[:, 5:6] * self.ff_context(_modulate(text, mod, 3))


class JointAttention(nn.Module):
    """Projections of both streams around one attention over all their tokens."""

    def __init__(self, config: DDiTConfig, operations=nn, device=None, dtype=None):
        super().__init__()
        self.heads = config.num_heads

        def linear():
            width = config.hidden_size
            return operations.Linear(width, width, device=device, dtype=dtype)

        self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
        self.add_q_proj, self.add_k_proj, self.add_v_proj = linear(), linear(), linear()
        self.to_out = nn.ModuleList([linear()])
        self.to_add_out = linear()

    def read_image(self, x: Tensor) -> Read:
        return self._heads(self.to_q(x)), *self.image_keys_values(x)

    def image_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.to_k(x)), self._heads(self.to_v(x))

    def read_text(self, x: Tensor) -> Read:
        return self.text_queries(x), *self.text_keys_values(x)

    def text_queries(self, x: Tensor) -> Tensor:
        return self._heads(self.add_q_proj(x))

    def text_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.add_k_proj(x)), self._heads(self.add_v_proj(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), linear. `net.1` of the file is a dropout without weights."""

    def __init__(self, width: int, inner: int, operations=nn, device=None, dtype=None):
        super().__init__()
        kwargs = {"operations": operations, "device": device, "dtype": dtype}
        out = operations.Linear(inner, width, device=device, dtype=dtype)
        self.net = nn.ModuleList([GeluLinear(width, inner, **kwargs), nn.Identity(), out])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class GeluLinear(nn.Module):
    def __init__(self, width: int, inner: int, operations=nn, device=None, dtype=None):
        super().__init__()
        self.proj = operations.Linear(width, inner, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of all heads, (B, tokens, H, D) each -> (B, tokens of q, C). No mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


def take_positions(x: Tensor, positions: Tensor) -> Tensor:
    """x (B, L, C) at positions (B, P) -> (B, P, C)."""
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis, without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def _modulate(x: Tensor, mod: Tensor, first: int) -> Tensor:
    """LayerNorm, then scale and shift: parts `first` + 1 and `first` of a modulation."""
    shift, scale = mod[:, first : first + 1], mod[:, first + 1 : first + 2]
    return torch.addcmul(shift, layer_norm(x), 1 + scale)
