"""Every hot operation in plain torch: the specification that other implementations must match.

Shapes: B batch, L domains, T tokens per domain, N tokens in all, C width, H heads, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 2 << 20  # bytes of float32 that a CPU norms at a time


def relu_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, eps: float, key_mask: Tensor | None = None
) -> Tensor:
    """Linear attention with the feature map ReLU, state kept in float32 or wider.

    out_n = (sum_m v_m relu(k_m)^T) relu(q_n) / (sum_m relu(k_m) . relu(q_n) + eps)

    Shapes: q (B, N, H, D), k and v (B, M, H, D), key_mask (B, M) bool, True keeps the
    token -> (B, N, H, D) in the dtype of q. N and M may differ. What a masked token holds, even
    NaN, does not matter.
    Source: arXiv 2410.10629 section 2 (Sana); github VIPL-GENUN/Jodi @ c21bdcb, LiteLA.
    """
    return relu_linear_apply(q, relu_linear_state(k, v, key_mask), eps)


def relu_linear_state(k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """What keys and values add to the state of `relu_linear_attention`.

    States of several runs of tokens may be summed. k and v (B, M, H, D) -> (B, H, D, D + 1)
    float32 or wider: sum of relu(k) v^T, and sum of relu(k) in the last column.
    """
    wide = at_least_float32(k.dtype)
    k, v = F.relu(k).to(wide).transpose(1, 2), v.to(wide).transpose(1, 2)
    if key_mask is not None:
        left_out = ~key_mask[:, None, :, None]
        # Values too: a zero key times a value that is not finite would still give NaN.
        k, v = k.masked_fill(left_out, 0), v.masked_fill(left_out, 0)
    k = k.transpose(-1, -2)
    return torch.cat([k @ v, k.sum(-1, keepdim=True)], dim=-1)


def relu_linear_apply(q: Tensor, state: Tensor, eps: float) -> Tensor:
    """Queries q (B, N, H, D) and the summed state (B, H, D, D + 1) -> (B, N, H, D), q's dtype."""
    out = F.relu(q).to(state.dtype).transpose(1, 2) @ state
    out = out[..., :-1] / (out[..., -1:] + eps)
    return out.transpose(1, 2).to(q.dtype)


def layer_norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm without weights, then x * (1 + scale) + shift.

    Shapes: x (B, L, T, C), shift and scale (B, L, C) -> (B, L, T, C).
    """
    x = F.layer_norm(x, x.shape[-1:], eps=eps)
    return torch.addcmul(shift.unsqueeze(-2), x, 1 + scale.unsqueeze(-2))


def gated_residual(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """x + gate * update. Shapes: x and update (B, L, T, C), gate (B, L, C)."""
    return torch.addcmul(x, update, gate.unsqueeze(-2))


def gated_residual_norm_modulate(
    x: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Where one branch of a block ends and the next begins: the new x, and x normed and modulated.

    x <- x + gate * update (gate None: 1), z = layer_norm_modulate(x, shift, scale, eps).
    Shapes: x and update (B, L, T, C); gate, shift, scale (B or 1, L, C) -> two of (B, L, T, C).
    """
    x = x + update if gate is None else gated_residual(x, update, gate)
    return x, layer_norm_modulate(x, shift, scale, eps)


def depthwise_conv3x3_glu(x: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """Depthwise 3x3 convolution on a grid of tokens, then value * SiLU(gate).

    The first half of the channels is the value, the second half the gate; zero padding of 1.
    Shapes: x (..., T, 2F) with T = h * w row-major, weight (2F, 1, 3, 3), bias (2F)
    -> (..., T, F).
    Source: arXiv 2410.10629 (mix-FFN); github VIPL-GENUN/Jodi @ c21bdcb, GLUMBConv.
    """
    h, w = grid
    lead, channels = x.shape[:-2], x.shape[-1]
    # A permuted view of token-major memory is channels-last: no copy is made here.
    image = x.reshape(-1, h, w, channels).permute(0, 3, 1, 2)
    image = F.conv2d(image, weight, bias, padding=1, groups=channels)
    value, gate = image.permute(0, 2, 3, 1).reshape(*lead, h * w, channels).chunk(2, dim=-1)
    # The convolution's result is ours to write over, unless gradients need it.
    return value * F.silu(gate, inplace=not torch.is_grad_enabled())


def rms_norm_channels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """RMSNorm over the channels of each pixel, arithmetic in float32 or wider, result in x's dtype.

    Rounded once, at the end: closer to the truth than the published code, which rounds before the
    weight too.

    residual + activation(weight * x / rms(x) + bias), with rms over channels.
    Shapes: x and residual (B, C, H, W), weight and bias (C) -> (B, C, H, W). activation: one of
    ACTIVATIONS, or None.
    Raises: KeyError for another activation.
    Source: github mit-han-lab/efficientvit, TritonRMSNorm2d.
    """
    act = (lambda y: y) if activation is None else ACTIVATIONS[activation]
    weight, bias = (p.to(at_least_float32(x.dtype)) for p in (weight, bias))
    if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _rms_norm_pieces(x, weight, bias, eps, residual, act)
    wide = x.to(weight.dtype)
    normed = wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    out = act(torch.addcmul(bias[:, None, None], normed, weight[:, None, None]))
    return (out if residual is None else residual + out).to(x.dtype)


def _rms_norm_pieces(x, weight, bias, eps, residual, act) -> Tensor:
    """The same in pieces that stay in a core's cache: each pass over a large map would be slow."""
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
    given = None if residual is None else residual.permute(0, 2, 3, 1).flatten(0, 2)
    out = torch.empty(pixels.shape, dtype=x.dtype, device=x.device)
    channels = pixels.shape[1]
    step = max(1, PIECE // (channels * weight.element_size()))
    wide = torch.empty(min(step, len(pixels)), channels, dtype=weight.dtype, device=x.device)
    for start in range(0, len(pixels), step):
        piece = pixels[start : start + step]
        y = wide[: len(piece)].copy_(piece)
        scale = torch.linalg.vector_norm(y, dim=1, keepdim=True)
        scale = scale.square_().div_(channels).add_(eps).rsqrt_()
        y = act(y.mul_(scale).mul_(weight).add_(bias))
        if given is not None:
            y += given[start : start + step]
        out[start : start + step] = y
    batch, _, height, width = x.shape
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


ACTIVATIONS = {"relu": F.relu, "silu": F.silu}


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in where half precision is not enough: float32, or float64 as it is."""
    return torch.promote_types(dtype, torch.float32)
