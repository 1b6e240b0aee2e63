"""The DC-AE as a VAE of the host, so that VAE Encode, Decode and their tiled forms work with it.

Wires hold unscaled latents; the core's network is built with a scale of 1 for that.
Shapes: B rows, L domains, z latent channels, h w latent grid, H W pixels.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ...kit.autoencoder.cache import EncodeCache
from ...kit.autoencoder.checkpoint import AUTOENCODER
from ...kit.autoencoder.config import AutoencoderConfig
from ...kit.autoencoder.dcae import DCAE
from ...kit.autoencoder.tiling import FALLBACK_TILE, Memory, run_within_memory
from ...kit.errors import ShapeError
from ...kit.weights.loading import name_source
from ...kit.weights.read import pack_metadata
from ..wires.agreement import EMPTY, check_finite
from .jodi_latent import fit_colours, offer_for_preview
from .patcher import cast_weight, wrap_in_patcher
from .weight_files import check_file

log = logging.getLogger("jodi")

PREVIEW_SCENES = 4


def load_vae(path, device=None, disable_dynamic: bool = False) -> "JodiVAE":
    """VAE of a DC-AE file, in either of the two published namings.

    disable_dynamic: set by the host when it needs its plain patcher.
    Raises: CheckpointError for a file that is not a whole DC-AE, naming what it is.
    """
    checked = check_file(path, AUTOENCODER)
    with name_source(str(path)):
        return JodiVAE(checked.state, checked.config, path, device, disable_dynamic)


class JodiVAE(comfy.sd.VAE):
    """A VAE wire. Pictures are (B, H, W, 3) in [0, 1], latents (B, z, h, w) or with domains third.

    The base class detects its own models in its constructor, so that is not called; what it would
    have set is set here.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        config: AutoencoderConfig,
        path,
        device=None,
        disable_dynamic: bool = False,
    ):
        self.config = config
        self.latent_scale = config.scaling_factor
        self.factor = self.downscale_ratio = self.upscale_ratio = config.factor
        self.latent_channels = config.latent_channels
        self.latent_dim = 2
        self.output_channels = 3
        self.pad_channel_value = None
        self.process_input = lambda picture: picture * 2.0 - 1.0
        # In place and returned: hosts up to 0.17 use the tensor itself, later hosts the result.
        self.process_output = lambda x: x.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.disable_offload = self.not_video = self.handles_tiling = False
        self.downscale_index_formula = self.upscale_index_formula = None
        self.extra_1d_channel = self.format_encoded = self.size = None
        self.crop_input = True
        self.audio_sample_rate = 44100
        self.memory_used_encode = lambda shape, dtype: self._memory(shape[-2] * shape[-1], dtype)
        self.memory_used_decode = lambda shape, dtype: self._memory(
            shape[-2] * shape[-1] * config.factor**2, dtype
        )
        management = comfy.model_management
        self.device = management.vae_device() if device is None else device
        self.vae_dtype = management.vae_dtype(self.device, self.working_dtypes)
        self.output_device = management.intermediate_device()
        self.first_stage_model = _network(state, config, self.vae_dtype)
        if hasattr(management, "archive_model_dtypes"):
            management.archive_model_dtypes(self.first_stage_model)
        self.patcher = wrap_in_patcher(
            self.first_stage_model,
            self.device,
            management.vae_offload_device(),
            disable_dynamic=disable_dynamic,
        )
        self.patcher.cached_patcher_init = (_load_patcher, (path, device))
        self.model_size()
        self._encodings = EncodeCache()
        self._rgb_fit = None
        offer_for_preview(self)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) in [0, 1], cropped to multiples of the factor -> (B, z, h, w)."""
        return self._encode_pictures(pixel_samples, None)

    def encode_tiled(self, pixel_samples, tile_x=None, tile_y=None, overlap=None, **_) -> Tensor:
        """As `encode`, in tiles of tile_x pixels that overlap by a quarter."""
        return self._encode_pictures(pixel_samples, max(tile_x or 0, tile_y or 0) or FALLBACK_TILE)

    def decode(self, samples_in: Tensor, vae_options=None) -> Tensor:
        """Latents (B, z, h, w) -> (B, H, W, 3) in [0, 1]; (B, z, L, h, w) -> (B, L, H, W, 3).

        Domains that hold nothing (ignored ones) come out black and cost nothing.
        """
        return self._decode_pictures(samples_in, None)

    def decode_tiled(self, samples, tile_x=None, tile_y=None, overlap=None, **_) -> Tensor:
        """As `decode`, in tiles of tile_x latent cells that overlap by a quarter."""
        cells = max(tile_x or 0, tile_y or 0)
        return self._decode_pictures(samples, cells * self.factor or FALLBACK_TILE)

    def encode_domain(self, x: Tensor, *, tile: int | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, z, h, w) float32, unscaled; kept by content."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ShapeError(f"pictures must be (batch, 3, height, width), got {tuple(x.shape)}")
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ShapeError(
                f"the autoencoder needs sides that are multiples of {self.factor}, got "
                f"{x.shape[-2]}x{x.shape[-1]}; crop or pad the picture first"
            )
        network, memory = self.first_stage_model.encode, self.memory_used_encode
        about = (tile, self.vae_dtype, self.patcher.patches_uuid)
        return self._encodings.get(x, about, lambda: self._batched(network, x, memory, tile))

    def decode_domain(self, samples: Tensor, index: int, *, tile: int | None = None) -> Tensor:
        """One domain of (B, z, L, h, w) -> (B, H, W, 3) float32, about [-1, 1], not clamped."""
        self._check_latent(samples, 5)
        if not 0 <= index < samples.shape[2]:
            raise ShapeError(
                f"domain {index} was asked for, but the LATENT holds {samples.shape[2]} domains; "
                "take it from the sampler of the same model"
            )
        return self._decode(samples[:, :, index], tile).movedim(1, -1)

    def get_sd(self) -> dict[str, Tensor]:
        """What VAESave writes: the weights, and the metadata that the weights do not contain."""
        weights = {name: t.contiguous() for name, t in super().get_sd().items()}
        about = {"kind": AUTOENCODER.kind.name, "config": self.config.to_json()}
        return {**weights, **pack_metadata(about)}

    def rgb_fit(self) -> tuple[list[list[float]], list[float]]:
        """Linear map from this VAE's scaled latents to colours, fitted once on drawn scenes."""
        if self._rgb_fit is None:
            # Scenes are only drawn for this, so starting the host does not load their code.
            from ...kit.scenes.render import render_scenes  # noqa: PLC0415

            side = 8 * self.factor
            scenes = render_scenes(range(PREVIEW_SCENES), side).pictures.flatten(0, 1)
            latents = self.encode_domain(scenes * 2 - 1) * self.latent_scale
            self._rgb_fit = fit_colours(latents, F.avg_pool2d(scenes, self.factor) * 2 - 1)
        return self._rgb_fit

    def _encode_pictures(self, pixels: Tensor, tile: int | None) -> Tensor:
        pixels = self.vae_encode_crop_pixels(pixels)
        return self.encode_domain(self.process_input(pixels.movedim(-1, 1)), tile=tile)

    def _decode_pictures(self, samples: Tensor, tile: int | None) -> Tensor:
        if samples.ndim == 4:
            self._check_latent(samples, 4)
            return self.process_output(self._decode(samples, tile)).movedim(1, -1)
        self._check_latent(samples, 5)
        batch, _, domains, h, w = samples.shape
        pictures = torch.zeros(
            batch, domains, h * self.factor, w * self.factor, 3, device=self.output_device
        )
        for index in range(domains):
            if not samples[:, :, index].abs().max() <= EMPTY:  # also true for NaN
                raw = self.decode_domain(samples, index, tile=tile)
                pictures[:, index] = self.process_output(raw)
        return pictures

    def _decode(self, latents: Tensor, tile: int | None) -> Tensor:
        check_finite(latents, "the LATENT holds")
        network = self.first_stage_model.decode
        picture = self._batched(network, latents, self.memory_used_decode, tile)
        check_finite(picture, "the VAE made")
        return picture

    def _batched(self, network: Callable, x: Tensor, memory: Callable, tile: int | None) -> Tensor:
        """network over rows of x, as many at a time as fit; float32 on the output device."""
        management = comfy.model_management
        needed = memory(x[:1].shape, self.vae_dtype)
        management.load_models_gpu([self.patcher], memory_required=needed)
        return run_within_memory(
            lambda part, tile: network(part.to(self.device, self.vae_dtype), tile=tile),
            x,
            bytes_per_row=needed,
            tile=tile,
            memory=Memory(
                lambda: management.get_free_memory(self.device),
                _is_out_of_memory,
                management.soft_empty_cache,
            ),
            output=self.output_device,
        )

    def _memory(self, pixels: int, dtype: torch.dtype) -> int:
        """Bytes for one picture."""
        size = comfy.model_management.dtype_size(dtype)
        return self.first_stage_model.peak_memory(pixels, size)

    def _check_latent(self, samples: Tensor, dims: int) -> None:
        if samples.ndim != dims or samples.shape[1] != self.latent_channels:
            raise ShapeError(
                f"this autoencoder decodes latents with {self.latent_channels} channels, got "
                f"{tuple(samples.shape)}; the LATENT belongs to another model or VAE"
            )


def _network(state: Mapping[str, Tensor], config: AutoencoderConfig, dtype) -> DCAE:
    unscaled = dataclasses.replace(config, scaling_factor=1.0)
    network = DCAE(unscaled, operations=comfy.ops.disable_weight_init, device="meta")
    # The last layer works in the dtype of its weights, float32: a bfloat16 result would have 8-bit
    # steps, seen in depth.
    tail = "decoder.project_out."
    tensors = {
        name: cast_weight(name, tensor, torch.float32 if name.startswith(tail) else dtype)
        for name, tensor in state.items()
    }
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.requires_grad_(False).eval()


def _load_patcher(path, device=None, disable_dynamic: bool = False):
    return load_vae(path, device, disable_dynamic).patcher


def _is_out_of_memory(error: BaseException) -> bool:
    if hasattr(comfy.model_management, "is_oom"):
        return comfy.model_management.is_oom(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)
