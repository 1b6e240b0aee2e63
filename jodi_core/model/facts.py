"""What a weight file says about its model beyond its tensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors import safe_open

from ...kit.autoencoder.config import DC_AE_F32C32, AutoencoderConfig
from ...kit.errors import CheckpointError
from ..domains import DOMAIN_NAMES
from ..embedded import AUTOENCODER
from .config import JODI_1600M, TransformerConfig

RELEASED_SIDE = 1024


@dataclass(frozen=True)
class ModelFacts:
    """What a node may want to know of a loaded Jodi MODEL.

    names: its domains in order. factor: pixels per token, which sizes must be multiples of.
    vae_factor: pixels per latent cell. latent_scale: what unscaled latents are multiplied by.
    native_size: (H, W) it was trained at. guidance: its own default where text is read.
    shift: of its noise schedule. trained_roles: "published" or "any".
    """

    title: str
    names: tuple[str, ...]
    factor: int
    vae_factor: int
    latent_channels: int
    latent_scale: float
    caption_channels: int
    caption_length: int
    native_size: tuple[int, int]
    guidance: float
    trained_roles: str
    shift: float = 3.0


@dataclass(frozen=True)
class VAEFacts:
    """latent_channels, pixels per latent cell, and what unscaled latents are multiplied by."""

    latent_channels: int
    factor: int
    latent_scale: float

    @classmethod
    def of(cls, config: AutoencoderConfig) -> "VAEFacts":
        return cls(config.latent_channels, config.factor, config.scaling_factor)

    def equals(self, other: "VAEFacts") -> bool:
        """Whether latents of one are read by the other; scales are often stored rounded."""
        sizes = (self.latent_channels, self.factor) == (other.latent_channels, other.factor)
        return sizes and math.isclose(self.latent_scale, other.latent_scale, rel_tol=1e-4)

    def __str__(self) -> str:
        return (
            f"{self.latent_channels} channels, a cell for {self.factor} x {self.factor} pixels, "
            f"scaled by {self.latent_scale:g}"
        )


def vae_of(model: ModelFacts) -> VAEFacts:
    """The VAE whose latents a model works on."""
    return VAEFacts(model.latent_channels, model.vae_factor, model.latent_scale)


def facts_of(config: TransformerConfig, metadata: Mapping[str, str], source: str) -> ModelFacts:
    """The facts of a transformer file. Files without metadata are the released model's.

    Raises: CheckpointError when the metadata cannot be read or names too few domains.
    """
    try:
        names = json.loads(metadata.get("domains", "null")) or DOMAIN_NAMES
        side = int(metadata.get("native_size", RELEASED_SIDE))
        guidance = float(metadata.get("guidance", GUIDANCE))
        autoencoder = _autoencoder_for(config)
        scale = float(metadata.get("latent_scale", autoencoder.scaling_factor))
        vae_factor = int(metadata.get("vae_factor", autoencoder.factor))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{source}: its metadata cannot be read ({error}); convert the file again"
        ) from error
    if len(names) < config.num_domains:
        raise CheckpointError(
            f"{source} has {config.num_domains} domains, its metadata names {len(names)}; convert "
            "it again with all names"
        )
    return ModelFacts(
        title=metadata.get("title", source),
        names=tuple(names[: config.num_domains]),
        factor=vae_factor * config.patch_size,
        vae_factor=vae_factor,
        latent_channels=config.latent_channels,
        latent_scale=scale,
        caption_channels=config.caption_channels,
        caption_length=config.caption_length,
        native_size=(side, side),
        guidance=guidance,
        trained_roles=metadata.get("trained_roles", "published"),
    )


def _autoencoder_for(config: TransformerConfig) -> AutoencoderConfig:
    """The autoencoder whose latents a transformer reads, where its file does not say.

    The released model and what was trained from it read Gemma's features, the built-in one and
    its kind read others.
    """
    released = config.caption_channels == JODI_1600M.caption_channels
    return DC_AE_F32C32 if released else embedded_autoencoder()


def embedded_autoencoder() -> AutoencoderConfig:
    """Sizes of the built-in autoencoder."""
    with safe_open(AUTOENCODER, "pt") as file:
        return AutoencoderConfig.from_dict(json.loads(file.metadata()["config"]))


PERCEPTION_STEPS = 10


GUIDANCE = 4.5


STEPS = 20
