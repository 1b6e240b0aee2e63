"""The attention kernels against the quadratic form in float64 and against plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.kernels import reference
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.kernels.oracles import TOLERANCE, attention_by_pairs, rounded

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def kernel(device):
    from jodi_pack.kernels import triton_linear_attention

    def call(q, k, v, eps=1e-8, keep=None):
        on = (t.to(device) if t is not None else None for t in (q, k, v, keep))
        q, k, v, keep = on
        return triton_linear_attention.relu_linear_attention(q, k, v, eps, keep).cpu()

    return call


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "dim"),
    [(1, 63, 63, 2, 32), (2, 5, 9, 3, 12), (1, 3, 130, 1, 112), (1, 1, 1, 1, 1), (2, 9, 1, 2, 16)],
)
def test_equals_the_quadratic_form(kernel, poison, batch, queries, keys, heads, dim, dtype):
    q, q64 = rounded(batch, queries, heads, dim, seed=1, dtype=dtype)
    k, k64 = rounded(batch, keys, heads, dim, seed=2, dtype=dtype)
    v, v64 = rounded(batch, keys, heads, dim, seed=3, dtype=dtype)
    ours = kernel(q, k, v)
    assert ours.dtype == dtype
    assert relative_rms(ours, attention_by_pairs(q64, k64, v64, 1e-8)) < TOLERANCE[dtype]


@pytest.mark.parametrize("keys", [256, 257, 700])
def test_tokens_summed_in_parts(kernel, poison, keys):
    """More keys than one program takes: the parts meet in a second sum."""
    q, k, v = randn(1, 4, 2, 8), randn(1, keys, 2, 8, seed=1), randn(1, keys, 2, 8, seed=2)
    expected = reference.relu_linear_attention(q.double(), k.double(), v.double(), 1e-8)
    assert relative_rms(kernel(q, k, v), expected) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(1, (256, 1)), (256, (256, 1)), (257, (256, 2)), (8192, (512, 16)), (8193, (576, 15))],
)
def test_the_cut_covers_every_key_once(device, keys, expected):
    from jodi_pack.kernels.triton_linear_attention import KEY_TILE, cut

    part, parts = cut(keys)
    assert (part, parts) == expected
    assert part % KEY_TILE == 0
    assert part * (parts - 1) < keys <= part * parts


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masked_tokens_are_not_read_whatever_they_hold(kernel, poison, dtype):
    q, q64 = rounded(2, 5, 2, 4, seed=4, dtype=dtype)
    k, k64 = rounded(2, 9, 2, 4, seed=5, dtype=dtype)
    v, v64 = rounded(2, 9, 2, 4, seed=6, dtype=dtype)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0]]).bool()
    k[~keep] = float("nan")
    v[~keep] = float("inf")
    ours = kernel(q, k, v, keep=keep)
    assert relative_rms(ours, attention_by_pairs(q64, k64, v64, 1e-8, keep)) < TOLERANCE[dtype]


def test_one_mask_for_all_rows_comes_as_a_view(kernel):
    q, k, v = randn(2, 3, 1, 4), randn(2, 6, 1, 4, seed=1), randn(2, 6, 1, 4, seed=2)
    keep = torch.tensor([True, False, True, True, False, True]).expand(2, -1)
    expected = kernel(q, k[:, keep[0]], v[:, keep[0]])
    assert torch.allclose(kernel(q, k, v, keep=keep), expected, atol=1e-6)


def test_nothing_kept_gives_zeros(kernel, poison):
    q, k, v = (randn(1, 3, 1, 4, seed=s) for s in range(3))
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert torch.equal(kernel(q, k, v, keep=nothing), torch.zeros(1, 3, 1, 4))
    assert torch.equal(kernel(q, k[:, :0], v[:, :0]), torch.zeros(1, 3, 1, 4))


def test_no_queries_give_nothing(kernel):
    k = randn(1, 3, 1, 4)
    assert kernel(k[:, :0], k, k).shape == (1, 0, 1, 4)


def test_half_precision_sums_do_not_saturate(kernel):
    # 4096 keys of weight 64: the sum, 262144, is beyond float16, the average is not.
    q = torch.full((1, 1, 1, 16), 2.0, dtype=torch.float16)
    k = torch.full((1, 4096, 1, 16), 2.0, dtype=torch.float16)
    v = torch.full((1, 4096, 1, 16), 0.5, dtype=torch.float16)
    assert torch.equal(kernel(q, k, v), torch.full_like(q, 0.5))


@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_a_fault_stays_visible(kernel, place):
    """NaN in a token that counts comes out, as it does in torch; ReLU does not hide it."""
    tensors = {name: randn(1, 3, 1, 4, seed=i) for i, name in enumerate("qkv")}
    tensors[place][0, 1, 0, 2] = float("nan")
    ours = kernel(**tensors)
    theirs = reference.relu_linear_attention(**tensors, eps=1e-8)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert ours.isnan().any()


def test_slices_of_one_projection_are_read_in_place(kernel, poison):
    """As in the transformer, with NaN in every number that is not q, k or v."""
    packed = torch.full((2, 7, 100), float("nan"))
    packed[..., 5:77] = randn(2, 7, 72)
    q, k, v = (part.unflatten(-1, (2, 12)) for part in packed[..., 5:77].chunk(3, dim=-1))
    clean = [part.contiguous() for part in (q, k, v)]
    assert torch.equal(kernel(q, k, v), kernel(*clean))
    # Fewer queries than keys, still in place: domains that only answer.
    assert torch.equal(kernel(q[:, :3], k, v), kernel(*clean)[:, :3])


def test_heads_interleaved_with_keys_and_values(kernel):
    """As in the autoencoder: each run of 3 * D channels is one head's q, k, v."""
    q, k, v = randn(2, 6, 4, 3 * 8).chunk(3, dim=-1)
    expected = reference.relu_linear_attention(q, k, v, 1e-15)
    assert relative_rms(kernel(q, k, v, 1e-15), expected) < TOLERANCE[torch.float32]
    across = (t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (q, k, v))
    assert relative_rms(kernel(*across, 1e-15), expected) < TOLERANCE[torch.float32]


def test_offsets_beyond_32_bits(kernel, far_rows):
    """Tokens 2^30 numbers apart: the third lies behind the 2^31st."""
    far = far_rows(3, 8).view(1, 3, 1, 8)
    near = far.clone()
    assert torch.equal(kernel(far, near, near), kernel(near, near, near))
    assert torch.equal(kernel(near, far, near), kernel(near, near, near))
    assert torch.equal(kernel(near, near, far), kernel(near, near, near))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*(st.integers(1, n) for n in (2, 140, 280, 3, 40))),
    dtype=st.sampled_from(DTYPES),
    masked=st.booleans(),
)
def test_any_size(device, sizes, dtype, masked):
    from jodi_pack.kernels import triton_linear_attention

    batch, queries, keys, heads, dim = sizes
    q = randn(batch, queries, heads, dim, dtype=dtype)
    k = randn(batch, keys, heads, dim, seed=1, dtype=dtype)
    v = randn(batch, keys, heads, dim, seed=2, dtype=dtype)
    keep = randn(batch, keys, seed=3) > -1 if masked else None
    on = [t if t is None else t.to(device) for t in (q, k, v, keep)]
    ours = triton_linear_attention.relu_linear_attention(*on[:3], 1e-3, on[3]).cpu()
    expected = reference.relu_linear_attention(q.double(), k.double(), v.double(), 1e-3, keep)
    assert torch.isfinite(ours).all()
    difference = (ours.double() - expected).square().mean().sqrt()
    assert difference <= TOLERANCE[dtype] * max(expected.square().mean().sqrt(), 1e-3)
