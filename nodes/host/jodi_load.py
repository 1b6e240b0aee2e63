"""From weight files to MODEL and VAE, read and checked by the core, managed by the host."""

import re
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...jodi_core.model.checkpoint import TRANSFORMER
from ...jodi_core.model.config import TransformerConfig
from ...jodi_core.model.facts import ModelFacts
from ...kit.errors import CheckpointError
from ...kit.weights.loading import FP8, Checked
from .jodi_model import JodiConfig, JodiDiffusion, JodiHostModel
from .jodi_wrap import attach
from .patcher import WEIGHT_DTYPES, cast_weight, wrap_in_patcher
from .weight_files import check_file

# Nearly all weights, and those that work in eight bits; embeddings, norms, time and role layers and
# the heads stay in the arithmetic's own precision.
_LARGE = re.compile(r"blocks\.\d+\.(attn|cross_attn|mlp)\.(?!depth_conv).*\.weight")


def load_model(path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """MODEL of a Jodi transformer file.

    weight_dtype: a key of `WEIGHT_DTYPES`. disable_dynamic: set by the host when it needs its plain
    patcher.
    Raises: CheckpointError for a file that is not a whole Jodi transformer, naming what it is.
    """
    path = Path(path)
    checked = check_file(path, TRANSFORMER)
    model = _build(checked, WEIGHT_DTYPES[weight_dtype], path)
    patcher = wrap_in_patcher(
        model,
        comfy.model_management.get_torch_device(),
        comfy.model_management.unet_offload_device(),
        disable_dynamic=disable_dynamic,
    )
    patcher.cached_patcher_init = (load_model, (path, weight_dtype))
    return attach(patcher)


def _build(
    checked: Checked[TransformerConfig, ModelFacts], dtype: torch.dtype | None, path: Path
) -> JodiHostModel:
    state, facts = checked.state, checked.facts
    device = comfy.model_management.get_torch_device()
    host_config = JodiConfig(checked.config, facts)
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
                name: cast_weight(name, tensor, dtype if _LARGE.fullmatch(name) else rest)
                for name, tensor in state.items()
            }
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.requires_grad_(False)

    return JodiHostModel(host_config, facts, build)
