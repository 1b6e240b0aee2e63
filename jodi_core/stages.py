"""The stages of one job, each callable alone.

encode_conditions -> encode_text -> sample -> decode. A caller on a small machine can free the text
encoder before sampling, or decode later. Encoded pictures are kept between calls and found again by
content; that changes no result.
Shapes: B rows, L domains, z latent channels, h w latent grid, H W pixels.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..kit.autoencoder.cache import EncodeCache
from ..kit.autoencoder.dcae import DCAE
from ..kit.autoencoder.tiling import run_within_memory
from ..kit.errors import JodiError, RoleError, ShapeError, TextError
from ..kit.sampling import SAMPLERS, StepCallback, draw_noise, hold_region, make_flow_sigmas
from ..kit.threads import short_waits
from .domains import Domain, find_domain_index, find_model_domain
from .labels.maps import preprocess
from .model.compilation import CompiledBlocks
from .model.config import JODI_1600M
from .model.denoiser import prepare_denoiser
from .model.facts import STEPS, VAEFacts, check_vae, read_facts
from .model.transformer import JodiTransformer
from .roles import RolePlan
from .text import ClosedVocabularyEncoder, TextFeatures

Pictures = Mapping[str, Tensor]


class Stages:
    """A transformer, an autoencoder and perhaps a text encoder, used stage by stage."""

    def __init__(
        self,
        transformer: JodiTransformer,
        autoencoder: DCAE,
        text_encoder: ClosedVocabularyEncoder | None = None,
        metadata: Mapping[str, str] | None = None,
        source: str = "unnamed model",
    ):
        """metadata: of the transformer's file; source: its name, and the title where it has none.

        A file that does not say which latents its model works on takes this autoencoder's, unless
        it is the released model.
        Raises: CheckpointError for metadata that cannot be true, ShapeError for parts that do not
        belong together.
        """
        makes = VAEFacts.of(autoencoder.config)
        facts = read_facts(transformer.config, metadata or {}, source, makes)
        check_vae(facts, makes)
        self.transformer = transformer.eval()
        self.autoencoder = autoencoder.eval()
        self.text_encoder = text_encoder
        self._encodings = EncodeCache()
        self._compiled: CompiledBlocks | None = None
        self.metadata = dict(metadata or {})
        self.facts = facts
        self.names = facts.names

    @property
    def device(self) -> torch.device:
        return self.transformer.domain_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.domain_embedding.dtype

    @property
    def factor(self) -> int:
        """Sides of a picture must be multiples of this many pixels."""
        return self.autoencoder.config.factor * self.transformer.config.patch_size

    @property
    def native_size(self) -> tuple[int, int]:
        """The size (H, W) the model was trained at."""
        return self.facts.native_size

    @property
    def trained_roles(self) -> str:
        """Which role patterns the model has met: "published" or "any"."""
        return self.facts.trained_roles

    def domain(self, name: str) -> Domain:
        """A domain of this model; a domain beyond the eight is read as plain colour."""
        return find_model_domain(name, find_domain_index(name, self.names))

    def plan(self, generate: Iterable[str], condition: Iterable[str] = ()) -> RolePlan:
        """A role plan over this model's domains."""
        return RolePlan.from_names(generate, condition, names=self.names)

    @torch.inference_mode()
    def encode_conditions(
        self,
        plan: RolePlan,
        pictures: Pictures,
        size: tuple[int, int],
        batch: int = 1,
        *,
        tile: int | None = None,
    ) -> Tensor:
        """Clean latents (B, L, z, h, w) float32; slots without a condition are zero.

        Raises: RoleError when a condition's picture is missing, ShapeError when one has another
        size or batch.
        """
        f = self.autoencoder.config.factor
        channels = self.transformer.config.latent_channels
        shape = (batch, len(self.names), channels, size[0] // f, size[1] // f)
        clean = torch.zeros(shape, device=self.device)
        for index in plan.conditions:
            name = self.names[index]
            if name not in pictures:
                raise RoleError(f"{name} is a condition, but its picture was not given; pass it")
            picture = pictures[name]
            if tuple(picture.shape[-2:]) != tuple(size) or len(picture) not in (1, batch):
                raise ShapeError(
                    f"the picture of {name} is {tuple(picture.shape)}; expected 1 or {batch} rows "
                    f"of {size[0]}x{size[1]}"
                )
            clean[:, index] = self.encode_picture(name, picture, tile=tile)
        return clean

    @torch.inference_mode()
    def encode_picture(self, name: str, picture: Tensor, *, tile: int | None = None) -> Tensor:
        """One domain's picture (B, 3, H, W) in [0, 1] -> scaled latent (B, z, h, w) float32.

        A picture met before is not encoded again, until the autoencoder or its weights change.
        """
        x = preprocess(self.domain(name), picture).to(self.dtype)

        def encode() -> Tensor:
            pixels = x.shape[-2] * x.shape[-1]
            return run_within_memory(
                self.autoencoder.encode,
                x.to(self.device),
                bytes_per_row=self.autoencoder.peak_memory(pixels, x.element_size()),
                tile=tile,
            )

        if not self._encodings.made_by(self.autoencoder):
            return encode()
        return self._encodings.get(x, (tile, str(self.device)), encode)

    def encode_text(
        self, prompts: str | Sequence[str], *, like: TextFeatures | None = None
    ) -> TextFeatures:
        """Text features of one or more prompts.

        A model without a text encoder reads only the empty prompt, which is its stored null text
        with every token readable, as in training. like: features of the other half of the guidance;
        the null text is cut to their length, so that one mask fits both.
        Raises: TextError when a prompt needs an encoder that is not there.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if self.text_encoder is not None:
            return self.text_encoder(prompts)
        if any(p.strip() for p in prompts):
            raise TextError(
                "this model file brings no text encoder, so a prompt cannot be read here; pass "
                "stored text features, or run the model in ComfyUI with its text encoder"
            )
        null = self.transformer.y_embedder.y_embedding
        if like is not None:
            null = null[: like.mask.shape[1]]
        caption = null.expand(len(prompts), 1, -1, -1)
        return TextFeatures(caption, torch.ones(caption.shape[::2], dtype=torch.long))

    @torch.inference_mode()
    def sample(
        self,
        plan: RolePlan,
        clean: Tensor,
        text: TextFeatures | None = None,
        negative_text: TextFeatures | None = None,
        *,
        steps: int = STEPS,
        guidance: float = 1.0,
        seed: int | Sequence[int] = 0,
        noise: Tensor | None = None,
        sampler: str = "dpmpp_2m",
        callback: StepCallback | None = None,
        shift: float = 3.0,
        start: float = 1.0,
        init: Tensor | None = None,
        hold: Tensor | None = None,
        own_mask: bool = False,
        round_timestep: bool | None = None,
    ) -> Tensor:
        """Latents (B, L, z, h, w) float32: generated domains sampled, conditions as given.

        noise: in place of the seed's, (B, L, z, h, w). start, init: begin at noise level `start`
        from clean latents `init` (partial denoising). hold: (B or 1, L or 1, 1, h, w), 1 keeps
        `init` there to the end. own_mask: mask the negative text with its own mask; the released
        code masks it with the prompt's. round_timestep: round time to bfloat16; None does so where
        the released pipeline would.
        """
        if sampler not in SAMPLERS:
            raise JodiError(f"sampler {sampler!r} is unknown; use {' or '.join(SAMPLERS)}")
        if noise is None:
            noise = draw_noise(clean.shape, seed)
        for what, tensor in (("noise", noise), ("init", init)):
            if tensor is not None and tensor.shape != clean.shape:
                raise ShapeError(
                    f"{what} {tuple(tensor.shape)} must have the shape of the clean latents, "
                    f"{tuple(clean.shape)}"
                )
        noise = noise.to(clean)
        if round_timestep is None:
            released = self.transformer.config == JODI_1600M
            round_timestep = released and self.dtype == torch.bfloat16
        sigmas = make_flow_sigmas(steps, shift, start=start)
        if self._compiled is not None:
            active = len(plan.generated), len(plan.conditions)
            self._compiled.admit((clean.shape, active, plan.uses_text, guidance == 1))
        denoise = prepare_denoiser(
            self.transformer,
            plan.as_tensor(len(clean)),
            clean,
            text,
            negative_text,
            sigmas=sigmas,
            guidance=guidance,
            own_mask=own_mask,
            round_timestep=round_timestep,
        )
        x = noise
        if init is not None:
            init = init.to(noise)
            if start < 1:
                x = torch.lerp(init, noise, sigmas[0])
            if hold is not None:
                denoise = hold_region(denoise, init, noise, hold)
        elif start < 1 or hold is not None:
            raise ShapeError(
                "starting below full noise or holding a region needs latents to start from; pass "
                "`init`"
            )

        def denoise_step(x: Tensor, sigma: float) -> Tensor:
            with short_waits(self.device):
                return denoise(x, sigma)

        x = SAMPLERS[sampler](denoise_step, x, sigmas, callback)
        for index in plan.conditions:
            x[:, index] = clean[:, index]
        x[:, list(plan.ignored)] = 0
        return x

    @torch.inference_mode()
    def decode(
        self, latents: Tensor, names: Iterable[str], *, tile: int | None = None
    ) -> dict[str, Tensor]:
        """Chosen domains of latents (B, L, z, h, w) -> (B, 3, H, W) float32 on the CPU.

        Raises: JodiError for a name that is no domain of this model.
        """
        names = list(names)
        if not names:
            return {}
        chosen = latents[:, [find_domain_index(name, self.names) for name in names]]
        rows = rearrange(chosen, "b l z h w -> (l b) z h w").to(self.device, self.dtype)
        pixels = rows[0, 0].numel() * self.autoencoder.config.factor**2
        pictures = run_within_memory(
            self.autoencoder.decode,
            rows,
            bytes_per_row=self.autoencoder.peak_memory(pixels, rows.element_size()),
            tile=tile,
        )
        return dict(zip(names, pictures.split(len(latents)), strict=True))
