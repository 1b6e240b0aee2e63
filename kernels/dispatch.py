"""The hot operations, as the cores call them.

`selection` decides per call whether plain torch (`reference`, where each operation is specified) or
a Triton kernel computes the result. Triton is imported when a kernel first runs, never before.
"""

from typing import Any

from torch import Tensor

from .implementations import kernel, plain
from .reference import gated_residual
from .selection import kernel_answers

__all__ = [
    "depthwise_conv3x3_glu",
    "gated_residual",
    "gated_residual_norm_modulate",
    "layer_norm_modulate",
    "relu_linear_attention",
    "rms_norm_channels",
]


def relu_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, eps: float, key_mask: Tensor | None = None
) -> Tensor:
    """See `reference.relu_linear_attention`."""
    arguments = (q, k, v, eps, key_mask)
    return _answer("relu_linear_attention", q.shape[-1], (q, k, v), arguments)


def layer_norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `reference.layer_norm_modulate`."""
    operands = (x, shift, scale)
    return _answer("layer_norm_modulate", x.shape[-1], operands, (*operands, eps))


def gated_residual_norm_modulate(
    x: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See `reference.gated_residual_norm_modulate`."""
    operands = (x, update, gate, shift, scale)
    return _answer("gated_residual_norm_modulate", x.shape[-1], operands, (*operands, eps))


def depthwise_conv3x3_glu(x: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """See `reference.depthwise_conv3x3_glu`."""
    operands = (x, weight, bias)
    return _answer("depthwise_conv3x3_glu", x.shape[-1], operands, (*operands, grid))


def rms_norm_channels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """See `reference.rms_norm_channels`."""
    arguments = (x, weight, bias, eps, residual, activation)
    return _answer("rms_norm_channels", x.shape[1], (x, weight, bias, residual), arguments)


def _answer(operation: str, channels: int, operands: tuple, arguments: tuple) -> Any:
    """The result of whoever `selection` chooses. operands: those that decide about a kernel."""
    if kernel_answers(operation, channels, operands, arguments):
        return kernel(operation)(*arguments)
    return plain(operation)(*arguments)
