"""What a weight file says about its model beyond its tensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from safetensors import safe_open

from ..jodi_core.checkpoint import StateFile, identify, read_state_dict
from ..jodi_core.config import DC_AE_F32C32, JODI_1600M, AutoencoderConfig, TransformerConfig
from ..jodi_core.domains import DOMAIN_NAMES
from ..jodi_core.embedded import AUTOENCODER
from ..jodi_core.errors import CheckpointError, ShapeError
from ..jodi_core.pipeline import GUIDANCE

BUILT_IN = "built-in jodi-nano"  # the choice in the loaders
RELEASED_SIDE = 1024

# What each loader takes, and which node and folder each kind of file belongs to.
_WANTED = {
    "jodi": ("a Jodi transformer", ("jodi",)),
    "dcae": ("the DC-AE autoencoder", ("dcae", "dcae-diffusers")),
    "gemma": ("a Gemma 2 2B text encoder", ("gemma",)),
}
_BELONGS = {
    "jodi": "Put it into models/diffusion_models and load it with Load Jodi Model.",
    "dcae": "Put it into models/vae and load it with Load Jodi VAE.",
    "dcae-diffusers": "Put it into models/vae and load it with Load Jodi VAE.",
    "gemma": "Put it into models/text_encoders and load it with Load Jodi Text Encoder.",
    "lora": "Apply it with the node LoraLoaderModelOnly, behind the model's loader.",
    "bundle": "Take the transformer's tensors out into a file of their own: `jodi convert`.",
}


def read_file(path, wanted: str) -> StateFile:
    """A weight file of the wanted kind: "jodi", "dcae" or "gemma".

    Raises: CheckpointError for a file that cannot be read, or that says what it is instead and
    which node loads it.
    """
    content = read_state_dict(path)
    kind = identify(content.tensors)
    title, names = _WANTED[wanted]
    if kind.name not in names:
        what_to_do = _BELONGS.get(kind.name, "Jodi has no use for it; choose another file.")
        raise CheckpointError(f"expected {title}, but {path} is {kind.title}. {what_to_do}")
    return content


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


def check_vae(model: ModelFacts, vae: VAEFacts) -> None:
    """Raises: ShapeError, naming the VAE that belongs to the model, when it is another one."""
    wanted = vae_of(model)
    if vae.equals(wanted):
        return
    raise ShapeError(
        f"the model {model.title} works on latents of {wanted}; this VAE makes latents of {vae}. "
        f"Connect the VAE that belongs to it: {_vae_name(wanted)}"
    )


def _vae_name(wanted: VAEFacts) -> str:
    """Which VAE makes such latents, and where it is had."""
    if wanted.equals(VAEFacts.of(embedded_autoencoder())):
        return f"the built-in one of Load Jodi ({BUILT_IN})"
    if wanted.equals(VAEFacts.of(DC_AE_F32C32)):
        return "dc-ae-f32c32-sana-1.0 in models/vae (Load Jodi or Load Jodi VAE)"
    return "the file it was trained with, in models/vae (Load Jodi or Load Jodi VAE)"


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
