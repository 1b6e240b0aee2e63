"""From a finished training run to the three files of an embedded model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...kit.autoencoder.dcae import DCAE
from ...kit.errors import CheckpointError, JodiError
from ...kit.weights.convert import FORMAT_VERSION
from ...kit.weights.loading import cast
from ...kit.weights.write import check_destination, write_state_dict
from ..domains import DOMAIN_NAMES
from ..embedded import save_text_encoder
from ..model.transformer import JodiTransformer
from ..text import ClosedVocabularyEncoder

TITLE = "jodi-nano"
NAMES = {part: f"{TITLE}{ending}.safetensors" for part, ending in
         {"transformer": "", "autoencoder": "-vae", "text": "-text"}.items()}  # fmt: skip
NANO_GUIDANCE = 3.0
NANO_PERCEPTION_STEPS = 1  # what training at full noise is for


@dataclass(frozen=True)
class Parts:
    """The three networks of a model."""

    transformer: JodiTransformer
    autoencoder: DCAE
    text: ClosedVocabularyEncoder


def export(
    parts: Parts,
    folder: Path,
    *,
    native_size: int,
    record: Mapping | None = None,
    title: str = TITLE,
    guidance: float = NANO_GUIDANCE,
    perception_steps: int = NANO_PERCEPTION_STEPS,
    dtype: torch.dtype = torch.float16,
    force: bool = False,
) -> dict[str, Path]:
    """Write `jodi-nano.safetensors`, `-vae` and `-text` into `folder`, each whole or not at all.

    native_size: side in pixels of the training pictures. record: how the model was trained (steps,
    seeds, scenes), plain values. guidance, perception_steps: what the pipeline uses unless told
    otherwise.
    Returns: the paths by part: transformer, autoencoder, text.
    Raises: JodiError when the parts do not belong together; CheckpointError when a file exists and
        `force` is not set, or a weight does not fit the dtype.
    """
    _check(parts)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {part: check_destination(folder / name, force=force) for part, name in NAMES.items()}
    common = {
        "format": "pt",
        "jodi_format": FORMAT_VERSION,
        "dtype": str(dtype).removeprefix("torch."),
        "training": json.dumps(dict(record or {}), sort_keys=True),
    }
    config = parts.transformer.config
    _write(
        parts.transformer,
        paths["transformer"],
        {
            **common,
            "kind": "jodi",
            "title": title,
            "config": config.to_json(),
            "domains": json.dumps(list(DOMAIN_NAMES[: config.num_domains])),
            "trained_roles": "any",
            "native_size": str(native_size),
            "guidance": str(guidance),
            "perception_steps": str(perception_steps),
            # of the autoencoder, whose latents the transformer was trained on
            "vae_factor": str(parts.autoencoder.config.factor),
            "latent_scale": str(parts.autoencoder.config.scaling_factor),
        },
        dtype,
        force,
    )
    vae = {"kind": "dcae", "title": f"{title} autoencoder"}
    vae["config"] = parts.autoencoder.config.to_json()
    _write(parts.autoencoder, paths["autoencoder"], {**common, **vae}, dtype, force)
    save_text_encoder(parts.text, paths["text"])
    return paths


def _write(model: nn.Module, path: Path, metadata: dict, dtype: torch.dtype, force: bool) -> None:
    state = model.state_dict()
    write_state_dict(path, state, metadata, dtype=dtype, convert=cast, force=force)


def _check(parts: Parts) -> None:
    config = parts.transformer.config
    if config.num_domains > len(DOMAIN_NAMES):
        raise CheckpointError(
            f"the model has {config.num_domains} domains, names are known for {len(DOMAIN_NAMES)}; "
            "add the others to DOMAINS"
        )
    if config.latent_channels != parts.autoencoder.config.latent_channels:
        raise JodiError(
            f"the transformer works on {config.latent_channels} latent channels, the autoencoder "
            f"makes {parts.autoencoder.config.latent_channels}; export parts of one run"
        )
    text = (parts.text.channels, parts.text.caption_length)
    if (config.caption_channels, config.caption_length) != text:
        raise JodiError(
            f"the transformer reads text of {config.caption_length} tokens with "
            f"{config.caption_channels} channels, the encoder makes {text[1]} with {text[0]}; "
            "export parts of one run"
        )
