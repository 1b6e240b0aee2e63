"""The files of the embedded model, jodi-nano, and its text encoder's format."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..kit.errors import JodiError
from ..kit.pictures.files import load_image
from .domains import DOMAIN_NAMES
from .text import ClosedVocabularyEncoder

ASSETS = Path(__file__).parent / "assets"
TRANSFORMER = ASSETS / "jodi-nano.safetensors"
AUTOENCODER = ASSETS / "jodi-nano-vae.safetensors"
TEXT_ENCODER = ASSETS / "jodi-nano-text.safetensors"


def save_text_encoder(encoder: ClosedVocabularyEncoder, path: Path) -> None:
    """Write the encoder's table, with its words in the metadata."""
    metadata = {
        "vocabulary": json.dumps(encoder.vocabulary),
        "caption_length": str(encoder.caption_length),
    }
    save_file({"table": encoder.table.half().contiguous()}, path, metadata)


def load_text_encoder(path: Path = TEXT_ENCODER) -> ClosedVocabularyEncoder:
    """Read what `save_text_encoder` wrote, as float32."""
    with safe_open(path, "pt") as f:
        metadata, table = f.metadata(), f.get_tensor("table")
    encoder = ClosedVocabularyEncoder(
        json.loads(metadata["vocabulary"]), int(metadata["caption_length"])
    )
    encoder.table.copy_(table.to(torch.float32))
    return encoder


SAMPLES = ASSETS / "samples"


LIST = "samples.json"


@dataclass(frozen=True)
class Sample:
    """One scene: pictures (3, H, W) float32 in [0, 1] by domain."""

    name: str
    seed: int
    caption: str
    pictures: dict[str, Tensor]


def read_samples(folder: Path = SAMPLES) -> list[Sample]:
    """The samples of a folder. Raises: JodiError when one is missing or damaged."""
    try:
        entries = json.loads((folder / LIST).read_text())["samples"]
        facts = [(str(e["name"]), int(e["seed"]), str(e["caption"])) for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JodiError(
            f"{folder / LIST} cannot be read ({error}); install the package again, or make the "
            "samples with `jodi train samples`"
        ) from None
    return [
        Sample(
            name,
            seed,
            caption,
            {of: load_image(folder / f"{name}_{of}.png")[0][0] for of in DOMAIN_NAMES},
        )
        for name, seed, caption in facts
    ]


def stacked(samples: Sequence[Sample], name: str) -> Tensor:
    """One domain of all samples: (B, 3, H, W)."""
    return torch.stack([sample.pictures[name] for sample in samples])
