"""Layers that both networks share. Numerics live in `kernels`; these hold the parameters.

`operations` is any namespace with Linear, Conv2d and Embedding: `torch.nn`, or a host's own
classes that cast or offload weights. A host's Conv2d ends in `_conv_forward(x, weight, bias)`, as
torch's does, so overriding that one method keeps both working.
"""

import functools
import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dispatch


def make_pointwise_conv(operations):
    """A Conv2d class of kernel 1 that multiplies matrices over channels-last memory."""
    return _make_pointwise_conv(operations.Conv2d)


def make_expanding_conv(operations):
    """A pointwise Conv2d class of tokens, for the widest tensor of a block: (B, T, C) -> (B, T, F).

    On a CPU, without gradients, a result is valid only until the next call of any layer of this
    class on this thread: all of them share one block of memory. A C library gives large blocks back
    to the system, and faulting in new ones, page by page, costs up to 4 % of a step.
    """
    return _make_expanding_conv(operations.Conv2d)


def make_depthwise_glu_conv(operations):
    """A depthwise 3x3 Conv2d class that ends in value * SiLU(gate): (B, 2F, h, w) -> (B, F, h, w).

    In and out are channels-last views, so that token-major callers pay for no copy.
    """
    return _make_depthwise_glu_conv(operations.Conv2d)


@functools.lru_cache(maxsize=16)
def _make_pointwise_conv(conv2d: type):
    class PointwiseConv2d(conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if x.dim() == 3:  # tokens (B, T, C): already channels-last
                return F.linear(x, weight.flatten(1), bias)
            if self.groups > 1:
                return super()._conv_forward(x, weight, bias)
            tokens = x.permute(0, 2, 3, 1)
            return F.linear(tokens, weight.flatten(1), bias).permute(0, 3, 1, 2)

    return PointwiseConv2d


@functools.lru_cache(maxsize=16)
def _make_expanding_conv(conv2d: type):
    class ExpandingConv2d(_make_pointwise_conv(conv2d)):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            plain = type(x) is Tensor and x.device.type == "cpu"  # compilers trace with other types
            if (
                bias is None
                or not plain
                or torch.is_grad_enabled()
                or torch.compiler.is_compiling()
            ):
                return super()._conv_forward(x, weight, bias)
            rows = x.flatten(0, 1)
            out = _reuse_memory(len(rows) * len(weight), x.dtype).view(len(rows), len(weight))
            return torch.addmm(bias, rows, weight.flatten(1).t(), out=out).unflatten(0, x.shape[:2])

    return ExpandingConv2d


_memory = threading.local()


def _reuse_memory(count: int, dtype: torch.dtype) -> Tensor:
    """(count) elements of memory that this thread's next call gets too; the largest is kept."""
    kept = getattr(_memory, "bytes", None)
    size = count * dtype.itemsize
    if kept is None or len(kept) < size:
        with torch.inference_mode(False):  # so that it serves in inference mode and outside
            kept = _memory.bytes = torch.empty(size, dtype=torch.uint8)
    return kept[:size].view(dtype)


@functools.lru_cache(maxsize=16)
def _make_depthwise_glu_conv(conv2d: type):
    class DepthwiseGluConv2d(conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            batch, channels, h, w = x.shape
            tokens = x.permute(0, 2, 3, 1).reshape(batch, h * w, channels)
            out = dispatch.depthwise_conv3x3_glu(tokens, weight, bias, (h, w))
            return out.view(batch, h, w, -1).permute(0, 3, 1, 2)

    return DepthwiseGluConv2d


class RMSNorm2d(nn.Module):
    """residual + activation(weight * RMSNorm over channels + bias). x (B, C, H, W) -> same."""

    def __init__(self, channels: int, eps: float = 1e-5, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(
        self, x: Tensor, residual: Tensor | None = None, activation: str | None = None
    ) -> Tensor:
        weight, bias = self.weight.to(x), self.bias.to(x)
        return dispatch.rms_norm_channels(x, weight, bias, self.eps, residual, activation)


class RMSNorm(nn.Module):
    """RMSNorm over the last axis, weight only, in float32 or wider. x (..., C) -> same."""

    def __init__(self, channels: int, eps: float, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * self.weight.to(wide)).to(x.dtype)
