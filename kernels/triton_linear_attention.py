"""ReLU linear attention in two passes: one over keys and values, one over queries.

The same function as `reference.relu_linear_attention`. Queries, keys and values are read where
they lie (slices of one projection, heads interleaved or not, any strides); ReLU and the key mask
are applied as they are read. What lies between the passes is a float32 state of D x D numbers and
a sum of keys per head.

Shapes: B batch, N queries, M keys, H heads, D head dim.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_common import INTERPRETED, on_device_of, operator, padded

# Tokens are summed in this many parts at most, of whole tiles each. The cut depends on the number
# of keys alone, so that neither batch nor device changes the order of a sum.
MOST_PARTS = 16
FEWEST_KEYS_IN_A_PART = 256
KEY_TILE, QUERY_TILE = 64, 128  # tokens at a time, of 16-bit heads of up to 32 channels


def _fake(q: Tensor, k: Tensor, v: Tensor, eps: float, key_mask: Tensor | None) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@operator("relu_linear_attention", _fake)
def relu_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, eps: float, key_mask: Tensor | None
) -> Tensor:
    """q (B, N, H, D), k and v (B, M, H, D), key_mask (B, M) bool or None -> (B, N, H, D).

    16-bit operands: their products are exact in the state; the state enters the second product
    rounded to TF32, no coarser than the operands. float32 operands stay float32 throughout.
    """
    batch, queries, heads, dim = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if out.numel() == 0:
        return out
    if k.shape[1] == 0:
        return out.zero_()
    state = key_value_state(k, v, key_mask)
    channels = padded(dim, 16)
    tile = _tile(QUERY_TILE, channels, q)
    tiles = triton.cdiv(queries, tile)
    with on_device_of(q):
        _apply_kernel[(heads * tiles * batch,)](
            q,
            state,
            out,
            eps,
            heads,
            queries,
            tiles,
            *q.stride(),
            DIM=dim,
            TILE=tile,
            CHANNELS=channels,
            PRECISION=_precision(q),
            num_warps=4 if channels < 128 else 8,
        )
    return out


def key_value_state(k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """k and v (B, M, H, D) -> (B, H, D + 1, D) float32.

    Rows 0..D-1: the sum over keys of relu(k) v^T; row D: the sum of relu(k).
    """
    batch, keys, heads, dim = k.shape
    part, parts = cut(keys)
    channels = padded(dim, 16)
    state = torch.empty(batch, parts, heads, dim + 1, dim, dtype=torch.float32, device=k.device)
    mask = k if key_mask is None else key_mask  # an address that is not read
    with on_device_of(k):
        _state_kernel[(heads * parts * batch,)](
            k,
            v,
            mask,
            state,
            heads,
            keys,
            part,
            parts,
            *k.stride(),
            *v.stride(),
            mask.stride(0),
            mask.stride(1),
            MASKED=key_mask is not None,
            DIM=dim,
            TILE=_tile(KEY_TILE, channels, k),
            CHANNELS=channels,
            PRECISION=_precision(k),
            # The interpreter multiplies no bfloat16; in float32 the products are the same.
            WIDEN=INTERPRETED,
            num_warps=4 if channels < 128 else 8,
            num_stages=2,
        )
    # A sum in a fixed order, where atomic additions would come in any.
    return state.sum(1) if parts > 1 else state.squeeze(1)


def cut(keys: int) -> tuple[int, int]:
    """Keys in a part (a multiple of KEY_TILE), and how many parts there are."""
    part = max(triton.cdiv(keys, MOST_PARTS), FEWEST_KEYS_IN_A_PART)
    part = triton.cdiv(part, KEY_TILE) * KEY_TILE
    return part, triton.cdiv(keys, part)


@triton.jit
def _state_kernel(
    k_ptr,
    v_ptr,
    mask_ptr,
    state_ptr,
    heads,
    keys,
    part,
    parts,
    k_batch,
    k_token,
    k_head,
    k_channel,
    v_batch,
    v_token,
    v_head,
    v_channel,
    mask_batch,
    mask_token,
    MASKED: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One program sums one part of the tokens of one head."""
    # Heads vary fastest: programs that run together read neighbouring channels of the same rows.
    pid = tl.program_id(0)
    head = (pid % heads).to(tl.int64)
    which = (pid // heads) % parts
    batch = (pid // (heads * parts)).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    real = channel < DIM
    k_base = k_ptr + batch * k_batch + head * k_head
    v_base = v_ptr + batch * v_batch + head * v_head

    state = tl.zeros((CHANNELS, CHANNELS), dtype=tl.float32)
    k_sum = tl.zeros((CHANNELS,), dtype=tl.float32)
    first = which * part
    for start in range(first, tl.minimum(first + part, keys), TILE):
        token = start + tl.arange(0, TILE)
        kept = token < keys
        token = token.to(tl.int64)
        if MASKED:
            kept &= tl.load(mask_ptr + batch * mask_batch + token * mask_token, mask=kept, other=0)
        # What a masked token holds is not read: not even NaN can come through.
        there = kept[:, None] & real[None, :]
        k = tl.load(
            k_base + token[:, None] * k_token + channel[None, :] * k_channel, mask=there, other=0.0
        )
        v = tl.load(
            v_base + token[:, None] * v_token + channel[None, :] * v_channel, mask=there, other=0.0
        )
        active = _relu(k)
        k_sum += tl.sum(active, axis=0)
        if WIDEN:
            v = v.to(tl.float32)
        state = tl.dot(tl.trans(active.to(v.dtype)), v, state, input_precision=PRECISION)

    row = tl.arange(0, CHANNELS)
    base = state_ptr + ((batch * parts + which) * heads + head) * ((DIM + 1) * DIM)
    square = (row < DIM)[:, None] & real[None, :]
    tl.store(base + row[:, None] * DIM + channel[None, :], state, mask=square)
    tl.store(base + DIM * DIM + channel, k_sum, mask=real)


@triton.jit
def _apply_kernel(
    q_ptr,
    state_ptr,
    out_ptr,
    eps,
    heads,
    queries,
    tiles,
    q_batch,
    q_token,
    q_head,
    q_channel,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program answers one tile of the queries of one head."""
    pid = tl.program_id(0)
    head = (pid % heads).to(tl.int64)
    tile = (pid // heads) % tiles
    batch = (pid // (heads * tiles)).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    real = channel < DIM
    row = tl.arange(0, CHANNELS)
    base = state_ptr + (batch * heads + head) * ((DIM + 1) * DIM)
    square = (row < DIM)[:, None] & real[None, :]
    state = tl.load(base + row[:, None] * DIM + channel[None, :], mask=square, other=0.0)
    k_sum = tl.load(base + DIM * DIM + channel, mask=real, other=0.0)

    token = tile * TILE + tl.arange(0, TILE)
    there = (token < queries)[:, None] & real[None, :]
    token = token.to(tl.int64)
    q_base = q_ptr + batch * q_batch + head * q_head
    q = tl.load(
        q_base + token[:, None] * q_token + channel[None, :] * q_channel, mask=there, other=0.0
    )
    q = _relu(q)
    numerator = tl.dot(q, state, input_precision=PRECISION)
    denominator = tl.sum(q * k_sum[None, :], axis=1) + eps
    # out is contiguous (B, N, H, D).
    out_row = ((batch * queries + token) * heads + head) * DIM
    out = numerator / denominator[:, None]
    tl.store(
        out_ptr + out_row[:, None] + channel[None, :], out.to(out_ptr.dtype.element_ty), mask=there
    )


@triton.jit
def _relu(x):
    # Not tl.maximum, which turns NaN into 0: torch lets it through, and so a fault stays visible.
    x = x.to(tl.float32)
    return tl.where(x < 0, 0.0, x)


def _tile(tokens: int, channels: int, x: Tensor) -> int:
    """Fewer tokens at a time where heads are wide or numbers long: the same registers and cache."""
    wide = max(channels // 32, 1) * (x.element_size() // 2)
    return max(tokens // wide, 16)


def _precision(x: Tensor) -> str:
    """How tl.dot multiplies float32 numbers: as such if the operands were, else as TF32.

    The products of the state, of two 16-bit operands, are exact in either.
    """
    return "ieee" if x.dtype == torch.float32 else "tf32"
