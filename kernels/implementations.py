"""Both implementations of each hot operation, by name. Triton is imported by the first `kernel`."""

import importlib
from collections.abc import Callable
from typing import Any

from . import reference

MODULES = {
    "relu_linear_attention": "triton_linear_attention",
    "layer_norm_modulate": "triton_layer_norm",
    "gated_residual_norm_modulate": "triton_layer_norm",
    "depthwise_conv3x3_glu": "triton_depthwise",
    "rms_norm_channels": "triton_rms_norm",
}


def plain(operation: str) -> Callable[..., Any]:
    """The operation in plain torch. Raises: AttributeError for an unknown name."""
    return getattr(reference, operation)


def kernel(operation: str) -> Callable[..., Any]:
    """The operation as a Triton kernel, with the same arguments.

    Raises: KeyError for an unknown name; ImportError where there is no Triton.
    """
    module = importlib.import_module(f".{MODULES[operation]}", __package__)
    return getattr(module, operation)
