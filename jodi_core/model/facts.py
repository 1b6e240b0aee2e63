"""What a weight file says about its model beyond its tensors: read and checked here, once.

A file without metadata is taken for the released model. All metadata is checked when the file is
opened, so that a false entry does not show later as a wrong picture or a distant error.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from safetensors import safe_open

from ...kit.autoencoder.config import DC_AE_F32C32, AutoencoderConfig
from ...kit.config import parse_json
from ...kit.errors import CheckpointError, JodiError, ShapeError, make_plain
from ..domains import DOMAIN_NAMES, name_domains
from ..embedded import AUTOENCODER
from .config import JODI_1600M, TransformerConfig

# Of the released model.
RELEASED_SIDE = 1024
RELEASED_GUIDANCE = 4.5
PERCEPTION_STEPS = 10
STEPS = 20

ROLES = ("published", "any")
# No model comes near these.
_LARGEST_SIDE, _LARGEST_FACTOR, _MOST_STEPS, _STRONGEST = 16384, 4096, 1000, 1000.0
_LONGEST_NAME, _LONGEST_TITLE = 60, 200
Parsed = TypeVar("Parsed")


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
        """Whether two VAEs have the same latents; scales are often stored rounded."""
        sizes = (self.latent_channels, self.factor) == (other.latent_channels, other.factor)
        return sizes and math.isclose(self.latent_scale, other.latent_scale, rel_tol=1e-4)

    def __str__(self) -> str:
        return (
            f"{self.latent_channels} channels, a cell for {self.factor} x {self.factor} pixels, "
            f"scaled by {self.latent_scale:g}"
        )


@dataclass(frozen=True)
class ModelFacts:
    """What people and programs may want to know of a Jodi model.

    names: its domains in order. factor: pixels per token, which sizes must be multiples of.
    vae_factor: pixels per latent cell. latent_scale: what unscaled latents are multiplied by.
    native_size: (H, W) it was trained at. guidance: its own default where text is read.
    trained_roles: "published" or "any". perception_steps: its default where the image is given.
    shift: of its noise schedule.
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
    perception_steps: int = PERCEPTION_STEPS
    shift: float = 3.0

    @property
    def vae(self) -> VAEFacts:
        """The VAE whose latents the model works on."""
        return VAEFacts(self.latent_channels, self.vae_factor, self.latent_scale)


def read_facts(
    config: TransformerConfig,
    metadata: Mapping[str, str],
    source: str,
    vae: VAEFacts | None = None,
) -> ModelFacts:
    """The facts of a transformer, from its sizes and its file's metadata.

    source: names the file, and is the title where the metadata has none. vae: the VAE where the
    metadata does not say; None is the released autoencoder for a model that reads Gemma's text,
    else the built-in autoencoder.
    Raises: CheckpointError with a sentence for each fact that cannot be true.
    """
    released = config.caption_channels == JODI_1600M.caption_channels
    guessed = vae is None and not released and "vae_factor" not in metadata
    if released or vae is None:
        vae = VAEFacts.of(DC_AE_F32C32 if released else read_embedded_config())

    def read(key: str, parse: Callable[[str], Parsed], expected: str, default: Parsed) -> Parsed:
        if key not in metadata:
            return default
        try:
            return parse(metadata[key])
        except JodiError as error:
            raise CheckpointError(
                f"{source}: its metadata says that {key} is {_show(metadata[key])}; expected "
                f"{expected}{_because(error)}. Use the file that the training exported, or "
                "convert it again from its source."
            ) from None

    vae_factor = read("vae_factor", _power_of_two, "a power of two", vae.factor)
    factor = vae_factor * config.patch_size
    multiple = config.patch_size if guessed else factor
    side = read(
        "native_size",
        lambda text: _whole(text, _LARGEST_SIDE, multiple),
        f"a number of pixels, a multiple of {multiple} up to {_LARGEST_SIDE}",
        max(factor, RELEASED_SIDE // factor * factor),
    )
    return ModelFacts(
        title=make_plain(metadata.get("title", PurePath(source).stem or source))[:_LONGEST_TITLE],
        names=read(
            "domains",
            lambda text: _names(text, config.num_domains),
            f"a JSON list of {config.num_domains} names in the order of its layers",
            name_domains(config.num_domains),
        ),
        factor=factor,
        vae_factor=vae_factor,
        latent_channels=config.latent_channels,
        latent_scale=read("latent_scale", _scale, "a positive number", vae.latent_scale),
        caption_channels=config.caption_channels,
        caption_length=config.caption_length,
        native_size=(side, side),
        guidance=read("guidance", _strength, "a number from 0 to 1000", RELEASED_GUIDANCE),
        trained_roles=read("trained_roles", _roles, " or ".join(ROLES), ROLES[0]),
        perception_steps=read(
            "perception_steps",
            lambda text: _whole(text, _MOST_STEPS),
            f"a whole number from 1 to {_MOST_STEPS}",
            PERCEPTION_STEPS,
        ),
    )


def write_facts(config: TransformerConfig, facts: ModelFacts) -> dict[str, str]:
    """The metadata from which `read_facts` reads these facts, with the sizes beside them."""
    return {
        "kind": "jodi",
        "config": config.to_json(),
        "title": facts.title,
        "domains": json.dumps(list(facts.names)),
        "vae_factor": str(facts.vae_factor),
        "latent_scale": repr(facts.latent_scale),
        "native_size": str(facts.native_size[0]),
        "guidance": repr(facts.guidance),
        "trained_roles": facts.trained_roles,
        "perception_steps": str(facts.perception_steps),
    }


def check_vae(model: ModelFacts, vae: VAEFacts, belongs: str = "") -> None:
    """Pass when a VAE makes the latents that a model works on.

    belongs: a sentence that says where to find the right VAE. Raises: ShapeError naming both.
    """
    wanted = model.vae
    if vae.equals(wanted):
        return
    raise ShapeError(
        f"the model {model.title} works on latents of {wanted}; this VAE makes latents of {vae}. "
        f"{belongs or f'Use the VAE that belongs to it: {name_vae(wanted)}'}"
    )


def name_vae(wanted: VAEFacts) -> str:
    """Which VAE makes such latents."""
    if wanted.equals(VAEFacts.of(read_embedded_config())):
        return "the built-in one"
    if wanted.equals(VAEFacts.of(DC_AE_F32C32)):
        return "dc-ae-f32c32-sana-1.0"
    return "the file it was trained with"


@functools.cache
def read_embedded_config() -> AutoencoderConfig:
    """Sizes of the built-in autoencoder."""
    with safe_open(AUTOENCODER, "pt") as file:
        return AutoencoderConfig.from_dict(json.loads(file.metadata()["config"]))


def _show(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _because(error: JodiError) -> str:
    return f" ({error})" if str(error) else ""


def _whole(text: str, largest: int, multiple: int = 1) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= largest:
        raise JodiError
    if int(text) % multiple:
        raise JodiError
    return int(text)


def _power_of_two(text: str) -> int:
    number = _whole(text, _LARGEST_FACTOR)
    if number & (number - 1):
        raise JodiError
    return number


def _number(text: str) -> float:
    # float() also takes "4_5" for 45, and digits of any script
    if not re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?", text):
        raise JodiError
    try:
        number = float(text)
    except ValueError:
        raise JodiError from None
    if not math.isfinite(number):
        raise JodiError
    return number


def _scale(text: str) -> float:
    number = _number(text)
    if not 1e-6 < number < 1e6:
        raise JodiError
    return number


def _strength(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= _STRONGEST:
        raise JodiError
    return number


def _roles(text: str) -> str:
    if text not in ROLES:
        raise JodiError
    return text


def _names(text: str, count: int) -> tuple[str, ...]:
    """The names of a model's domains. More than it has are those of a larger model, cut off."""
    names = parse_json(text, "the text")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise JodiError("it is no list of names")
    if len(names) < count:
        raise JodiError(f"it names {len(names)}")
    names = names[:count]
    if not all(name.strip() and name.isprintable() for name in names):
        raise JodiError("a name is empty or cannot be printed")
    if any(len(name) > _LONGEST_NAME for name in names):
        raise JodiError(f"a name has more than {_LONGEST_NAME} letters")
    plain = [name.strip().lower() for name in names]
    twice = [name for name in plain if plain.count(name) > 1]
    if twice:
        raise JodiError(f"{twice[0]} stands there twice")
    if names[0] != DOMAIN_NAMES[0]:
        raise JodiError(f"the first must be {DOMAIN_NAMES[0]}")
    # The eight known names in another order are a mistake: labels would be exchanged silently.
    known = tuple(name for name in names if name in DOMAIN_NAMES)
    if len(known) == len(DOMAIN_NAMES) and known != DOMAIN_NAMES:
        raise JodiError(f"these eight stand in the order {', '.join(DOMAIN_NAMES)}")
    return tuple(names)
