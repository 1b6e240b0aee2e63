"""What a weight file says of its D-DiT beyond the tensors. One without a word is a released one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from torch import Tensor

from ...kit.errors import CheckpointError
from .config import DDiTConfig


@dataclass(frozen=True)
class DDiTFacts:
    """The defaults are those of the released model.

    native_size: side in pixels of the pictures it was trained on. vae_factor: pixels per latent
    cell. latent_scale, latent_shift: of its VAE, Stable Diffusion 3's. text_length: tokens of
    captions, questions and answers; picture_length: of prompts for pictures. guidance, steps: of
    pictures. text_steps: of texts.
    """

    title: str = "D-DiT"
    native_size: int = 512
    vae_factor: int = 8
    latent_scale: float = 1.5305
    latent_shift: float = 0.0609
    text_length: int = 128
    picture_length: int = 256
    guidance: float = 7.0
    steps: int = 28
    text_steps: int = 64

    def scale_latents(self, raw: Tensor) -> Tensor:
        """Latents as the network reads them, from what the VAE's encoder gives."""
        return (raw - self.latent_shift) * self.latent_scale

    def unscale_latents(self, latents: Tensor) -> Tensor:
        """Latents as the VAE's decoder reads them."""
        return latents / self.latent_scale + self.latent_shift

    def to_metadata(self) -> dict[str, str]:
        """The facts as a weight file holds them."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}


RELEASED = DDiTFacts()
_LARGEST = 16384


def read_facts(config: DDiTConfig, metadata: Mapping[str, str], source: str) -> DDiTFacts:
    """The facts of a transformer, from its file's metadata.

    source: names the file. Raises: CheckpointError for a value that cannot be true.
    """
    known = {}
    for field in fields(DDiTFacts):
        if field.name not in metadata:
            continue
        default, text = getattr(RELEASED, field.name), metadata[field.name]
        try:
            value = type(default)(text)
        except ValueError:
            value = math.nan
        if not isinstance(value, str):
            lowest = 0 if field.name == "latent_shift" else 1e-6
            if not (math.isfinite(value) and lowest <= abs(value) <= _LARGEST):
                raise CheckpointError(
                    f"{source}: its metadata says that {field.name} is {text[:40]!r}, expected a "
                    "number above zero. Use the file that the training exported."
                )
        known[field.name] = value
    return DDiTFacts(**known)
