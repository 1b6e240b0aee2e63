"""A whole request in the published code's structure.

Every condition is encoded, both guidance halves run as one batch of two wherever guidance is not 1,
all eight domains are sampled, and all eight are decoded and post-processed, one after the other.
The schedule, the noise and the solver's closed form are shared with ours: they cost almost nothing,
and the two stay comparable.
Shapes: B rows, L domains, z latent channels, h w latent grid, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..jodi_core.domains import DOMAIN_NAMES
from ..jodi_core.labels.maps import postprocess, preprocess
from ..jodi_core.roles import RolePlan
from ..jodi_core.text import TextFeatures
from ..kit.sampling import draw_noise, make_flow_sigmas, sample_dpmpp_2m
from .baseline_autoencoder import BaselineAutoencoder
from .baseline_transformer import BaselineTransformer


@dataclass(frozen=True)
class Result:
    """raw: decoder output (1, 3, H, W) float32 of every domain; pictures: post-processed."""

    raw: dict[str, Tensor]
    pictures: dict[str, Tensor]


class BaselinePipeline:
    """A transformer and an autoencoder; text comes as features."""

    def __init__(self, transformer: BaselineTransformer, autoencoder: BaselineAutoencoder):
        self.transformer = transformer.eval()
        self.autoencoder = autoencoder.eval()
        parameter = transformer.domain_embedding
        self.device, self.dtype = parameter.device, parameter.dtype

    @torch.inference_mode()
    def run(
        self,
        plan: RolePlan,
        *,
        conditions: Mapping[str, Tensor],
        text: TextFeatures,
        negative_text: TextFeatures,
        size: tuple[int, int],
        steps: int,
        guidance: float,
        seed: int,
    ) -> Result:
        """One row, all domains, on the CPU."""
        clean = self.encode(conditions, size)
        noise = draw_noise(clean.shape, seed).to(self.device)
        role = plan.as_tensor(1).to(self.device)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            velocity = self.velocity(x, sigma, clean, role, text, negative_text, guidance)
            return x - sigma * velocity.float()

        latents = sample_dpmpp_2m(denoise, noise, make_flow_sigmas(steps))
        latents[:, list(plan.conditions)] = clean[:, list(plan.conditions)]
        return self.decode(latents)

    def velocity(self, x, sigma, clean, role, text, negative_text, guidance) -> Tensor:
        """One step (B, L, z, h, w), guided by a batch of both halves unless guidance is 1."""
        timestep = torch.full((len(x),), sigma * 1000, device=x.device)
        caption, mask = text.caption.to(x.device), text.mask.to(x.device)
        if guidance == 1:
            return self.transformer(x, timestep, caption, mask, role, clean)
        negative = negative_text.caption.to(x.device)
        rows = len(x)
        caption = torch.cat([part.expand(rows, -1, -1, -1) for part in (negative, caption)])
        x, timestep, role, clean = (torch.cat([part, part]) for part in (x, timestep, role, clean))
        both = self.transformer(x, timestep, caption, mask, role, clean)
        unguided, guided = both.chunk(2)
        return unguided + guidance * (guided - unguided)

    @torch.inference_mode()
    def encode(self, conditions: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """Clean latents (1, L, z, h, w) float32, zero where nothing is given."""
        factor = self.autoencoder.config.factor
        channels = self.autoencoder.config.latent_channels
        grid = (size[0] // factor, size[1] // factor)
        clean = torch.zeros(1, len(DOMAIN_NAMES), channels, *grid, device=self.device)
        for name, picture in conditions.items():
            clean[:, DOMAIN_NAMES.index(name)] = self.encode_one(name, picture)
        return clean

    @torch.inference_mode()
    def encode_one(self, name: str, picture: Tensor) -> Tensor:
        """One domain's picture (1, 3, H, W) in [0, 1] -> latent (1, z, h, w) float32."""
        x = preprocess(name, picture).to(self.device, self.dtype)
        return self.autoencoder.encode(x).float()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Result:
        """Latents (1, L, z, h, w) -> pictures of all domains."""
        raw, pictures = {}, {}
        for i, name in enumerate(DOMAIN_NAMES):
            raw[name] = self.autoencoder.decode(latents[:, i].to(self.dtype)).float().cpu()
            pictures[name] = postprocess(name, raw[name].clamp(-1, 1))
        return Result(raw, pictures)
