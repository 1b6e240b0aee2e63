"""Depthwise 3x3 convolution, bias and value * SiLU(gate) on token-major grids, in one pass.

The same function as `reference.depthwise_conv3x3_glu`. Each input row is read once per strip and
added into the three output rows it touches, which wait in registers until their last row has come;
its three column shifts are three loads of which two meet the cache. Nothing of the convolution's
2F channels is written: only the F that the gate leaves.

Shapes: I images (all leading axes), T = h * w tokens, F channels after the gate.
"""

from typing import Sequence  # noqa: UP035 - the one that torch 2.4 knows in an operator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import on_device_of, operator, padded, rows_of_channels

STRIP = 32  # output rows of one program, which reads two rows beyond them
COLUMNS, CHANNELS, WARPS = 8, 64, 4
STAGES = 3  # rows on their way: registers hold too few programs to hide memory's latency


def _fake(x: Tensor, weight: Tensor, bias: Tensor, grid: Sequence[int]) -> Tensor:
    return torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype, device=x.device)


@operator("depthwise_conv3x3_glu", _fake)
def _depthwise_conv3x3_glu(x: Tensor, weight: Tensor, bias: Tensor, grid: Sequence[int]) -> Tensor:
    h, w = grid
    out = _fake(x, weight, bias, grid)
    if out.numel() == 0:
        return out
    images = rows_of_channels(x).reshape(-1, h * w, x.shape[-1])
    hidden = out.shape[-1]
    strips, columns = triton.cdiv(h, STRIP), triton.cdiv(w, COLUMNS)
    slices = triton.cdiv(hidden, CHANNELS)
    with on_device_of(x):
        _depthwise_kernel[(len(images) * strips * columns * slices,)](
            images,
            weight.contiguous(),
            bias.contiguous(),
            out,
            h,
            w,
            hidden,
            strips,
            columns,
            slices,
            *images.stride()[:2],
            STRIP=min(STRIP, padded(h)),
            COLUMNS=COLUMNS,
            CHANNELS=CHANNELS,
            STAGES=STAGES,
            num_warps=WARPS,
        )
    return out


def depthwise_conv3x3_glu(x: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """x (..., T, 2F), weight (2F, 1, 3, 3), bias (2F), grid (h, w) -> (..., T, F)."""
    return _depthwise_conv3x3_glu(x, weight, bias, list(grid))


@triton.jit
def _depthwise_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    h,
    w,
    hidden,
    strips,
    columns,
    slices,
    x_image,
    x_token,
    STRIP: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One program computes a strip of rows, COLUMNS wide, of CHANNELS values and their gates."""
    # Slices of channels vary fastest: programs that run together read whole tokens.
    pid = tl.program_id(0)
    channel = (pid % slices) * CHANNELS + tl.arange(0, CHANNELS)
    column = ((pid // slices) % columns).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    first = ((pid // (slices * columns)) % strips).to(tl.int64) * STRIP
    image = (pid // (slices * columns * strips)).to(tl.int64)
    real = channel < hidden
    x_image_ptr = x_ptr + image * x_image
    out_image_ptr = out_ptr + image * h * w * hidden

    v0, v1, v2, v3, v4, v5, v6, v7, v8 = _taps(weight_ptr, channel, real)
    g0, g1, g2, g3, g4, g5, g6, g7, g8 = _taps(weight_ptr + hidden * 9, channel, real)
    zero = tl.zeros((COLUMNS, CHANNELS), dtype=tl.float32)
    value_bias = tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)[None, :] + zero
    gate_bias = (
        tl.load(bias_ptr + hidden + channel, mask=real, other=0.0).to(tl.float32)[None, :] + zero
    )
    # Output rows that are not yet whole: the one above the row being read, and that row itself.
    value_above, value_here = value_bias, value_bias
    gate_above, gate_here = gate_bias, gate_bias
    for i in tl.range(0, tl.minimum(h - first, STRIP) + 2, num_stages=STAGES):
        y = first + i - 1
        # No column lies within reach of a row outside the grid: it reads as zeros.
        reach = tl.where(y < 0, 0, tl.where(y < h, w, 0))
        row_ptr = x_image_ptr + y * w * x_token
        left, here, right = _row(row_ptr, x_token, column, channel, real, reach)
        value_above = value_above + v6 * left + v7 * here + v8 * right
        value_here = value_here + v3 * left + v4 * here + v5 * right
        value_below = value_bias + v0 * left + v1 * here + v2 * right
        left, here, right = _row(row_ptr + hidden, x_token, column, channel, real, reach)
        gate_above = gate_above + g6 * left + g7 * here + g8 * right
        gate_here = gate_here + g3 * left + g4 * here + g5 * right
        gate_below = gate_bias + g0 * left + g1 * here + g2 * right
        # The row above has now seen its three rows, if it is of this strip.
        there = (column < tl.where(y > first, w, 0))[:, None] & real[None, :]
        out_row = out_image_ptr + (y - 1) * w * hidden
        tl.store(
            out_row + column[:, None] * hidden + channel[None, :],
            (value_above * gate_above * tl.sigmoid(gate_above)).to(out_ptr.dtype.element_ty),
            mask=there,
        )
        value_above, value_here = value_here, value_below
        gate_above, gate_here = gate_here, gate_below


@triton.jit
def _row(row_ptr, x_token, column, channel, real, reach):
    """A tile of an input row: the left neighbours, the columns themselves, the right neighbours."""
    return (
        _tile(row_ptr, x_token, column - 1, channel, real, reach),
        _tile(row_ptr, x_token, column, channel, real, reach),
        _tile(row_ptr, x_token, column + 1, channel, real, reach),
    )


@triton.jit
def _tile(row_ptr, x_token, column, channel, real, reach):
    there = ((column >= 0) & (column < reach))[:, None] & real[None, :]
    x = tl.load(row_ptr + column[:, None] * x_token + channel[None, :], mask=there, other=0.0)
    return x.to(tl.float32)


@triton.jit
def _taps(weight_ptr, channel, real):
    """The nine weights of each channel, row by row, each (1, CHANNELS)."""
    base = weight_ptr + channel * 9
    return (
        tl.load(base, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 1, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 2, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 3, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 4, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 5, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 6, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 7, mask=real, other=0.0).to(tl.float32)[None, :],
        tl.load(base + 8, mask=real, other=0.0).to(tl.float32)[None, :],
    )
