"""The hot operations, as the cores call them.

`selection` decides per call whether plain torch (`reference`, where each operation is specified) or
a Triton kernel computes the result. Triton is imported when a kernel first runs, never before.
"""

from torch import Tensor

from . import reference
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
    if kernel_answers("relu_linear_attention", q.shape[-1], q, k, v):
        from . import triton_linear_attention

        return triton_linear_attention.relu_linear_attention(q, k, v, eps, key_mask)
    return reference.relu_linear_attention(q, k, v, eps, key_mask)


def layer_norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """See `reference.layer_norm_modulate`."""
    if kernel_answers("layer_norm_modulate", x.shape[-1], x, shift, scale):
        from . import triton_layer_norm

        return triton_layer_norm.layer_norm_modulate(x, shift, scale, eps)
    return reference.layer_norm_modulate(x, shift, scale, eps)


def gated_residual_norm_modulate(
    x: Tensor, update: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """See `reference.gated_residual_norm_modulate`."""
    operands = (x, update, gate, shift, scale)
    if kernel_answers("gated_residual_norm_modulate", x.shape[-1], *operands):
        from . import triton_layer_norm

        return triton_layer_norm.gated_residual_norm_modulate(x, update, gate, shift, scale, eps)
    return reference.gated_residual_norm_modulate(x, update, gate, shift, scale, eps)


def depthwise_conv3x3_glu(x: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """See `reference.depthwise_conv3x3_glu`."""
    if kernel_answers("depthwise_conv3x3_glu", x.shape[-1], x, weight, bias):
        from . import triton_depthwise

        return triton_depthwise.depthwise_conv3x3_glu(x, weight, bias, grid)
    return reference.depthwise_conv3x3_glu(x, weight, bias, grid)


def rms_norm_channels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """See `reference.rms_norm_channels`."""
    if kernel_answers("rms_norm_channels", x.shape[1], x, weight, bias, residual):
        from . import triton_rms_norm

        return triton_rms_norm.rms_norm_channels(x, weight, bias, eps, residual, activation)
    return reference.rms_norm_channels(x, weight, bias, eps, residual, activation)
