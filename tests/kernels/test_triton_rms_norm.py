"""The RMSNorm kernel against float64 pixels and against plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.kernels import reference
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.kernels.oracles import TOLERANCE, rms_norm_by_pixels, rounded

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def kernel(device):
    from jodi_pack.kernels import triton_rms_norm

    def call(x, weight, bias, eps=1e-5, residual=None, activation=None):
        x, weight, bias, residual = (
            t if t is None else t.to(device) for t in (x, weight, bias, residual)
        )
        return triton_rms_norm.rms_norm_channels(x, weight, bias, eps, residual, activation).cpu()

    return call


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 3, 2), (1, 128, 7, 9), (1, 33, 1, 1), (3, 1, 1, 5)])
def test_equals_the_formula(kernel, poison, shape, dtype):
    x, x64 = rounded(*shape, seed=1, dtype=dtype)
    weight, weight64 = rounded(shape[1], seed=2, dtype=dtype)
    bias, bias64 = rounded(shape[1], seed=3, dtype=dtype)
    ours = kernel(x, weight, bias)
    assert ours.dtype == dtype
    assert relative_rms(ours, rms_norm_by_pixels(x64, weight64, bias64, 1e-5)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("added", [False, True], ids=["alone", "added"])
def test_activation_and_residual(kernel, poison, activation, added, dtype):
    x, x64 = rounded(2, 24, 3, 5, seed=1, dtype=dtype)
    weight, weight64 = rounded(24, seed=2, dtype=dtype)
    bias, bias64 = rounded(24, seed=3, dtype=dtype)
    residual, residual64 = rounded(2, 24, 3, 5, seed=4, dtype=dtype) if added else (None, 0.0)
    normed = rms_norm_by_pixels(x64, weight64, bias64, 1e-5)
    if activation == "relu":
        normed = normed * (normed > 0)
    elif activation == "silu":
        normed = normed / (1 + torch.exp(-normed))
    ours = kernel(x, weight, bias, residual=residual, activation=activation)
    assert relative_rms(ours, residual64 + normed) < TOLERANCE[dtype]
    plain = reference.rms_norm_channels(x64, weight64, bias64, 1e-5, None, activation)
    assert relative_rms(plain + residual64, residual64 + normed) < TOLERANCE[torch.float64]


def test_the_result_is_channels_last_whatever_came(kernel, poison):
    x, weight, bias = randn(2, 6, 3, 5), randn(6, seed=1), randn(6, seed=2)
    ordinary = kernel(x, weight, bias, residual=x)
    last = x.contiguous(memory_format=torch.channels_last)
    assert ordinary.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(ordinary, kernel(last, weight, bias, residual=last))
    cropped = randn(2, 6, 5, 9)[:, :, 1:4, 2:7]
    assert torch.equal(kernel(cropped, weight, bias), kernel(cropped.clone(), weight, bias))


def test_squares_beyond_half_precision_do_not_overflow(kernel):
    x = torch.full((1, 4, 1, 1), 1000.0, dtype=torch.float16)
    ones, zeros = torch.ones(4, dtype=torch.float16), torch.zeros(4, dtype=torch.float16)
    assert torch.equal(kernel(x, ones, zeros), torch.ones_like(x))


def test_a_pixel_of_zeros_gives_the_bias(kernel):
    weight, bias = randn(7), randn(7, seed=1)
    assert torch.equal(kernel(torch.zeros(1, 7, 1, 2), weight, bias)[0, :, 0, 0], bias)


def test_an_unknown_activation_is_refused_by_both(kernel):
    x, one = randn(1, 4, 2, 2), torch.ones(4)
    with pytest.raises(KeyError):
        kernel(x, one, one, activation="gelu")
    with pytest.raises(KeyError):
        reference.rms_norm_channels(x, one, one, 1e-5, None, "gelu")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(shape=st.tuples(*(st.integers(1, n) for n in (2, 200, 9, 9))), dtype=st.sampled_from(DTYPES))
def test_any_size(device, shape, dtype):
    from jodi_pack.kernels import triton_rms_norm

    x = randn(*shape, dtype=dtype)
    weight, bias = (randn(shape[1], seed=s, dtype=dtype) for s in (1, 2))
    on = [t.to(device) for t in (x, weight, bias)]
    ours = triton_rms_norm.rms_norm_channels(*on, 1e-5, None, None).cpu()
    expected = reference.rms_norm_channels(x.double(), weight.double(), bias.double(), 1e-5)
    assert relative_rms(ours, expected) < TOLERANCE[dtype]
