"""Jodi as a MODEL of the host: its own classes around the core's transformer.

The host's layer classes are injected, so weight casting, partial offload, LoRA and Cancel inside
a step work as for its own models. Domains stand third, (B, z, L, h, w), where video models have
time; the core wants them second.
Shapes: B rows, L domains, z latent channels, h w latent grid, S text tokens, Cc text channels.
"""

import math
import weakref
from collections.abc import Callable
from typing import ClassVar

import comfy.conds
import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from torch import Tensor

from ...jodi_core.model.config import JODI_1600M, TransformerConfig
from ...jodi_core.model.facts import ModelFacts, write_facts
from ...jodi_core.model.text_cache import TextCache
from ...jodi_core.model.transformer import JodiTransformer
from ...jodi_core.roles import Role
from ...kit.errors import RoleError, ShapeError, TextError
from ...kit.threads import short_waits
from ...kit.weights.read import pack_metadata
from ..wires.agreement import check_entries, check_given, check_latent, check_made_for
from ..wires.job import PICTURE_INSTEAD
from ..wires.places import MADE
from ..wires.rows import take_rows
from ..wires.texts import ENCODED
from .flow import find_noise_share
from .jodi_latent import JodiLatent
from .jodi_run import (
    Prepared,
    RowsCond,
    RunCond,
    RunEntry,
    halves_equal,
    note_exchanged_layers,
    prepare_once,
)
from .unet import NoUNet

TEXT, MASK, ROLES, CLEAN, RUN = "c_crossattn", "jodi_mask", "jodi_roles", "jodi_clean", "jodi_run"
VAE, SIGMA = "jodi_vae", "jodi_sigma"


class JodiDiffusion(JodiTransformer):
    """The core's transformer under the host's calling convention. Keys are the checkpoint's."""

    def __init__(self, config: TransformerConfig, *, dtype, compute_dtype, operations):
        super().__init__(config, operations=operations, device="meta")
        self.dtype = dtype  # of the large weights; the host asks for it by this name
        self.round_timestep = config == JODI_1600M and compute_dtype == torch.bfloat16
        # Read by nodes that patch a MODEL, under the names of the host's own networks.
        self.in_channels = self.out_channels = config.latent_channels

    def forward(self, x: Tensor, timestep: Tensor, context=None, transformer_options=None, **conds):
        """x (B, z, L, h, w), timestep (B,) in 0..1000 -> velocity (B, z, L, h, w)."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options or {}
        )
        if wrappers:
            x = x.clone()  # some nodes write into it, and it may be the sampler's own
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self.evaluate_batch, self, wrappers
        )
        return executor.execute(
            x, timestep, context, transformer_options=transformer_options or {}, **conds
        )

    def evaluate_batch(self, x, timestep, context=None, *, transformer_options=None, **conds):
        x = x.transpose(1, 2)
        if x.shape[1] != self.config.num_domains:
            raise ShapeError(
                f"a node between cut the LATENT into parts of {x.shape[1]} of its "
                f"{self.config.num_domains} domains, which are made together; let context windows "
                "run over the batch (dim 0)"
            )
        if x.shape[2] != self.config.latent_channels or len(timestep) not in (1, len(x)):
            raise ShapeError(
                "a node between cut the LATENT otherwise than in rows; let context windows run "
                "over the batch (dim 0)"
            )
        roles, mask, clean = conds[ROLES], conds.get(MASK), conds.get(CLEAN)
        clean = None if clean is None else clean.transpose(1, 2)
        run = conds[RUN]
        note_exchanged_layers(run, transformer_options or {})
        half = len(x) // 2
        # Two entries that differ in nothing but the text are one evaluation for both.
        both = len(run.entries) == 2 and halves_equal(x, timestep, roles, clean)

        def prepare(cache: TextCache | None) -> Prepared:
            options = {"round_timestep": self.round_timestep, "cache": cache}
            if not both:
                return Prepared(self.prepare(roles, context, mask, clean, like=x, **options), both)
            if not halves_equal(context, mask):
                options["second_text"] = context[half:], None if mask is None else mask[half:]
            made = self.prepare(
                roles[:half],
                None if context is None else context[:half],
                None if mask is None else mask[:half],
                None if clean is None else clean[:half],
                like=x[:half],
                **options,
            )
            return Prepared(made, both)

        kind = (both, x.shape, x.dtype, x.device)
        ready = prepare_once(run, kind, (roles, context, mask, clean), prepare)
        if ready.both:
            x, timestep = x[:half], timestep[:half]
        with short_waits(x.device):
            velocity = self.velocities(x, timestep / 1000, ready.context)
        if ready.both and len(velocity) == 1:
            velocity = velocity * 2
        return torch.cat(velocity).transpose(1, 2)


class JodiConfig(comfy.supported_models_base.BASE):
    """What the host wants to know before it builds a model."""

    unet_extra_config: ClassVar = {}
    sampling_settings: ClassVar = {"shift": 3.0}
    supported_inference_dtypes: ClassVar = [torch.bfloat16, torch.float32]
    memory_usage_factor = 1.0  # not used: JodiHostModel.memory_required counts

    def __init__(self, config: TransformerConfig, facts: ModelFacts):
        super().__init__({"config": config})
        self._about = write_facts(config, facts)
        self.latent_format = JodiLatent(
            config.latent_channels, config.num_domains, facts.vae_factor, facts.latent_scale
        )

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.FLOW

    def inpaint_model(self) -> bool:
        return False

    def process_unet_state_dict_for_saving(self, state_dict):
        """What ModelSave writes: the weights, and the metadata that the weights do not contain."""
        weights = {name: tensor.contiguous() for name, tensor in state_dict.items()}
        return super().process_unet_state_dict_for_saving({**weights, **pack_metadata(self._about)})


class JodiHostModel(comfy.model_base.BaseModel):
    """Jodi under the host's sampling. facts: of the file it came from."""

    def __init__(self, model_config: JodiConfig, facts: ModelFacts, build: Callable):
        super().__init__(model_config, comfy.model_base.ModelType.FLOW, unet_model=build)
        self.facts = facts
        self.text_cache = TextCache(entries=2)  # of the last prompt and negative prompt
        # noise of a run, roles and given pictures of its first entry
        self._first: tuple = (lambda: None, None, lambda: None)
        # The network is built: from here on these are only read, by nodes that patch a MODEL.
        channels = self.diffusion_model.in_channels
        model_config.unet_config = NoUNet(
            "Jodi", model_config.unet_config, in_channels=channels, out_channels=channels
        )

    def extra_conds(self, **kwargs) -> dict:
        """The tensors of one CONDITIONING entry, checked against the latent it meets.

        Without roles (a plain prompt) every domain of the latent is generated. Text is left out
        where every row has the image given, since the network does not read it then.
        Raises: ShapeError, RoleError or TextError that says which node makes the right wire.
        """
        noise, device = kwargs["noise"], kwargs["device"]
        self.check_shape(noise)
        check_made_for(self.facts, kwargs.get(VAE))
        roles = self._roles(kwargs.get(ROLES), len(noise))
        conds = {ROLES: RowsCond(roles.to(device))}
        conds[RUN] = RunCond(RunEntry(self), _active(roles))
        clean = self._clean(kwargs.get(CLEAN), roles, noise)
        wire = None if clean is None else kwargs[CLEAN]  # what nobody reads may differ
        self._check_together(noise, kwargs.get("latent_image"), kwargs.get(ROLES), clean, wire)
        if clean is not None:
            conds[CLEAN] = comfy.conds.CONDNoiseShape(clean.to(device))
        if not (roles[:, 0] == Role.CONDITION).all():
            text, mask = self._text(kwargs.get("cross_attn"), kwargs.get("attention_mask"))
            # Repeated here, so that a part of the rows keeps its own texts.
            text, mask = (
                t if len(t) == 1 else take_rows(t, range(len(noise))) for t in (text, mask)
            )
            # CONDCrossAttn would repeat tokens to a common length, which masks do not survive.
            conds[TEXT] = RowsCond(text.to(device))
            conds[MASK] = RowsCond(mask.to(device))
        return conds

    def extra_conds_shapes(self, **kwargs) -> dict:
        roles = kwargs.get(ROLES)
        domains = self.diffusion_model.config.num_domains
        return {RUN: [1, domains if roles is None else _active(roles)]}

    def memory_required(self, input_shape, cond_shapes=None) -> float:
        """Bytes of activations of one evaluation: proportional to the active domains' tokens.

        Counted, not measured on a device: the widest moment is the mix-FFN, which holds the tokens
        (1 width), its expansion before and after the activation and the convolution's result
        (2 * mlp_ratio widths each) and the gated half; the attention's float32 queries, keys,
        values and outputs (4 widths) come at another time. Text keys and values last all run.
        """
        config = self.diffusion_model.config
        active = [shape[-1] for shape in (cond_shapes or {}).get(RUN, [])]
        domains = max(active, default=config.num_domains)
        cells = math.prod(input_shape[3:]) if len(input_shape) == 5 else math.prod(input_shape[2:])
        tokens = input_shape[0] * domains * cells / config.patch_size**2
        size = comfy.model_management.dtype_size(self._compute_dtype())
        ffn = (2 + 7 * config.mlp_ratio) * size
        attention = (5 * size) + 4 * 4
        text = 2 * config.depth * input_shape[0] * config.caption_length * config.hidden_size * size
        return 1.1 * tokens * config.hidden_size * max(ffn, attention) + text

    def _apply_model(
        self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds
    ):
        # In a tuple: the host casts tensors to the network's type.
        conds[SIGMA] = (t,)
        denoised = super()._apply_model(
            x, t, c_concat, c_crossattn, control, transformer_options or {}, **conds
        )
        # Conditions come out as given and ignored domains as zero, in every sampler and preview.
        roles = conds[ROLES].to(x.device)[:, None, :, None, None]
        denoised = denoised.masked_fill(roles == Role.IGNORE, 0)
        clean = conds.get(CLEAN)
        if clean is None:
            return denoised
        return torch.where(roles == Role.CONDITION, clean.to(denoised), denoised)

    def process_timestep(self, timestep, **conds):
        """The network's time, 0..1000: the share of noise, whatever `timestep` other nodes set."""
        return find_noise_share(self.model_sampling, conds[SIGMA][0]) * 1000

    def process_latent_in(self, latent: Tensor) -> Tensor:
        """Raises: ShapeError for a LATENT whose domains were moved about, before it is sampled."""
        if latent.ndim == 5:
            MADE.check(latent)
        return super().process_latent_in(latent)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        made = super().process_latent_out(latent)
        if made.ndim == 5:
            MADE.remember(made)
        return made

    def _compute_dtype(self) -> torch.dtype:
        return self.get_dtype() if self.manual_cast_dtype is None else self.manual_cast_dtype

    def check_shape(self, latent: Tensor) -> None:
        """Raises: ShapeError for a LATENT that is not over this model's domains and channels."""
        config = self.diffusion_model.config
        expected = (config.latent_channels, config.num_domains)
        if latent.ndim == 5 and tuple(latent.shape[1:3]) == expected:
            return
        if latent.ndim == 5 and latent.shape[1] == expected[0] and latent.shape[2] > 1:
            found = f"{latent.shape[2]} domains"
        else:
            found = f"a latent of shape {tuple(latent.shape)}"
        raise ShapeError(
            f"this model samples {expected[1]} domains of {expected[0]} channels, a LATENT of "
            f"shape (batch, {expected[0]}, {expected[1]}, h, w), got {found}; make the LATENT with "
            f"Jodi Roles. {PICTURE_INSTEAD}"
        )

    def _check_together(self, noise, latent, roles, clean, wire) -> None:
        """Pass when this entry, the first entry of the run and the LATENT are of one job.

        roles, clean: of this entry, or None. wire: clean as the CONDITIONING holds it, unscaled;
        of 1 row or of the noise's.
        Without noise the LATENT is in the middle of sampling, and holds noise of its own.
        Raises: ShapeError.
        """
        if roles is not None and latent is not None and noise.any():
            check_latent(latent, roles.to(latent.device), clean, self.facts.names)
        run, *first = self._first
        if run() is not noise:
            known = (lambda: None) if wire is None else weakref.ref(wire)
            self._first = (weakref.ref(noise), roles, known)
        else:
            check_entries(first[0], roles)
            check_given(first[1](), wire, self.facts.names)

    def _roles(self, roles: Tensor | None, batch: int) -> Tensor:
        domains = self.diffusion_model.config.num_domains
        if roles is None:
            return torch.full((1, domains), int(Role.GENERATE))
        if roles.ndim != 2 or roles.shape[1] != domains or len(roles) not in (1, batch):
            raise RoleError(
                f"the CONDITIONING has roles of shape {tuple(roles.shape)}, the model needs (1 or "
                f"{batch}, {domains}); wire Jodi Roles to this model and to this latent"
            )
        if not (roles == Role.GENERATE).any(1).all():
            raise RoleError("a row generates nothing; set a role to generate in Jodi Roles")
        return roles.long()

    def _clean(self, clean: Tensor | None, roles: Tensor, noise: Tensor) -> Tensor | None:
        if not (roles == Role.CONDITION).any():
            return None  # nothing is given then, and the LATENT may be of another size
        if clean is None:
            raise RoleError(
                "a domain has the role condition, but the CONDITIONING brings no latent of it; "
                "wire Jodi Roles to positive and negative"
            )
        if clean.shape[1:] != noise.shape[1:] or len(clean) not in (1, len(noise)):
            raise ShapeError(
                f"the conditions are latents of shape {tuple(clean.shape)}, the LATENT to sample "
                f"has {tuple(noise.shape)}; take both from the same Jodi Roles. After a node that "
                "changed the LATENT's size, sample with the CONDITIONING of another Jodi Roles, "
                "set to the new size (size: width and height)"
            )
        return self.process_latent_in(clean)

    def _text(self, text: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        config = self.diffusion_model.config
        if text is None or not text.numel():
            return self.null_text()
        if text.ndim != 3 or text.shape[-1] != config.caption_channels:
            raise TextError(
                f"the CONDITIONING holds text of shape {tuple(text.shape)}, this model reads "
                f"(batch, tokens, {config.caption_channels}); encode the prompt with Jodi Text "
                "Encode and the text encoder that belongs to the model"
            )
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.long)
        mask = mask.reshape(-1, mask.shape[-1])
        if mask.shape[-1] < text.shape[1]:  # Conditioning Concat keeps the first text's mask only
            mask = ENCODED.complete(text, mask) if len(mask) in (1, len(text)) else mask
        if mask is None or mask.shape[-1] != text.shape[1]:
            raise TextError(
                f"the CONDITIONING's attention mask does not cover its text of {text.shape[1]} "
                "tokens; encode the prompts again with Jodi Text Encode, or write both into one"
            )
        return text, (mask > 0).long()

    def null_text(self) -> tuple[Tensor, Tensor]:
        """The empty prompt as the model stores it: features (1, S, Cc) float32, mask (1, S).

        Every token is readable, as in training.
        """
        null = self.diffusion_model.y_embedder.y_embedding.detach().float()
        return null[None], torch.ones(1, len(null), dtype=torch.long, device=null.device)


def _active(roles: Tensor) -> int:
    """Active domains of the busiest row."""
    return int((roles != Role.IGNORE).sum(1).max())
