"""What all Triton kernels share: how they are launched and how a compiler sees them."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor


@triton.jit
def _probe():
    pass


# Whether kernels run in Triton's interpreter: settled when Triton is imported.
INTERPRETED = not isinstance(_probe, triton.JITFunction)


def operator(name: str, fake: Callable[..., Any]) -> Callable[[Callable], Callable]:
    """Make a launching function fit for torch.compile, which then sees one opaque operation.

    fake: gives outputs of the right shape, dtype and strides from inputs that hold no numbers.
    Outside a compiler the function is called as it is: the way through torch's dispatcher costs
    more host time than a short kernel runs.
    """

    def decorate(launch: Callable) -> Callable:
        opaque = torch.library.custom_op(f"jodi::{name}", launch, mutates_args=())
        opaque.register_fake(fake)

        @functools.wraps(launch)
        def call(*args):
            return opaque(*args) if torch.compiler.is_compiling() else launch(*args)

        return call

    return decorate


def on_device_of(x: Tensor):
    """Triton launches on the current device: make it the tensor's for a `with` block."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def rows_of_channels(x: Tensor) -> Tensor:
    """x as it is, or a copy where neighbours on the last axis are not neighbours in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def padded(length: int, at_least: int = 1) -> int:
    """The power of two that holds `length`: a tile's side, its surplus masked."""
    return max(triton.next_power_of_2(length), at_least)
