"""From weight files to MODEL and VAE, read and checked by the core, managed by the host."""

import re
from collections.abc import Mapping
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ..jodi_core.checkpoint import cast, checked_transformer
from ..jodi_core.config import TransformerConfig
from ..jodi_core.errors import CheckpointError
from ._facts import ModelFacts, facts_of, read_file
from ._host_model import JodiConfig, JodiDiffusion, JodiHostModel

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)

# Nearly all weights, and the ones that bear eight bits; embeddings, norms, time and role layers
# and the heads stay in the arithmetic's own precision.
_LARGE = re.compile(r"blocks\.\d+\.(attn|cross_attn|mlp)\.(?!depth_conv).*\.weight")


def load_model(path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """MODEL of a Jodi transformer file.

    weight_dtype: a key of `WEIGHT_DTYPES`. disable_dynamic: the host asks so when it needs its
    plain patcher.
    Raises: CheckpointError for a file that is not a whole Jodi transformer, naming what it is.
    """
    path = Path(path)
    state, metadata = read_file(path, "jodi")
    state, config = checked_transformer(state, metadata, source=str(path))
    facts = facts_of(config, metadata, path.stem)
    model = _build(state, config, facts, WEIGHT_DTYPES[weight_dtype], path)
    patcher = managed(
        model,
        comfy.model_management.get_torch_device(),
        comfy.model_management.unet_offload_device(),
        disable_dynamic=disable_dynamic,
    )
    patcher.cached_patcher_init = (load_model, (path, weight_dtype))
    return patcher


def _build(
    state: Mapping[str, Tensor],
    config: TransformerConfig,
    facts: ModelFacts,
    dtype: torch.dtype | None,
    path: Path,
) -> JodiHostModel:
    device = comfy.model_management.get_torch_device()
    host_config = JodiConfig(config, facts)
    supported = host_config.supported_inference_dtypes
    if dtype is None:
        dtype = comfy.model_management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(state),
            supported_dtypes=supported,
            weight_dtype=comfy.utils.weight_dtype(state),
        )
    compute = comfy.model_management.unet_manual_cast(dtype, device, supported)
    host_config.set_inference_dtype(dtype, compute)
    compute = dtype if compute is None else compute

    def build(config, dtype, device, operations):
        model = JodiDiffusion(config, dtype=dtype, compute_dtype=compute, operations=operations)
        rest = compute if dtype in FP8 else dtype
        try:
            tensors = {
                name: _cast(name, tensor, dtype if _LARGE.fullmatch(name) else rest)
                for name, tensor in state.items()
            }
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.requires_grad_(False)

    return JodiHostModel(host_config, facts, build)


def managed(model: torch.nn.Module, load_device, offload_device, *, disable_dynamic: bool = False):
    """The host's patcher around a model, of the kind that this host uses for its own."""
    plain = comfy.model_patcher.ModelPatcher
    # Newer hosts exchange CoreModelPatcher before packs load, so it is looked up at every call.
    cls = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    patcher = cls(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    return patcher


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
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
