"""Layers that both networks share: the memory that expanding convolutions use again."""

import threading

import pytest
import torch
import torch.nn.functional as F
from jodi_pack.kit.layers import make_expanding_conv


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return make_expanding_conv(torch.nn)(6, 10, 1)


def expected(conv, x):
    return F.linear(x, conv.weight.flatten(1), conv.bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_results_are_the_matrix_product(conv, dtype, mode):
    conv.to(dtype)
    with mode():
        for shape in ((1, 3, 6), (2, 7, 6), (1, 1, 6)):  # longer than the memory so far, then not
            x = torch.randn(shape).to(dtype)
            assert torch.equal(conv(x), expected(conv, x))


def test_memory_made_in_inference_mode_serves_outside_of_it(conv):
    x = torch.randn(1, 40, 6)
    with torch.inference_mode():
        conv(torch.randn(1, 90, 6))
    with torch.no_grad():
        assert torch.equal(F.relu_(conv(x)), F.relu(expected(conv, x)))


def test_results_share_memory_and_another_thread_has_its_own(conv):
    x = torch.randn(1, 5, 6)
    found = []

    def other():
        with torch.no_grad():
            found.append(conv(-x))

    with torch.no_grad():
        first = conv(x)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert torch.equal(first, expected(conv, x))
        assert found[0].data_ptr() != first.data_ptr()
        assert conv(-x).data_ptr() == first.data_ptr()


def test_gradients_keep_every_result(conv):
    x = torch.randn(1, 5, 6)
    first, second = conv(x), conv(-x)
    assert torch.equal(first, expected(conv, x)) and torch.equal(second, expected(conv, -x))
    (first.sum() + second.sum()).backward()
    assert torch.allclose(conv.bias.grad, torch.full((10,), 10.0))
