"""The norm kernels against float64 rows and against plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.kernels import reference
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.kernels.oracles import TOLERANCE, layer_norm_by_rows, residual_by_rows, rounded

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def norm(device):
    from jodi_pack.kernels import triton_layer_norm

    def call(x, shift, scale, eps=1e-6):
        on = (t.to(device) for t in (x, shift, scale))
        return triton_layer_norm.layer_norm_modulate(*on, eps).cpu()

    return call


@pytest.fixture
def residual_norm(device):
    from jodi_pack.kernels import triton_layer_norm

    def call(x, update, gate, shift, scale, eps=1e-6):
        on = (t if t is None else t.to(device) for t in (x, update, gate, shift, scale))
        total, z = triton_layer_norm.gated_residual_norm_modulate(*on, eps)
        return total.cpu(), z.cpu()

    return call


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 63, 33), (2, 1, 1, 1), (1, 8, 4, 130)])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_norm_equals_the_formula(norm, poison, shape, shared, dtype):
    batch, domains, _, width = shape
    vectors = (1 if shared else batch, domains, width)
    x, x64 = rounded(*shape, seed=1, dtype=dtype)
    shift, shift64 = rounded(*vectors, seed=2, dtype=dtype)
    scale, scale64 = rounded(*vectors, seed=3, dtype=dtype)
    ours = norm(x, shift, scale)
    assert ours.dtype == dtype
    expected = layer_norm_by_rows(x64, shift64, scale64, 1e-6)
    if width == 1:  # a row of one number is its own mean: nothing but the shift is left
        assert torch.equal(ours, shift.unsqueeze(2).expand(shape))
    else:
        assert relative_rms(ours, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_residual_norm_equals_the_formula(residual_norm, poison, gated, dtype):
    x, x64 = rounded(2, 3, 5, 40, seed=1, dtype=dtype)
    update, update64 = rounded(2, 3, 5, 40, seed=2, dtype=dtype)
    gate, gate64 = rounded(1, 3, 40, seed=3, dtype=dtype) if gated else (None, None)
    shift, shift64 = rounded(2, 3, 40, seed=4, dtype=dtype)
    scale, scale64 = rounded(2, 3, 40, seed=5, dtype=dtype)
    before = x.clone()
    total, z = residual_norm(x, update, gate, shift, scale)
    assert total.dtype == z.dtype == dtype
    assert torch.equal(x, before)
    assert relative_rms(total, residual_by_rows(x64, update64, gate64)) < TOLERANCE[dtype]
    # What is normed is what is stored: x as the next reader will find it.
    expected = layer_norm_by_rows(total.double(), shift64, scale64, 1e-6)
    assert relative_rms(z, expected) < TOLERANCE[dtype]


def test_a_large_mean_does_not_cancel_the_variance(norm):
    """Spread 1 on a mean of 3000: E[x^2] - mean^2 would keep no digit that counts of it."""
    x = 3000 + randn(1, 1, 4, 96)
    zero = torch.zeros(1, 1, 96)
    expected = layer_norm_by_rows(x.double(), zero.double(), zero.double(), 1e-6)
    ours = relative_rms(norm(x, zero, zero), expected)
    square = x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()
    cancelled = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(square + 1e-6)
    # Half a step of float32 at 3000 is 3000 * 2^-24: one for the sum, one for the mean.
    assert ours < 2 * 3000 * 2**-24
    assert relative_rms(cancelled, expected) > 10 * ours


def test_a_constant_row_gives_the_shift(norm):
    x = torch.full((1, 1, 2, 48), 5.0)
    shift, scale = randn(1, 1, 48), randn(1, 1, 48, seed=1)
    assert torch.equal(norm(x, shift, scale)[0, 0], shift[0].expand(2, -1))


def test_views_are_read_in_place(norm, residual_norm, poison):
    """Modulation rows of one table, kept domains of all: as the blocks pass them."""
    table = torch.full((2, 4, 6, 40), float("nan"))
    table[:, :3] = randn(2, 3, 6, 40)
    shift, scale, gate, *_ = (m[:, :3] for m in table.unbind(2))
    x_all = torch.full((2, 4, 5, 40), float("nan"))
    x_all[:, :3] = randn(2, 3, 5, 40, seed=1)
    x, update = x_all[:, :3], randn(2, 5, 3, 40, seed=2).transpose(1, 2)
    clean = [t.contiguous() for t in (x, update, gate, shift, scale)]
    assert torch.equal(norm(x, shift, scale), norm(clean[0], *clean[3:]))
    for ours, expected in zip(
        residual_norm(x, update, gate, shift, scale), residual_norm(*clean), strict=True
    ):
        assert torch.equal(ours, expected)
    # Channels that are no neighbours are copied together first.
    apart = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(norm(apart, shift, scale), norm(clean[0], *clean[3:]))


def test_offsets_beyond_32_bits(norm, residual_norm, far_rows):
    far = far_rows(3, 16).view(1, 1, 3, 16)
    near, vector = far.clone(), torch.ones(1, 1, 16, dtype=torch.bfloat16)
    assert torch.equal(norm(far, vector, vector), norm(near, vector, vector))
    ours = residual_norm(near, far, vector, vector, vector)
    expected = residual_norm(near, near, vector, vector, vector)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_nothing_to_norm(norm):
    assert norm(torch.ones(1, 2, 0, 8), torch.ones(1, 2, 8), torch.ones(1, 2, 8)).shape[2] == 0


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (2, 3, 9))),
    width=st.integers(2, 300),
    dtype=st.sampled_from(DTYPES),
)
def test_any_size(device, sizes, width, dtype):
    from jodi_pack.kernels import triton_layer_norm

    x, update = randn(*sizes, width, dtype=dtype), randn(*sizes, width, seed=1, dtype=dtype)
    gate, shift, scale = (randn(sizes[1], width, seed=s, dtype=dtype)[None] for s in (2, 3, 4))
    on = [t.to(device) for t in (x, update, gate, shift, scale)]
    ours = triton_layer_norm.gated_residual_norm_modulate(*on, 1e-6)
    wide = [t.double() for t in (x, update, gate, shift, scale)]
    total = reference.gated_residual(*wide[:3])
    # From the x that was stored: what rounding it changes is counted once.
    z = reference.layer_norm_modulate(ours[0].cpu().double(), *wide[3:], 1e-6)
    assert relative_rms(ours[0].cpu(), total) < TOLERANCE[dtype]
    assert relative_rms(ours[1].cpu(), z) < TOLERANCE[dtype]
