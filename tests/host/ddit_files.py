"""Files of a small random D-DiT under the names that users have: what Load D-DiT chooses from.

The transformer and T5 are small; the VAE has the size of Stable Diffusion 3's, since the host knows
no other. Where words are wanted its tiny relative (TAESD3) reads the pictures, at a tenth of the
work. Names and shapes are written out here from the published layouts.
"""

import math
from pathlib import Path

import torch
from jodi_pack.ddit_core.model.config import DDiTConfig
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from jodi_pack.tests.helpers import randn, randomize
from safetensors.torch import save_file
from torch import Tensor

CHANNELS = 48  # of the text encoder
CONFIG = DDiTConfig(
    hidden_size=128, depth=2, num_heads=2, context_channels=CHANNELS, vocab_size=32100,
    mlp_size=200, position_size=40, frequency_size=32, null_tokens=4,
)  # fmt: skip
NAMES = {
    "model": ("diffusion_models", "ddit_small.safetensors"),
    "text_encoder": ("text_encoders", "t5_small.safetensors"),
    "mask_vector": ("text_encoders", "mask_token_emb.00-of-01.pth"),
    "vae": ("vae", "sd3_vae_random.safetensors"),
}

TINY = "taesd3"  # its name in VAELoader


def write_files(models: Path) -> dict[str, str]:
    """Write all four under a ComfyUI's models folder; the inputs of Load D-DiT."""
    paths = {entry: models / folder / name for entry, (folder, name) in NAMES.items()}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    network = randomize(DDiTTransformer(CONFIG, dtype=torch.float64)).float()
    network.text_proj_out.weight.mul_(4)  # so that words are far from equally likely
    save_file(network.state_dict(), paths["model"])  # without metadata, as the released file
    save_file(t5_tensors(), paths["text_encoder"])
    torch.save(randn(CHANNELS, seed=77), paths["mask_vector"])
    save_file(vae_tensors(), paths["vae"])
    (models / "vae_approx").mkdir(exist_ok=True)
    for part, tensors in tiny_vae_tensors().items():
        save_file(tensors, models / "vae_approx" / f"{TINY}_{part}.safetensors")
    return {**{entry: path.name for entry, path in paths.items()}, "weight_dtype": "fp32"}


def t5_tensors(width: int = CHANNELS, layers: int = 2, heads: int = 2) -> dict[str, Tensor]:
    """An encoder of T5 v1.1 in float16, as people have it."""
    inner, hidden = heads * 64, 80
    shapes = {"shared.weight": (32128, width), "encoder.final_layer_norm.weight": (width,)}
    for i in range(layers):
        block = f"encoder.block.{i}.layer."
        for name in "qkv":
            shapes[f"{block}0.SelfAttention.{name}.weight"] = (inner, width)
        shapes[f"{block}0.SelfAttention.o.weight"] = (width, inner)
        shapes[f"{block}0.layer_norm.weight"] = (width,)
        for name in ("wi_0", "wi_1"):
            shapes[f"{block}1.DenseReluDense.{name}.weight"] = (hidden, width)
        shapes[f"{block}1.DenseReluDense.wo.weight"] = (width, hidden)
        shapes[f"{block}1.layer_norm.weight"] = (width,)
    first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes[first] = (32, heads)
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        scale = 1.0 if name in ("shared.weight", first) else 0.1
        tensors[name] = (scale * randn(*shape, seed=seed) + ("layer_norm" in name)).half()
    return tensors


def vae_tensors(channels: int = 16) -> dict[str, Tensor]:
    """The autoencoder of Stable Diffusion under its own names, with latents of so many channels."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, given, made, side=3):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (made, given, side, side), (made,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def block(name, given, made):
        norm(f"{name}.norm1", given)
        conv(f"{name}.conv1", given, made)
        norm(f"{name}.norm2", made)
        conv(f"{name}.conv2", made, made)
        if given != made:
            conv(f"{name}.nin_shortcut", given, made, 1)

    def middle(name):
        block(f"{name}.mid.block_1", 512, 512)
        norm(f"{name}.mid.attn_1.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.mid.attn_1.{part}", 512, 512, 1)
        block(f"{name}.mid.block_2", 512, 512)

    widths = (128, 256, 512, 512)
    conv("encoder.conv_in", 3, 128)
    given = 128
    for level, made in enumerate(widths):
        for i in range(2):
            block(f"encoder.down.{level}.block.{i}", given, made)
            given = made
        if level < 3:
            conv(f"encoder.down.{level}.downsample.conv", made, made)
    middle("encoder")
    norm("encoder.norm_out", 512)
    conv("encoder.conv_out", 512, 2 * channels)
    conv("decoder.conv_in", channels, 512)
    middle("decoder")
    for level, made in reversed(list(enumerate(widths))):
        for i in range(3):
            block(f"decoder.up.{level}.block.{i}", given, made)
            given = made
        if level:
            conv(f"decoder.up.{level}.upsample.conv", made, made)
    norm("decoder.norm_out", 128)
    conv("decoder.conv_out", 128, 3)
    return {name: _random(name, shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def tiny_vae_tensors(channels: int = 16) -> dict[str, dict[str, Tensor]]:
    """The encoder and the decoder of TAESD3; each is one row of layers."""
    block = [(64, 64)] * 3
    encoder = [(3, 64), block, *[(64, 64, None), block, block, block] * 3, (64, channels)]
    stage = [block, block, block, "upsampling", (64, 64, None)]
    decoder = ["clamp", (channels, 64), "relu", *stage * 3, block, (64, 3)]
    found = {}
    for part, layers in (("encoder", encoder), ("decoder", decoder)):
        shapes: dict[str, tuple[int, ...]] = {}
        for i, layer in enumerate(layers):
            convs = {f"{i}.conv.{2 * n}": c for n, c in enumerate(block)} if layer is block else {}
            if isinstance(layer, tuple):
                convs = {str(i): layer}
            for name, (given, made, *bias) in convs.items():
                shapes[f"{name}.weight"] = (made, given, 3, 3)
                if not bias:
                    shapes[f"{name}.bias"] = (made,)
        found[part] = {n: _random(n, shape, seed) for seed, (n, shape) in enumerate(shapes.items())}
    return found


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if len(shape) > 1:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5).half()
    return (0.1 * randn(*shape, seed=seed) + ("norm" in name and name.endswith("weight"))).half()
