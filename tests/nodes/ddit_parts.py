"""A small random D-DiT in files of the real names, loaded as MODEL, CLIP and VAE wires.

Used by checks that run inside a ComfyUI. T5 is written by transformers, whose encoder is the oracle
too; its tokenizer is the host's own, the real one. The VAE is the host's class at a small width.
"""

import functools
import tempfile
from pathlib import Path

import comfy.ldm.models.autoencoder
import comfy.sd
import torch
import transformers
from jodi_pack.ddit_core.model.config import DDiTConfig
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.nodes.host import ddit_load as _host_load
from jodi_pack.nodes.host import ddit_text as _host_text
from jodi_pack.tests.helpers import randn, randomize
from safetensors.torch import save_file

WIDTH = 48  # of the text encoder
CONFIG = DDiTConfig(
    hidden_size=128,
    depth=2,
    num_heads=2,
    context_channels=WIDTH,
    vocab_size=32100,
    mlp_size=200,
    position_size=40,
    frequency_size=32,
    null_tokens=4,
)
MASK = 32099
VAE_SIZES = {
    "double_z": True,
    "z_channels": 16,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


@functools.cache
def network() -> DDiTTransformer:
    """The core's transformer, at which the words are far from equally likely."""
    model = randomize(DDiTTransformer(CONFIG, dtype=torch.float64)).float()
    model.text_proj_out.weight.mul_(4)
    return model


@functools.cache
def random_t5(width: int = WIDTH, **changes) -> transformers.T5EncoderModel:
    """Two layers of T5 v1.1, of weights that bfloat16 holds exactly."""
    config = transformers.T5Config(
        **{
            "vocab_size": 32128,
            "d_model": width,
            "d_kv": 64,
            "d_ff": 80,
            "num_layers": 2,
            "num_heads": 2,
            "feed_forward_proj": "gated-gelu",
            **changes,
        }
    )
    model = transformers.T5EncoderModel(config).eval()
    for i, (name, tensor) in enumerate(sorted(model.state_dict().items())):
        scale = {"shared": 1.0, "layer_norm": 0.3}.get(name.split(".")[-2], 0.08)
        value = randn(*tensor.shape, seed=i) * scale + ("layer_norm" in name)
        tensor.copy_(value.bfloat16())
    return model.requires_grad_(False)


def mask_vector() -> torch.Tensor:
    return randn(WIDTH, seed=77)


def write_transformer(path: Path, state=None, metadata=None) -> Path:
    write_state_dict(path, network().state_dict() if state is None else state, metadata or {})
    return path


def write_t5(path: Path, model=None, change=None) -> Path:
    state = {n: t.clone() for n, t in (model or random_t5()).state_dict().items()}
    save_file((change or dict)(state), path)
    return path


def write_mask_vector(path: Path, vector=None) -> Path:
    torch.save(mask_vector() if vector is None else vector, path)
    return path


@functools.cache
def model():
    with tempfile.TemporaryDirectory() as folder:
        return _host_load.load_model(write_transformer(Path(folder) / "ddit.safetensors"), "fp32")


@functools.cache
def clip(masked: bool = True):
    """CLIP with or without the mask vector."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_t5(Path(folder) / "t5.safetensors")
        vector = write_mask_vector(Path(folder) / "mask_token_emb.pth") if masked else None
        return _host_text.load_text(path, vector)


@functools.cache
def vae():
    sizes = {"ddconfig": VAE_SIZES, "embed_dim": VAE_SIZES["z_channels"]}
    kl = comfy.ldm.models.autoencoder.AutoencoderKL(**sizes)
    state = {n: t.clone() for n, t in randomize(kl, 5).state_dict().items()}
    return comfy.sd.VAE(sd=state, config={"params": sizes})


class PooledVAE:
    """Eight pixels to a cell, 16 channels, at no cost: for checks that are not about the VAE."""

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        cells = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 8)
        return torch.cat([cells * (1 + i / 4) for i in range(6)], dim=1)[:, :16]


def t5_features(ids: torch.Tensor) -> torch.Tensor:
    """What transformers' encoder makes of ids (R, L), masked places by the mask vector."""
    t5 = random_t5()
    embedded = t5.shared(ids)
    embedded[ids == MASK] = mask_vector().to(embedded)
    return t5(inputs_embeds=embedded, attention_mask=torch.ones_like(ids)).last_hidden_state
