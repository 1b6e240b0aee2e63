"""RMSNorm over the channels of channels-last maps, with activation and residual, in one pass.

The same function as `reference.rms_norm_channels`, with all arithmetic in float32 and one rounding
at the end (the published code rounds before weight and bias too).

Shapes: B batch, C channels, H W pixels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import on_device_of, operator, padded

TILE = 4096  # numbers in a program's tile: many pixels of few channels, or one of many
ACTIVATIONS = (None, "relu", "silu")


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> Tensor:
    batch, channels, height, width = x.shape
    out = torch.empty(batch, height, width, channels, dtype=x.dtype, device=x.device)
    return out.permute(0, 3, 1, 2)


@operator("rms_norm_channels", _fake)
def rms_norm_channels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> Tensor:
    """x and residual (B, C, H, W), weight and bias (C) -> (B, C, H, W) in channels-last memory.

    Maps that are not channels-last are copied into that order first.
    Raises: KeyError for an activation that is not known.
    """
    if activation not in ACTIVATIONS:
        raise KeyError(activation)
    out = _fake(x, weight, bias, eps, residual, activation)
    batch, channels, height, width = x.shape
    if out.numel() == 0:
        return out
    pixels = batch * height * width
    x_rows = _pixels(x)
    side = padded(channels)
    rows = max(TILE // side, 1)
    with on_device_of(x):
        _rms_norm_kernel[(triton.cdiv(pixels, rows),)](
            x_rows,
            weight.contiguous(),
            bias.contiguous(),
            x_rows if residual is None else _pixels(residual),
            out,
            eps,
            pixels,
            RESIDUAL=residual is not None,
            RELU=activation == "relu",
            SILU=activation == "silu",
            WIDTH=channels,
            CHANNELS=side,
            ROWS=rows,
            num_warps=4 if rows * side <= TILE else 8,
        )
    return out


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C) that is dense in memory; no copy where x is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    eps,
    pixels,
    RESIDUAL: tl.constexpr,
    RELU: tl.constexpr,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program norms ROWS pixels."""
    pixel = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, CHANNELS)
    real = channel < WIDTH
    there = (pixel < pixels)[:, None] & real[None, :]
    place = pixel[:, None] * WIDTH + channel[None, :]
    x = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=real, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)
    mean_square = tl.sum(x * x, axis=1) / WIDTH
    out = x * (1.0 / tl.sqrt(mean_square + eps))[:, None] * weight[None, :] + bias[None, :]
    if RELU:
        out = tl.where(out < 0, 0.0, out)  # lets NaN through, as torch does
    if SILU:
        out = out * tl.sigmoid(out)
    if RESIDUAL:
        out += tl.load(residual_ptr + place, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=there)
