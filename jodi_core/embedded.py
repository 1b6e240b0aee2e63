"""The files of the embedded model, jodi-nano, and its text encoder's format."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..kit.config import parse_json
from ..kit.errors import CheckpointError, JodiError, shorten
from ..kit.pictures.files import load_image
from ..kit.weights.kinds import WORDS, require_kind
from ..kit.weights.loading import FLOATS, name_dtype
from ..kit.weights.read import StateFile, read_state_dict
from ..kit.weights.write import replace_weights_file
from .domains import DOMAIN_NAMES
from .text import ClosedVocabularyEncoder

ASSETS = Path(__file__).parent / "assets"
TRANSFORMER = ASSETS / "jodi-nano.safetensors"
AUTOENCODER = ASSETS / "jodi-nano-vae.safetensors"
TEXT_ENCODER = ASSETS / "jodi-nano-text.safetensors"


def save_text_encoder(encoder: ClosedVocabularyEncoder, path: Path) -> None:
    """Replace a file by the encoder's table, with its words in the metadata.

    Raises: CheckpointError when the place cannot be written to.
    """
    table = {"table": encoder.table.half().contiguous()}
    with replace_weights_file(path, force=True) as file:
        file.write(save(table, describe_text_encoder(encoder)))


def describe_text_encoder(encoder: ClosedVocabularyEncoder) -> dict[str, str]:
    """The metadata that makes a table of numbers a text encoder."""
    return {
        "vocabulary": json.dumps(encoder.vocabulary),
        "caption_length": str(encoder.caption_length),
    }


def load_text_encoder(path: str | Path = TEXT_ENCODER) -> ClosedVocabularyEncoder:
    """Read what `save_text_encoder`, or a host, wrote of an encoder; float32.

    Raises: CheckpointError for another kind of file, or one whose words, length or numbers make no
    encoder.
    """
    content = read_state_dict(path)
    require_kind(content.tensors, (WORDS,), str(path))
    return read_text_encoder(content, str(path))


_LONGEST_CAPTION = 4096  # tokens


def read_text_encoder(content: StateFile, source: str) -> ClosedVocabularyEncoder:
    """The text encoder that a file of kind `WORDS` holds. Raises: as `load_text_encoder`."""
    (table,) = content.tensors.values()
    try:
        words = _read_words(content.metadata)
        length = content.metadata.get("caption_length", "nothing")
        if not re.fullmatch(r"[0-9]{1,4}", length) or not 2 <= int(length) <= _LONGEST_CAPTION:
            raise JodiError(
                f"caption_length is {shorten([length])}, expected a number of tokens from 2 to "
                f"{_LONGEST_CAPTION}"
            )
        # A row for every word, for the begin token and for the padding.
        rows = len(words) + 2
        if table.ndim != 2 or table.shape[0] != rows or not table.shape[1]:
            raise JodiError(
                f"its table has shape {tuple(table.shape)}, expected {rows} rows, one for each of "
                f"{len(words)} words and two more"
            )
        if table.dtype not in FLOATS:
            raise JodiError(f"its table is stored as {name_dtype(table.dtype)}, expected floats")
        if not table.isfinite().all():
            raise JodiError("its table holds NaN or infinity")
        return ClosedVocabularyEncoder(words, int(length), table=table)
    except JodiError as error:
        raise CheckpointError(
            f"{source} is no text encoder made by `jodi train export`: {error}. Give the file "
            "that was exported with the model."
        ) from None


def _read_words(metadata: Mapping[str, str]) -> list[str]:
    if "vocabulary" not in metadata:
        raise JodiError("it has no vocabulary in its metadata")
    words = parse_json(metadata["vocabulary"], "its vocabulary")
    if not isinstance(words, list) or not words:
        raise JodiError("its vocabulary is no list of words")
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise JodiError("its vocabulary holds what is no word")
    return words


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


def stack_samples(samples: Sequence[Sample], name: str) -> Tensor:
    """One domain of all samples: (B, 3, H, W)."""
    return torch.stack([sample.pictures[name] for sample in samples])
