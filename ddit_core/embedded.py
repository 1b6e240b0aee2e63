"""The files of the embedded model, ddit-nano, and its text encoder's format.

Its VAE is jodi-nano's: both models work on the latents of one autoencoder.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from ..jodi_core.embedded import AUTOENCODER
from ..kit.autoencoder.checkpoint import load_autoencoder
from ..kit.config import parse_json
from ..kit.errors import CheckpointError, JodiError
from ..kit.weights.kinds import WORD_TOKENS, require_kind
from ..kit.weights.loading import FLOATS, cast, load
from ..kit.weights.read import StateFile, read_state_dict
from ..kit.weights.write import write_state_dict
from .model.checkpoint import TRANSFORMER as FORMAT
from .pipeline import DDiTPipeline
from .text.words import WordEncoder

ASSETS = Path(__file__).parent / "assets"
TRANSFORMER = ASSETS / "ddit-nano.safetensors"
TEXT_ENCODER = ASSETS / "ddit-nano-text.safetensors"


def load_embedded_pipeline(device: str = "cpu", dtype: torch.dtype | None = None) -> DDiTPipeline:
    """The built-in ddit-nano with its text encoder and VAE. dtype: float32 unless said."""
    return load_nano_pipeline(TRANSFORMER, TEXT_ENCODER, AUTOENCODER, device=device, dtype=dtype)


def load_nano_pipeline(
    transformer: Path,
    text_encoder: Path,
    autoencoder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> DDiTPipeline:
    """The pipeline of a small D-DiT, from the files that its training exported.

    Raises: CheckpointError for a file that does not fit; JodiError for parts that do not belong
        together.
    """
    dtype = torch.float32 if dtype is None else dtype
    loaded = load(transformer, FORMAT, device=device, dtype=dtype)
    words = load_word_encoder(text_encoder).to(device)
    vae, _ = load_autoencoder(autoencoder, device=device, dtype=dtype)
    network, scale = loaded.model, vae.config.scaling_factor
    if (network.config.context_channels, network.config.latent_channels) != (
        words.channels,
        vae.config.latent_channels,
    ):
        raise JodiError(
            f"{transformer} reads text of {network.config.context_channels} channels and latents "
            f"of {network.config.latent_channels}; {text_encoder} makes {words.channels} and "
            f"{autoencoder} {vae.config.latent_channels}. Give the files of one release"
        )

    def vae_encode(pictures: Tensor) -> Tensor:
        latents = vae.encode(pictures.to(device, dtype) * 2 - 1)
        return latents.float() / scale

    def vae_decode(latents: Tensor) -> Tensor:
        return vae.decode((latents * scale).to(device, dtype)).float() / 2 + 0.5

    return DDiTPipeline(
        network,
        words,
        words.tokenizer,
        vae_encode=vae_encode,
        vae_decode=vae_decode,
        facts=loaded.facts,
    )


def save_word_encoder(encoder: WordEncoder, path: Path, *, force: bool = False) -> None:
    """Write the encoder's two tables, with its words in the metadata.

    Raises: CheckpointError when the file exists and `force` is not set.
    """
    state = {"words": encoder.words, "positions": encoder.positions}
    about = describe_word_encoder(encoder)
    write_state_dict(path, state, about, dtype=torch.float16, convert=cast, force=force)


def describe_word_encoder(encoder: WordEncoder) -> dict[str, str]:
    """The metadata that makes two tables of numbers a text encoder."""
    return {"kind": WORD_TOKENS.name, "vocabulary": json.dumps(encoder.word_list)}


def load_word_encoder(path: str | Path = TEXT_ENCODER) -> WordEncoder:
    """Read what `save_word_encoder`, or a host, wrote of an encoder; float32.

    Raises: CheckpointError for another kind of file, or one whose words or numbers make no encoder.
    """
    content = read_state_dict(path)
    require_kind(content.tensors, (WORD_TOKENS,), str(path))
    return read_word_encoder(content, str(path))


def read_word_encoder(content: StateFile, source: str) -> WordEncoder:
    """The text encoder that a file of kind `WORD_TOKENS` holds. Raises: as `load_word_encoder`."""
    tables = {name.rpartition(".")[2]: tensor for name, tensor in content.tensors.items()}
    words, positions = tables["words"], tables["positions"]
    try:
        listed = parse_json(content.metadata.get("vocabulary", "null"), "its vocabulary")
        if not isinstance(listed, list) or not all(isinstance(w, str) and w for w in listed):
            raise JodiError("its metadata has no list of words under `vocabulary`")
        if any(t.ndim != 2 or t.dtype not in FLOATS for t in (words, positions)):
            raise JodiError("its tables must be matrices of floats")
        if not (words.isfinite().all() and positions.isfinite().all()):
            raise JodiError("its tables hold NaN or infinity")
        encoder = WordEncoder(listed, len(positions), tables=(words, positions))
        if len(words) != encoder.vocabulary.size:
            raise JodiError(
                f"its table has {len(words)} rows, expected {encoder.vocabulary.size} for "
                f"{len(listed)} words and the marks"
            )
        return encoder
    except JodiError as error:
        raise CheckpointError(
            f"{source} is no text encoder made by `jodi train ddit`: {error}. Give the file that "
            "was exported with the model."
        ) from None
