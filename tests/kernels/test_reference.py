"""The plain torch operations against slow float64 loops written from the formulas."""

import math

import pytest
import torch
from jodi_pack.kernels import dispatch, reference
from jodi_pack.tests.helpers import randn, relative_rms

# Relative RMS error allowed against float64. Inputs are rounded before both sides see them, so what
# is left is the rounding inside: a few steps of the dtype's own precision.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))


def rounded(*shape, seed, dtype):
    """Random input and the float64 of exactly the same numbers."""
    x = randn(*shape, seed=seed, dtype=dtype)
    return x, x.double()


def test_the_seam_offers_every_operation():
    assert set(dispatch.__all__) == {
        "depthwise_conv3x3_glu",
        "gated_residual",
        "gated_residual_norm_modulate",
        "layer_norm_modulate",
        "relu_linear_attention",
        "rms_norm_channels",
    }


def attention_by_pairs(q, k, v, eps, keep=None):
    """The quadratic form: every query weighs every kept token by relu(q) . relu(k)."""
    batch, queries, heads, dim = q.shape
    out = torch.zeros_like(q)
    for b in range(batch):
        kept = [m for m in range(k.shape[1]) if keep is None or keep[b, m]]
        for h in range(heads):
            for n in range(queries):
                weights = [
                    sum(
                        max(float(q[b, n, h, d]), 0) * max(float(k[b, m, h, d]), 0)
                        for d in range(dim)
                    )
                    for m in kept
                ]
                for d in range(dim):
                    total = sum(
                        w * float(v[b, m, h, d]) for w, m in zip(weights, kept, strict=True)
                    )
                    out[b, n, h, d] = total / (sum(weights) + eps)
    return out


class TestReluLinearAttention:
    @pytest.mark.long
    @DTYPES
    @pytest.mark.parametrize(
        ("batch", "queries", "keys", "heads", "dim"),
        [(1, 1, 1, 1, 1), (2, 7, 13, 3, 5), (1, 13, 7, 2, 8), (3, 6, 6, 1, 11)],
    )
    def test_equals_the_quadratic_form(self, batch, queries, keys, heads, dim, dtype):
        q, q64 = rounded(batch, queries, heads, dim, seed=1, dtype=dtype)
        k, k64 = rounded(batch, keys, heads, dim, seed=2, dtype=dtype)
        v, v64 = rounded(batch, keys, heads, dim, seed=3, dtype=dtype)
        ours = reference.relu_linear_attention(q, k, v, 1e-8)
        assert ours.dtype == dtype
        assert relative_rms(ours, attention_by_pairs(q64, k64, v64, 1e-8)) < TOLERANCE[dtype]

    @DTYPES
    def test_masked_tokens_are_not_read_whatever_they_hold(self, dtype):
        q, q64 = rounded(2, 5, 2, 4, seed=4, dtype=dtype)
        k, k64 = rounded(2, 9, 2, 4, seed=5, dtype=dtype)
        v, v64 = rounded(2, 9, 2, 4, seed=6, dtype=dtype)
        keep = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0]]).bool()
        k[~keep] = float("nan")
        v[~keep] = float("inf")
        ours = reference.relu_linear_attention(q, k, v, 1e-8, keep)
        assert relative_rms(ours, attention_by_pairs(q64, k64, v64, 1e-8, keep)) < TOLERANCE[dtype]

    def test_nothing_kept_gives_zeros(self):
        q, k, v = (randn(1, 3, 1, 4, seed=s) for s in range(3))
        out = reference.relu_linear_attention(q, k, v, 1e-8, torch.zeros(1, 3, dtype=torch.bool))
        assert torch.equal(out, torch.zeros(1, 3, 1, 4))

    def test_no_positive_query_gives_zeros_and_no_nan(self):
        q, k, v = -torch.ones(1, 2, 1, 4), randn(1, 3, 1, 4), randn(1, 3, 1, 4, seed=1)
        assert torch.equal(reference.relu_linear_attention(q, k, v, 1e-8), torch.zeros(1, 2, 1, 4))

    def test_the_epsilon_counts_where_keys_are_small(self):
        q = torch.full((1, 1, 1, 2), 1e-4, dtype=torch.float64)
        v = torch.full((1, 1, 1, 2), 3.0, dtype=torch.float64)
        out = reference.relu_linear_attention(q, q, v, 1e-8)
        # one key, weight 2e-8: 3 * 2e-8 / (2e-8 + 1e-8)
        assert torch.allclose(out, torch.full_like(out, 2.0))

    def test_half_precision_sums_do_not_saturate(self):
        # 4096 keys of weight 64: the sum, 262144, is beyond float16, the average is not.
        q = torch.full((1, 1, 1, 16), 2.0, dtype=torch.float16)
        k = torch.full((1, 4096, 1, 16), 2.0, dtype=torch.float16)
        v = torch.full((1, 4096, 1, 16), 0.5, dtype=torch.float16)
        assert torch.equal(reference.relu_linear_attention(q, k, v, 1e-8), torch.full_like(q, 0.5))

    def test_strides_do_not_matter(self):
        packed = randn(2, 6, 3 * 2 * 4, seed=7, dtype=torch.float64)
        q, k, v = (part.unflatten(-1, (2, 4)) for part in packed.chunk(3, dim=-1))
        assert not q.is_contiguous()
        ours = reference.relu_linear_attention(q, k, v, 1e-8)
        clean = reference.relu_linear_attention(q.clone(), k.clone(), v.clone(), 1e-8)
        assert torch.equal(ours, clean)


class TestLayerNormModulate:
    @DTYPES
    def test_equals_the_formula(self, dtype):
        x, x64 = rounded(2, 3, 5, 7, seed=1, dtype=dtype)
        shift, shift64 = rounded(2, 3, 7, seed=2, dtype=dtype)
        scale, scale64 = rounded(2, 3, 7, seed=3, dtype=dtype)
        expected = torch.empty_like(x64).fill_(float("nan"))
        for b in range(2):
            for i in range(3):
                for t in range(5):
                    row = [float(c) for c in x64[b, i, t]]
                    mean = sum(row) / 7
                    deviation = math.sqrt(sum((c - mean) ** 2 for c in row) / 7 + 1e-6)
                    for c in range(7):
                        normed = (row[c] - mean) / deviation
                        expected[b, i, t, c] = normed * (1 + float(scale64[b, i, c])) + float(
                            shift64[b, i, c]
                        )
        ours = reference.layer_norm_modulate(x, shift, scale, 1e-6)
        assert relative_rms(ours, expected) < TOLERANCE[dtype]

    def test_one_row_of_modulation_serves_the_batch(self):
        x, shift, scale = randn(3, 2, 4, 6), randn(1, 2, 6, seed=1), randn(1, 2, 6, seed=2)
        ours = reference.layer_norm_modulate(x, shift, scale, 1e-6)
        repeated = (v.expand(3, -1, -1).clone() for v in (shift, scale))
        assert torch.equal(ours, reference.layer_norm_modulate(x, *repeated, 1e-6))

    def test_a_constant_row_gives_the_shift(self):
        x = torch.full((1, 1, 1, 8), 5.0)
        shift, scale = randn(1, 1, 8), randn(1, 1, 8, seed=1)
        assert torch.equal(reference.layer_norm_modulate(x, shift, scale, 1e-6)[0, 0], shift[0])


@DTYPES
def test_gated_residual_equals_the_formula(dtype):
    x, x64 = rounded(2, 3, 5, 7, seed=1, dtype=dtype)
    update, update64 = rounded(2, 3, 5, 7, seed=2, dtype=dtype)
    gate, gate64 = rounded(2, 3, 7, seed=3, dtype=dtype)
    expected = torch.empty_like(x64).fill_(float("nan"))
    for b in range(2):
        for i in range(3):
            for t in range(5):
                for c in range(7):
                    expected[b, i, t, c] = x64[b, i, t, c] + update64[b, i, t, c] * gate64[b, i, c]
    before = x.clone()
    assert relative_rms(reference.gated_residual(x, update, gate), expected) < TOLERANCE[dtype]
    assert torch.equal(x, before)


class TestDepthwiseConvGlu:
    @DTYPES
    @pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 1), (3, 5), (2, 7)])
    def test_equals_the_formula(self, grid, dtype):
        (h, w), hidden = grid, 3
        x, x64 = rounded(2, h * w, 2 * hidden, seed=1, dtype=dtype)
        weight, weight64 = rounded(2 * hidden, 1, 3, 3, seed=2, dtype=dtype)
        bias, bias64 = rounded(2 * hidden, seed=3, dtype=dtype)

        def conv(b, r, c, channel):
            total = float(bias64[channel])
            for dr in (-1, 0, 1):
                for dc in (-1, 0, 1):
                    if 0 <= r + dr < h and 0 <= c + dc < w:
                        value = x64[b, (r + dr) * w + c + dc, channel]
                        total += float(value * weight64[channel, 0, dr + 1, dc + 1])
            return total

        expected = torch.full((2, h * w, hidden), float("nan"), dtype=torch.float64)
        for b in range(2):
            for r in range(h):
                for c in range(w):
                    for i in range(hidden):
                        gate = conv(b, r, c, hidden + i)
                        silu = gate / (1 + math.exp(-gate))
                        expected[b, r * w + c, i] = conv(b, r, c, i) * silu
        ours = reference.depthwise_conv3x3_glu(x, weight, bias, grid)
        assert relative_rms(ours, expected) < 2 * TOLERANCE[dtype]

    def test_leading_axes_are_kept(self):
        x, weight, bias = randn(2, 3, 6, 8), randn(8, 1, 3, 3, seed=1), randn(8, seed=2)
        ours = reference.depthwise_conv3x3_glu(x, weight, bias, (2, 3))
        assert ours.shape == (2, 3, 6, 4)
        for b in range(2):
            for i in range(3):
                alone = reference.depthwise_conv3x3_glu(x[b, i : i + 1], weight, bias, (2, 3))
                assert torch.allclose(ours[b, i], alone[0], atol=1e-6)


class TestRmsNormChannels:
    @DTYPES
    def test_equals_the_formula(self, dtype):
        x, x64 = rounded(2, 5, 3, 2, seed=1, dtype=dtype)
        weight, weight64 = rounded(5, seed=2, dtype=dtype)
        bias, bias64 = rounded(5, seed=3, dtype=dtype)
        expected = torch.full_like(x64, float("nan"))
        for b in range(2):
            for r in range(3):
                for c in range(2):
                    rms = math.sqrt(sum(float(v) ** 2 for v in x64[b, :, r, c]) / 5 + 1e-5)
                    for i in range(5):
                        expected[b, i, r, c] = x64[b, i, r, c] / rms * weight64[i] + bias64[i]
        ours = reference.rms_norm_channels(x, weight, bias, 1e-5)
        assert ours.dtype == dtype
        assert relative_rms(ours, expected) < TOLERANCE[dtype]

    def test_squares_beyond_half_precision_do_not_overflow(self):
        x = torch.full((1, 4, 1, 1), 1000.0, dtype=torch.float16)
        ones, zeros = torch.ones(4, dtype=torch.float16), torch.zeros(4, dtype=torch.float16)
        assert torch.equal(reference.rms_norm_channels(x, ones, zeros, 1e-5), torch.ones_like(x))
