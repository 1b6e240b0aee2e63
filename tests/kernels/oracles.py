"""The operations once more, in float64 and loops straight from the formulas: slow, and independent
of `kernels.reference`; and the tolerances that half precision earns."""

import math

import torch
from jodi_pack.tests.helpers import randn
from torch import Tensor

# Relative RMS error allowed against float64. Inputs are rounded before both sides see them, so what
# is left is the rounding inside and of the result: about one step of the dtype's own precision
# (2^-10 for float16, 2^-7 for bfloat16), a few of float32's, whose sums are longer.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


def rounded(*shape: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random input and the float64 of exactly the same numbers."""
    x = randn(*shape, seed=seed, dtype=dtype)
    return x, x.double()


def attention_by_pairs(q, k, v, eps, keep=None):
    """The quadratic form: every query weighs every kept token by relu(q) . relu(k)."""
    batch, queries, heads, _ = q.shape
    out = torch.full_like(q, float("nan"))
    for b in range(batch):
        kept = [m for m in range(k.shape[1]) if keep is None or keep[b, m]]
        for h in range(heads):
            for n in range(queries):
                asked = q[b, n, h].clamp_min(0)
                weights = [float((asked * k[b, m, h].clamp_min(0)).sum()) for m in kept]
                total = torch.zeros_like(asked)
                for weight, m in zip(weights, kept, strict=True):
                    total += weight * v[b, m, h]
                out[b, n, h] = total / (sum(weights) + eps)
    return out


def layer_norm_by_rows(x, shift, scale, eps):
    """x (B, L, T, C), shift and scale (B or 1, L, C)."""
    batch, domains, tokens, width = x.shape
    out = torch.full_like(x, float("nan"))
    for b in range(batch):
        for i in range(domains):
            add, factor = shift[b % len(shift), i].tolist(), scale[b % len(scale), i].tolist()
            for t in range(tokens):
                row = x[b, i, t].tolist()
                mean = math.fsum(row) / width
                deviation = math.sqrt(math.fsum((c - mean) ** 2 for c in row) / width + eps)
                normed = [
                    (c - mean) / deviation * (1 + f) + a
                    for c, f, a in zip(row, factor, add, strict=True)
                ]
                out[b, i, t] = torch.tensor(normed, dtype=x.dtype)
    return out


def residual_by_rows(x, update, gate):
    """x + gate * update, gate (B or 1, L, C) or None."""
    out = torch.full_like(x, float("nan"))
    for b in range(x.shape[0]):
        for i in range(x.shape[1]):
            for t in range(x.shape[2]):
                factor = 1.0 if gate is None else gate[b % len(gate), i]
                out[b, i, t] = x[b, i, t] + update[b, i, t] * factor
    return out


def conv_glu_by_cells(x, weight, bias, grid):
    """x (I, h * w, 2F) -> (I, h * w, F), one cell after the other."""
    h, w = grid
    hidden = x.shape[-1] // 2
    out = torch.full((*x.shape[:-1], hidden), float("nan"), dtype=x.dtype)
    for image in range(x.shape[0]):
        for r in range(h):
            for c in range(w):
                total = bias.clone()
                for dr in (-1, 0, 1):
                    for dc in (-1, 0, 1):
                        if 0 <= r + dr < h and 0 <= c + dc < w:
                            cell = x[image, (r + dr) * w + c + dc]
                            total += cell * weight[:, 0, dr + 1, dc + 1]
                value, gate = total[:hidden], total[hidden:]
                out[image, r * w + c] = value * gate / (1 + torch.exp(-gate))
    return out


def rms_norm_by_pixels(x, weight, bias, eps):
    """x (B, C, H, W), weight and bias (C)."""
    out = torch.full_like(x, float("nan"))
    for b in range(x.shape[0]):
        for r in range(x.shape[2]):
            for c in range(x.shape[3]):
                pixel = x[b, :, r, c]
                rms = math.sqrt(math.fsum(v * v for v in pixel.tolist()) / len(pixel) + eps)
                out[b, :, r, c] = pixel / rms * weight + bias
    return out
