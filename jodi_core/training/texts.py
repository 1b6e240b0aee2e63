"""What turns a caption into the features a model reads, and tells itself apart from others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from ...kit.weights.convert import hash_file
from ..embedded import TEXT_ENCODER, load_text_encoder
from ..text import TextFeatures


class TextReader(Protocol):
    """A text encoder for training. name: tells its features from another's. stored: the dtype that
    keeps them on disk.
    """

    channels: int
    caption_length: int
    name: str
    stored: torch.dtype

    def __call__(self, prompts: Sequence[str]) -> TextFeatures: ...


class WordReader:
    """The closed vocabulary of a file, the embedded one unless named."""

    stored = torch.float16  # as the file holds its vectors

    def __init__(self, path: Path = TEXT_ENCODER):
        self.encoder = load_text_encoder(path)
        self.channels, self.caption_length = self.encoder.channels, self.encoder.caption_length
        self.name = f"words {hash_file(path)}"

    def __call__(self, prompts: Sequence[str]) -> TextFeatures:
        return self.encoder(prompts)
