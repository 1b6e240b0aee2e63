"""The depthwise kernel against float64 cells and against plain torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.kernels import reference
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.kernels.oracles import TOLERANCE, conv_glu_by_cells, rounded

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def kernel(device):
    from jodi_pack.kernels import triton_depthwise

    def call(x, weight, bias, grid):
        on = (t.to(device) for t in (x, weight, bias))
        return triton_depthwise.depthwise_conv3x3_glu(*on, grid).cpu()

    return call


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("images", "grid", "hidden"),
    [
        (1, (1, 1), 3),
        (2, (1, 9), 5),  # one row, more columns than a tile
        (1, (9, 1), 3),  # one column
        (1, (5, 9), 70),  # more channels than a tile
        (1, (35, 2), 4),  # more rows than a strip
    ],
    ids=str,
)
def test_equals_the_formula(kernel, poison, images, grid, hidden, dtype):
    h, w = grid
    x, x64 = rounded(images, h * w, 2 * hidden, seed=1, dtype=dtype)
    weight, weight64 = rounded(2 * hidden, 1, 3, 3, seed=2, dtype=dtype)
    bias, bias64 = rounded(2 * hidden, seed=3, dtype=dtype)
    ours = kernel(x, weight, bias, grid)
    assert ours.dtype == dtype
    expected = conv_glu_by_cells(x64, weight64, bias64, grid)
    assert relative_rms(ours, expected) < TOLERANCE[dtype]


def test_images_do_not_see_each_other(kernel):
    """What lies above the first row and below the last is zero, not the next image."""
    x, weight, bias = randn(3, 6, 8), randn(8, 1, 3, 3, seed=1), randn(8, seed=2)
    together = kernel(x, weight, bias, (3, 2))
    for i in range(3):
        # A copy: a view would have the same neighbours in memory as the whole.
        alone = kernel(x[i : i + 1].clone(), weight, bias, (3, 2))
        assert torch.equal(together[i : i + 1], alone)
    expected = reference.depthwise_conv3x3_glu(x, weight, bias, (3, 2))
    assert relative_rms(together, expected) < TOLERANCE[torch.float32]


def test_rows_and_columns_are_not_mixed_up(kernel):
    """A kernel of one tap moves the picture, one cell in the direction of that tap."""
    h, w = 4, 5
    x = torch.zeros(1, h * w, 2)
    x[0, :, 0] = torch.arange(h * w) + 1.0
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            weight = torch.zeros(2, 1, 3, 3)
            weight[0, 0, dr + 1, dc + 1] = 1
            bias = torch.tensor([0.0, 50.0])  # SiLU(50) is 50
            moved = kernel(x, weight, bias, (h, w)).view(h, w) / 50
            expected = torch.zeros(h, w)
            for r in range(h):
                for c in range(w):
                    if 0 <= r + dr < h and 0 <= c + dc < w:
                        expected[r, c] = (r + dr) * w + c + dc + 1
            assert torch.allclose(moved, expected), (dr, dc)


def test_leading_axes_and_views(kernel, poison):
    everything = torch.full((2, 5, 6, 14), float("nan"))
    everything[:, :3, :, 2:12] = randn(2, 3, 6, 10)
    x = everything[:, :3, :, 2:12]
    weight, bias = randn(10, 1, 3, 3, seed=1), randn(10, seed=2)
    ours = kernel(x, weight, bias, (2, 3))
    assert ours.shape == (2, 3, 6, 5)
    expected = reference.depthwise_conv3x3_glu(x.contiguous(), weight, bias, (2, 3))
    assert relative_rms(ours, expected) < TOLERANCE[torch.float32]


def test_a_fault_stays_visible(kernel):
    x, weight, bias = randn(1, 9, 4), randn(4, 1, 3, 3, seed=1), randn(4, seed=2)
    x[0, 0, 0] = float("nan")
    ours = kernel(x, weight, bias, (3, 3))
    expected = reference.depthwise_conv3x3_glu(x, weight, bias, (3, 3))
    assert torch.equal(ours.isnan(), expected.isnan())
    assert ours.isnan().any()


def test_large_gates_do_not_overflow(kernel):
    """exp(100) is beyond float32: SiLU must still give 0 and 100."""
    x = torch.tensor([[[1.0, -100.0], [1.0, 100.0]]])
    weight, bias = torch.zeros(2, 1, 3, 3), torch.zeros(2)
    weight[:, 0, 1, 1] = 1
    ours = kernel(x, weight, bias, (1, 2))[0, :, 0]
    assert torch.allclose(ours, torch.tensor([0.0, 100.0]), atol=1e-6)


def test_offsets_beyond_32_bits(kernel, far_rows):
    far = far_rows(3, 8).view(1, 3, 8)
    weight, bias = (randn(*s, dtype=torch.bfloat16) for s in ((8, 1, 3, 3), (8,)))
    for grid in ((3, 1), (1, 3)):
        ours = kernel(far, weight, bias, grid)
        assert torch.equal(ours, kernel(far.clone(), weight, bias, grid))


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    grid=st.tuples(st.integers(1, 36), st.integers(1, 18)).filter(lambda g: g[0] * g[1] < 80),
    images=st.integers(1, 2),
    hidden=st.integers(1, 66),
    dtype=st.sampled_from(DTYPES),
)
def test_any_size(device, grid, images, hidden, dtype):
    from jodi_pack.kernels import triton_depthwise

    h, w = grid
    x = randn(images, h * w, 2 * hidden, dtype=dtype)
    weight, bias = randn(2 * hidden, 1, 3, 3, seed=1), randn(2 * hidden, seed=2)
    weight, bias = weight.to(dtype), bias.to(dtype)
    on = (t.to(device) for t in (x, weight, bias))
    ours = triton_depthwise.depthwise_conv3x3_glu(*on, grid).cpu()
    wide = (t.double() for t in (x, weight, bias))
    expected = reference.depthwise_conv3x3_glu(*wide, grid)
    assert relative_rms(ours, expected) < TOLERANCE[dtype]
