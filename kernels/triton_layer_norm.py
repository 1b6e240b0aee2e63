"""Layer norm with per-domain modulation, and the same fused with the gated residual before it.

The same functions as `reference.layer_norm_modulate` and `reference.gated_residual_norm_modulate`,
in one pass over memory and with one rounding per result instead of one per step. A row stays in
registers between its load and its store, so the variance is the mean of squared deviations:
E[x^2] - mean^2 would save nothing here and cancels where a row's mean is large.

Shapes: B batch, L domains, T tokens per domain, C width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import on_device_of, operator, padded, rows_of_channels

# Rows that one program walks with the modulation of their domain in registers.
ROWS = 4


def _fake_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@operator("layer_norm_modulate", _fake_norm)
def layer_norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """x (B, L, T, C), shift and scale (B or 1, L, C) -> (B, L, T, C)."""
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, None, None, shift, scale, None, normed, eps)
    return normed


def _fake_residual_norm(
    x: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return _fake_norm(x, shift, scale, eps), _fake_norm(x, shift, scale, eps)


@operator("gated_residual_norm_modulate", _fake_residual_norm)
def gated_residual_norm_modulate(
    x: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x and update (B, L, T, C); gate, shift, scale (B or 1, L, C) -> new x, and it normed.

    What is normed is the new x as it is stored, so that both results tell of the same numbers.
    """
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    normed = torch.empty_like(total)
    _launch(x, update, gate, shift, scale, total, normed, eps)
    return total, normed


def _launch(x, update, gate, shift, scale, total, normed, eps: float) -> None:
    if x.numel() == 0:
        return
    batch, domains, tokens, width = x.shape
    x = rows_of_channels(x)
    shift, scale = _modulation(shift, x), _modulation(scale, x)
    # Without an update or a gate any address will do: it is not read.
    update_or_x = x if update is None else rows_of_channels(update)
    gate_or_shift = shift if gate is None else _modulation(gate, x)
    channels = padded(width)
    tiles = triton.cdiv(tokens, ROWS)
    with on_device_of(x):
        _norm_kernel[(batch * domains * tiles,)](
            x,
            update_or_x,
            gate_or_shift,
            shift,
            scale,
            normed if total is None else total,
            normed,
            eps,
            domains,
            tokens,
            tiles,
            *x.stride()[:3],
            *update_or_x.stride()[:3],
            *gate_or_shift.stride()[:2],
            *shift.stride()[:2],
            *scale.stride()[:2],
            UPDATE=update is not None,
            GATE=gate is not None,
            WIDTH=width,
            CHANNELS=channels,
            ROWS=ROWS,
            # 16 channels to a thread: few enough registers that several programs share a core.
            num_warps=min(max(channels // (32 * 16), 1), 16),
        )


def _modulation(vector: Tensor, x: Tensor) -> Tensor:
    """(B or 1, L, C) -> a view (B, L, C) whose channels are neighbours in memory."""
    return rows_of_channels(vector).expand(x.shape[0], x.shape[1], -1)


@triton.jit
def _norm_kernel(
    x_ptr,
    update_ptr,
    gate_ptr,
    shift_ptr,
    scale_ptr,
    total_ptr,
    normed_ptr,
    eps,
    domains,
    tokens,
    tiles,
    x_batch,
    x_domain,
    x_token,
    update_batch,
    update_domain,
    update_token,
    gate_batch,
    gate_domain,
    shift_batch,
    shift_domain,
    scale_batch,
    scale_domain,
    UPDATE: tl.constexpr,
    GATE: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program norms ROWS tokens of one domain."""
    pid = tl.program_id(0)
    first = (pid % tiles).to(tl.int64) * ROWS
    domain = ((pid // tiles) % domains).to(tl.int64)
    batch = (pid // (tiles * domains)).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    real = channel < WIDTH
    shift = tl.load(
        shift_ptr + batch * shift_batch + domain * shift_domain + channel, mask=real, other=0.0
    ).to(tl.float32)
    scale = tl.load(
        scale_ptr + batch * scale_batch + domain * scale_domain + channel, mask=real, other=0.0
    ).to(tl.float32)
    gate = tl.full((CHANNELS,), 1.0, dtype=tl.float32)
    if GATE:
        gate = tl.load(
            gate_ptr + batch * gate_batch + domain * gate_domain + channel, mask=real, other=0.0
        ).to(tl.float32)

    for i in range(0, tl.minimum(tokens - first, ROWS)):
        token = first + i
        x_row = x_ptr + batch * x_batch + domain * x_domain + token * x_token
        row = tl.load(x_row + channel, mask=real, other=0.0).to(tl.float32)
        out = ((batch * domains + domain) * tokens + token) * WIDTH + channel
        if UPDATE:
            update_row = (
                update_ptr + batch * update_batch + domain * update_domain + token * update_token
            )
            update = tl.load(update_row + channel, mask=real, other=0.0).to(tl.float32)
            stored = (row + gate * update).to(total_ptr.dtype.element_ty)
            tl.store(total_ptr + out, stored, mask=real)
            row = stored.to(tl.float32)
        mean = tl.sum(row, axis=0) / WIDTH
        deviation = tl.where(real, row - mean, 0.0)
        variance = tl.sum(deviation * deviation, axis=0) / WIDTH
        normed = deviation * (1.0 / tl.sqrt(variance + eps)) * (1.0 + scale) + shift
        tl.store(normed_ptr + out, normed.to(normed_ptr.dtype.element_ty), mask=real)
