"""A small random model in files, loaded as MODEL and VAE wires, and the same as a core pipeline.

Used by checks that run inside a ComfyUI. Sizes are odd on purpose: 8 pixels to a latent cell as the
built-in model, but other channels, widths and text.
"""

import contextlib
import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.jodi_core.text import TextFeatures
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.nodes.host import dcae as _host_vae
from jodi_pack.nodes.host import jodi_load as _host_load
from jodi_pack.tests.helpers import TINY, randn, tiny_autoencoder, tiny_transformer

AE = AutoencoderConfig(
    widths=(10, 10, 20, 40),
    encoder_depths=(1, 1, 1, 1),
    decoder_depths=(1, 1, 1, 1),
    block_types=("ResBlock", "ResBlock", "EViTS5_GLU", "EViTS5_GLU"),
    latent_channels=TINY.latent_channels,
    scaling_factor=0.41407,
    attention_head_dim=10,
)
NATIVE = AE.factor * TINY.pe_base_size
GUIDANCE = 3.25


@functools.cache
def parts(
    num_labels: int = 7,
    names: tuple[str, ...] = DOMAIN_NAMES,
    trained: str = "published",
    scale: float = AE.scaling_factor,
):
    """(MODEL, VAE, JodiPipeline) of one set of random weights; guidance 3.25, native 48 x 48."""
    latents = dataclasses.replace(AE, scaling_factor=scale)
    config = dataclasses.replace(TINY, num_labels=num_labels)
    metadata = {
        "kind": "jodi",
        "config": config.to_json(),
        "domains": json.dumps(list(names)),
        "native_size": str(NATIVE),
        "latent_scale": str(scale),
        "guidance": str(GUIDANCE),
        "trained_roles": trained,
        "title": "tiny",
    }
    transformer, autoencoder = tiny_transformer(config), tiny_autoencoder(latents)
    with tempfile.TemporaryDirectory() as folder:
        model_file, vae_file = Path(folder) / "model.safetensors", Path(folder) / "vae.safetensors"
        write_state_dict(model_file, transformer.state_dict(), metadata)
        about = {"kind": "dcae", "config": latents.to_json()}
        write_state_dict(vae_file, autoencoder.state_dict(), about)
        model = _host_load.load_model(model_file, "fp32")
        vae = _host_vae.load_vae(vae_file)
    return model, vae, JodiPipeline(transformer, autoencoder, None, metadata)


def image(*shape: int, seed: int = 0):
    """An IMAGE (B, H, W, 3) of soft structure from 0 to 1, so that depth is not stretched."""
    batch, height, width = shape
    small = randn(batch, 3, 5, 7, seed=seed)
    picture = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")
    low, high = picture.amin((1, 2, 3), keepdim=True), picture.amax((1, 2, 3), keepdim=True)
    return ((picture - low) / (high - low)).movedim(1, -1).contiguous()


def text(rows: int = 1, tokens: int = 6, seed: int = 3) -> list:
    """CONDITIONING as Jodi Text Encode makes it, with random features."""
    mask = torch.zeros(rows, TINY.caption_length, dtype=torch.long)
    mask[:, :tokens] = 1
    features = randn(rows, TINY.caption_length, TINY.caption_channels, seed=seed)
    return [[features, {"pooled_output": None, "attention_mask": mask}]]


def prompt_features(conditioning: list):
    """The same for the core."""
    features, extras = conditioning[0]
    return TextFeatures(features[:, None], extras["attention_mask"])


@contextlib.contextmanager
def raises(kind: type, *parts: str):
    """As pytest.raises, which a host need not have: the message must hold every part."""
    try:
        yield
    except kind as error:
        missing = [part for part in parts if part not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"no {kind.__name__} was raised")
