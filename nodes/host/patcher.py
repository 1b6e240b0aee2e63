"""The host's patcher around a network."""

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...kit.errors import CheckpointError
from ...kit.weights.loading import FP8, cast

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def wrap_in_patcher(
    model: torch.nn.Module, load_device, offload_device, *, disable_dynamic: bool = False
):
    """The host's patcher around a model, of the kind that this host uses for its own."""
    plain = comfy.model_patcher.ModelPatcher
    # Newer hosts exchange CoreModelPatcher before packs load, so it is looked up at every call.
    cls = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = cls(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    return patcher


def cast_weight(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """As the core's `cast`, to and from eight-bit types too.

    Raises: CheckpointError for values that are not finite or too large for the type.
    """
    if tensor.dtype in FP8:
        return tensor if tensor.dtype == dtype else cast(name, tensor.float(), dtype)
    if dtype not in FP8:
        return cast(name, tensor, dtype)
    largest, limit = cast(name, tensor, tensor.dtype).abs().max().item(), torch.finfo(dtype).max
    if largest > limit:
        raise CheckpointError(
            f"{name} reaches {largest:.4g}, more than {str(dtype).removeprefix('torch.')} can hold "
            f"({limit:.4g}); choose another weight dtype"
        )
    return tensor.to(dtype)
