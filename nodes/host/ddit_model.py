"""D-DiT as a MODEL of the host: its own classes around the core's transformer.

KSampler samples pictures with it, as with Stable Diffusion 3: the same latents, the same flow
sampling, the host's layer classes (casting, partial offload, LoRA). Words come from the same
network by `ddit_run`.
Shapes: B rows, z latent channels, h w latent grid, L text tokens, D channels of the text encoder.
"""

from collections.abc import Callable
from typing import ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.patcher_extension
import comfy.supported_models
import comfy.supported_models_base
import torch
from torch import Tensor

from ...ddit_core.model.config import DDiTConfig
from ...ddit_core.model.facts import RELEASED, DDiTFacts
from ...ddit_core.model.transformer import DDiTTransformer
from ...kit.errors import JodiError, ShapeError, TextError
from ...kit.threads import short_waits
from ...kit.weights.read import pack_metadata
from .flow import check_flow, find_noise_share
from .unet import NoUNet

SIGMA = "ddit_sigma"
NAME = "D-DiT"


class DDiTDiffusion(DDiTTransformer):
    """The core's transformer under the host's calling convention. Keys are the checkpoint's."""

    def __init__(self, config: DDiTConfig, *, dtype, operations):
        super().__init__(config, operations=operations, device="meta")
        self.dtype = dtype  # of the large weights; the host asks for it by this name
        # Read by nodes that patch a MODEL, under the names of the host's own networks.
        self.in_channels = self.out_channels = config.latent_channels

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, transformer_options=None, **conds
    ) -> Tensor:
        """x (B, z, h, w), timestep (B,) in 0..1000, context (B, L, D) -> velocity (B, z, h, w)."""
        options = transformer_options or {}
        if conds.get("control") is not None:
            raise JodiError(
                "a ControlNet is connected, which is made for another model; D-DiT takes none. "
                "Take it away from the CONDITIONING"
            )
        if any(any(options.get(part, {}).values()) for part in ("patches_replace", "patches")):
            raise JodiError(
                "a node on the MODEL changes or exchanges layers of another network (IPAdapter, "
                "skip-layer guidance, PAG, HyperTile and ToMe do so), which D-DiT does not have. "
                "Take it away from the MODEL"
            )
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self.evaluate_batch, self, wrappers
        )
        return executor.execute(x, timestep, context, transformer_options=options)

    def evaluate_batch(self, x: Tensor, timestep: Tensor, context: Tensor, **_) -> Tensor:
        prepared = self.prepare_text(context, rows=len(x), like=x)
        with short_waits(x.device):
            return self.velocity(x, timestep / 1000, prepared)


class DDiTLatents(comfy.latent_formats.LatentFormat):
    """Latents of another VAE than Stable Diffusion 3's, as the model's file describes it."""

    def __init__(self, config: DDiTConfig, facts: DDiTFacts):
        self.latent_channels = config.latent_channels
        self.process_in, self.process_out = facts.scale_latents, facts.unscale_latents


class DDiTHostConfig(comfy.supported_models_base.BASE):
    """What the host wants to know before it builds a model."""

    unet_extra_config: ClassVar = {}
    sampling_settings: ClassVar = {"shift": 3.0}
    supported_inference_dtypes: ClassVar = [torch.bfloat16, torch.float16, torch.float32]
    # The released network has the width, the depth and the tokens of this one.
    memory_usage_factor = comfy.supported_models.SD3.memory_usage_factor

    def __init__(self, config: DDiTConfig, facts: DDiTFacts = RELEASED):
        super().__init__({"config": config})
        released = facts == RELEASED
        self.facts = facts
        self.latent_format = comfy.latent_formats.SD3() if released else DDiTLatents(config, facts)
        self._about = {"kind": "ddit", "config": config.to_json()}
        self._about |= {} if released else facts.to_metadata()

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.FLOW

    def inpaint_model(self) -> bool:
        return False

    def process_unet_state_dict_for_saving(self, state_dict):
        """What ModelSave writes: the weights, and the sizes that their shapes do not tell."""
        weights = {name: tensor.contiguous() for name, tensor in state_dict.items()}
        return super().process_unet_state_dict_for_saving({**weights, **pack_metadata(self._about)})


class DDiTHostModel(comfy.model_base.BaseModel):
    """D-DiT under the host's sampling."""

    def __init__(self, model_config: DDiTHostConfig, build: Callable):
        super().__init__(model_config, comfy.model_base.ModelType.FLOW, unet_model=build)
        # The network is built: from here on these are only read, by nodes that patch a MODEL.
        channels = self.diffusion_model.in_channels
        model_config.unet_config = NoUNet(
            NAME, model_config.unet_config, in_channels=channels, out_channels=channels
        )

        self.facts = model_config.facts

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.get_dtype() if self.manual_cast_dtype is None else self.manual_cast_dtype

    def extra_conds(self, **kwargs) -> dict:
        """The text of one CONDITIONING entry, checked against the model and the latent.

        Texts of one length are evaluated together; others in turn, since repeating tokens, as the
        host does for other models, would change what the network reads.
        Raises: JodiError for a sampling that is no flow; ShapeError, TextError.
        """
        check_flow(self.model_sampling, NAME)
        self._check_latent(kwargs["noise"])
        text, channels = kwargs.get("cross_attn"), self.diffusion_model.config.context_channels
        if text is None or text.ndim != 3 or text.shape[-1] != channels or not text.numel():
            came = "none" if text is None else f"text of shape {tuple(text.shape)}"
            raise TextError(
                f"D-DiT reads text of shape (batch, tokens, {channels}), the CONDITIONING holds "
                f"{came}; encode the prompt with D-DiT Text Encode and the CLIP of Load D-DiT"
            )
        return {"c_crossattn": comfy.conds.CONDRegular(text.to(kwargs["device"]))}

    def _apply_model(
        self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        conds[SIGMA] = (t,)  # in a tuple: the host casts tensors to the network's type
        options = transformer_options or {}
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **conds)

    def process_timestep(self, timestep, **conds):
        """The network's time, 0..1000: the share of noise, whatever `timestep` other nodes set."""
        return find_noise_share(self.model_sampling, conds[SIGMA][0]) * 1000

    def _check_latent(self, latent: Tensor) -> None:
        channels = self.diffusion_model.config.latent_channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            raise ShapeError(
                f"D-DiT samples a LATENT of shape (batch, {channels}, height / 8, width / 8), got "
                f"{tuple(latent.shape)}; use EmptySD3LatentImage, or VAE Encode with the VAE of "
                "Load D-DiT"
            )
        self.diffusion_model.pos_embed.grid(latent)


def ddit_model(model) -> DDiTHostModel:
    """The network's host model behind a MODEL wire.

    Raises: JodiError, naming the loader, when the MODEL is not D-DiT.
    """
    inner = getattr(model, "model", None)
    if isinstance(inner, DDiTHostModel):
        return inner
    raise JodiError(f"expected a D-DiT MODEL, got {type(inner).__name__}; connect Load D-DiT")
