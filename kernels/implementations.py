"""Both implementations of each hot operation, by name. Triton is imported by the first `kernel`."""

from collections.abc import Callable
from typing import Any

from . import reference

OPERATIONS = (
    "relu_linear_attention",
    "layer_norm_modulate",
    "gated_residual_norm_modulate",
    "depthwise_conv3x3_glu",
    "rms_norm_channels",
)


def plain(operation: str) -> Callable[..., Any]:
    """The operation in plain torch. Raises: AttributeError for an unknown name."""
    return getattr(reference, operation)


def kernel(operation: str) -> Callable[..., Any]:
    """The operation as a Triton kernel, with the same arguments.

    Raises: AttributeError for an unknown name; ImportError where there is no Triton.
    """
    if operation == "relu_linear_attention":
        from . import triton_linear_attention as module
    elif operation == "depthwise_conv3x3_glu":
        from . import triton_depthwise as module
    elif operation == "rms_norm_channels":
        from . import triton_rms_norm as module
    else:
        from . import triton_layer_norm as module
    return getattr(module, operation)
