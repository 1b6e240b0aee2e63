"""From weight files to MODEL and VAE of D-DiT: read and checked by the core, run by the host."""

import re
from pathlib import Path

import comfy.diffusers_convert
import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from ...ddit_core.model.checkpoint import TRANSFORMER
from ...ddit_core.model.config import DDIT_SD3, DDiTConfig
from ...ddit_core.model.facts import RELEASED, DDiTFacts
from ...kit.errors import CheckpointError
from ...kit.weights.faults import find_key_faults
from ...kit.weights.kinds import KL_VAE
from ...kit.weights.loading import (
    FLOATS,
    FP8,
    Checked,
    State,
    check_dtypes,
    check_finite,
    name_source,
)
from .ddit_model import DDiTDiffusion, DDiTHostConfig, DDiTHostModel
from .patcher import WEIGHT_DTYPES, cast_weight, wrap_in_patcher
from .weight_files import check_file, read_kind

LATENT_CHANNELS = DDIT_SD3.latent_channels

# Nearly all weights, and those that work in eight bits; embeddings, modulation and the heads stay
# in the arithmetic's own precision.
_LARGE = re.compile(r"transformer_blocks\.\d+\.(attn|ff|ff_context)\..*\.weight")


def load_model(path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """MODEL of a D-DiT transformer file.

    weight_dtype: a key of `WEIGHT_DTYPES`. disable_dynamic: set by the host when it needs its plain
    patcher.
    Raises: CheckpointError for a file that is not a whole D-DiT transformer, naming what it is, and
        for one of other latents than Stable Diffusion 3's.
    """
    path = Path(path)
    checked = check_file(path, TRANSFORMER)
    channels = checked.config.latent_channels
    if checked.facts == RELEASED and channels != LATENT_CHANNELS:
        raise CheckpointError(
            f"{path} makes latents of {channels} channels, the VAE of Stable Diffusion 3 has "
            f"{LATENT_CHANNELS}; give a D-DiT that was trained on that VAE, as the released one"
        )
    patcher = wrap_in_patcher(
        _build(checked, WEIGHT_DTYPES[weight_dtype]),
        comfy.model_management.get_torch_device(),
        comfy.model_management.unet_offload_device(),
        disable_dynamic=disable_dynamic,
    )
    patcher.cached_patcher_init = (load_model, (path, weight_dtype))
    return patcher


def load_vae(path):
    """VAE of a file: the KL autoencoder of 16 channels, under either of its two namings.

    Raises: CheckpointError for another file. Those of Flux and Stable Diffusion 3 have the same
        tensors and cannot be told apart.
    """
    content, _ = read_kind(path, (KL_VAE,))
    read = content.tensors.get("decoder.conv_in.weight")
    if read is None or read.ndim != 4 or read.shape[1] != LATENT_CHANNELS:
        found = "no decoder" if read is None else f"latents of {tuple(read.shape)[1:2]} channels"
        raise CheckpointError(
            f"{path} has {found}; expected the VAE of Stable Diffusion 3, {LATENT_CHANNELS} "
            "channels. Choose sd3_vae.safetensors, or the file of the release's vae folder"
        )
    return _whole_vae(content.tensors, path)


def _whole_vae(state: State, path) -> comfy.sd.VAE:
    """The host's VAE with every one of its tensors from the file.

    The host itself warns of those that are missing, and goes on with random ones.
    """
    whole = "Choose sd3_vae.safetensors, or the file of the release's vae folder"
    try:
        vae = comfy.sd.VAE(sd=dict(state))
        vae.throw_exception_if_invalid()
    except Exception as error:  # of shapes that make no VAE; the host raises what it meets first
        raise CheckpointError(
            f"{path} makes no VAE ({' '.join(str(error).split())[:200]}). {whole}"
        ) from error
    if "decoder.up_blocks.0.resnets.0.norm1.weight" in state:
        state = comfy.diffusers_convert.convert_vae_state_dict(dict(state))
    wanted = {name: tuple(t.shape) for name, t in vae.first_stage_model.state_dict().items()}
    faults = find_key_faults(state, wanted)
    if faults.missing:
        raise CheckpointError(f"{path} is no whole VAE: {faults.text()}. {whole}")
    with name_source(str(path)):
        used = {name: state[name] for name in wanted}
        check_dtypes(used, FLOATS)
        check_finite(used)
    return vae


def _build(checked: Checked[DDiTConfig, DDiTFacts], dtype: torch.dtype | None) -> DDiTHostModel:
    state = checked.state
    device = comfy.model_management.get_torch_device()
    host_config = DDiTHostConfig(checked.config, checked.facts)
    supported = host_config.supported_inference_dtypes
    if dtype is None:
        dtype = comfy.model_management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(state),
            supported_dtypes=supported,
            weight_dtype=comfy.utils.weight_dtype(state),
        )
    compute = comfy.model_management.unet_manual_cast(dtype, device, supported)
    host_config.set_inference_dtype(dtype, compute)
    rest = (compute or dtype) if dtype in FP8 else dtype

    def build(config, dtype, device, operations):
        model = DDiTDiffusion(config, dtype=dtype, operations=operations)
        with name_source(checked.source):
            tensors = {
                name: cast_weight(name, tensor, dtype if _LARGE.fullmatch(name) else rest)
                for name, tensor in state.items()
            }
        model.load_state_dict(tensors, strict=True, assign=True)
        return model.requires_grad_(False)

    return DDiTHostModel(host_config, build)
