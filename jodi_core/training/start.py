"""What a training starts from: the transformer, the autoencoder, what they are said to be."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...kit.autoencoder.checkpoint import load_autoencoder
from ...kit.autoencoder.dcae import DCAE
from ...kit.errors import JodiError
from ...kit.weights.convert import hash_file
from ...kit.weights.kinds import identify
from ...kit.weights.read import read_state_dict
from ..embedded import AUTOENCODER, TRANSFORMER
from ..model.checkpoint import load_transformer
from ..model.config import JODI_1600M, TransformerConfig
from ..model.facts import ModelFacts, VAEFacts, check_vae, read_facts
from ..model.transformer import JodiTransformer, init_weights
from .config import EMBEDDED, NOTHING, ModelConfig, TrainConfig
from .sana import start_from_sana
from .texts import TextReader
from .transformer import choose_nano_sizes


@dataclass(frozen=True)
class Start:
    """The parts of a training. vae_sha256: tells the autoencoder from others."""

    model: JodiTransformer
    facts: ModelFacts
    autoencoder: DCAE
    vae_sha256: str


def load_start(config: TrainConfig, text: TextReader, device: str) -> Start:
    """The parts that a config names. Raises: JodiError when they do not belong together."""
    vae_path = _path(config.model.vae, AUTOENCODER)
    autoencoder, _ = load_autoencoder(vae_path, device=device, dtype=torch.float32)
    vae = VAEFacts.of(autoencoder.config)
    model, facts = _transformer(config, text, vae)
    check_vae(facts, vae, "Set model.vae to the one the model was trained with.")
    sizes = (model.config.caption_channels, model.config.caption_length)
    if sizes[0] != text.channels:
        raise JodiError(
            f"{facts.title} reads text of {sizes[0]} channels, model.text makes {text.channels}; "
            "set model.text to the encoder that the model was trained with"
        )
    if config.data.side:
        if config.data.side % facts.factor:
            raise JodiError(
                f"data.side is {config.data.side}; this model needs a multiple of {facts.factor}"
            )
        facts = replace(facts, native_size=(config.data.side, config.data.side))
    return Start(model, facts, autoencoder.eval(), hash_file(vae_path))


def _transformer(
    config: TrainConfig, text: TextReader, vae: VAEFacts
) -> tuple[JodiTransformer, ModelFacts]:
    wanted = config.model
    if wanted.start != NOTHING:
        path = _path(wanted.start, TRANSFORMER)
        content = read_state_dict(path)
        if identify(content.tensors).name != "sana":
            model, metadata = load_transformer(path, dtype=torch.float32)
            return model, read_facts(model.config, metadata, path.name, vae)
        sizes = _sizes(wanted, text, vae)
        null = _null_text(text)
        model = start_from_sana(sizes, content.tensors, null, config.seed)
    else:
        model = JodiTransformer(_sizes(wanted, text, vae))
        init_weights(model, config.seed)
        model.y_embedder.y_embedding.copy_(_null_text(text))
    metadata = {"title": Path(config.folder).name, "trained_roles": config.training.roles}
    metadata |= {"native_size": str(32 * vae.factor * model.config.patch_size)}
    metadata |= {"vae_factor": str(vae.factor), "latent_scale": repr(vae.latent_scale)}
    return model, read_facts(model.config, metadata, Path(config.folder).name, vae)


def _sizes(wanted: ModelConfig, text: TextReader, vae: VAEFacts) -> TransformerConfig:
    if wanted.size == "nano":
        return choose_nano_sizes(text.channels, text.caption_length, vae.latent_channels)
    return JODI_1600M


def _null_text(text: TextReader) -> Tensor:
    return text([""]).caption[0, 0].float()


def _path(given: str, embedded: Path) -> Path:
    return embedded if given == EMBEDDED else Path(given)


def make_encoder(autoencoder: DCAE, device: str) -> Callable[[Tensor], Tensor]:
    """The function that `FeatureStore` encodes pictures with."""
    return lambda pictures: autoencoder.encode(pictures.to(device))
