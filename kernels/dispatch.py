"""The seam between the cores and the implementations of each hot operation.

The cores call these names; which implementation answers is decided here, per call.
"""

from .reference import (
    depthwise_conv3x3_glu,
    gated_residual,
    layer_norm_modulate,
    relu_linear_attention,
    rms_norm_channels,
)

__all__ = [
    "depthwise_conv3x3_glu",
    "gated_residual",
    "layer_norm_modulate",
    "relu_linear_attention",
    "rms_norm_channels",
]
