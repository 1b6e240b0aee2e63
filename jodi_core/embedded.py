"""The files of the embedded model, jodi-nano, and its text encoder's format."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

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
