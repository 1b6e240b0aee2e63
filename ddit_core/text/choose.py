"""From logits to tokens. All on the CPU in float64, so that a seed means the same everywhere."""

import torch
from torch import Tensor

from ...kit.errors import JodiError


def compute_token_probabilities(
    logits: Tensor, banned: Tensor, *, temperature: float = 1.0, top_p: float = 1.0
) -> Tensor:
    """Logits (N, V) -> probabilities (N, V) in float64.

    banned: bool (V,) or (N, V), true where a token has no chance. temperature: divides the logits;
    0 puts all on the likeliest token. top_p: only the likeliest tokens that reach this sum.
    Raises: JodiError for logits that are NaN or infinite; a token of minus infinity has no chance.
    """
    logits = logits.detach().cpu().double()
    if not torch.isfinite(logits.amax(-1)).all():
        raise JodiError(
            "the network gave values that are not finite where words were asked for; float16 is "
            "too narrow for some weights: choose bf16 or fp32 as their dtype"
        )
    logits = logits.masked_fill(banned, -torch.inf)
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    # Below the largest first, so that no temperature is too small to divide by.
    p = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = p.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        keep = torch.zeros_like(p, dtype=torch.bool).scatter(-1, order, before < top_p)
        p = p * keep
        p = p / p.sum(-1, keepdim=True)
    return p


def draw_tokens(p: Tensor, uniforms: Tensor) -> Tensor:
    """Probabilities (N, V) and one number in [0, 1) each (N,) -> tokens (N,).

    Drawn by the inverse of the cumulated distribution, so that no probability is too small; the
    published argmax over float32 noise never draws tokens below about 1e-6.
    """
    cumulated = p.cumsum(-1)
    total = cumulated[:, -1:]
    # `right` steps over tokens without a chance; rounding may still reach the total.
    at = torch.searchsorted(cumulated, uniforms.double()[:, None] * total, right=True)
    last = p.shape[-1] - 1 - (p.flip(-1) > 0).int().argmax(-1, keepdim=True)
    return torch.minimum(at, last).squeeze(1)
