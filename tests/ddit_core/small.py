"""Small random D-DiTs, and the published network written out as formulas in float64."""

import dataclasses
import math

import torch
from jodi_pack.ddit_core.model.config import DDiTConfig
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from jodi_pack.ddit_core.pipeline import DDiTPipeline
from jodi_pack.ddit_core.text.draft import Tokenizer
from jodi_pack.ddit_core.text.vocabulary import Vocabulary
from jodi_pack.tests.helpers import randn, randomize

# Every size differs from every other, so that two axes mixed up cannot pass unseen.
SMALL = DDiTConfig(
    hidden_size=36, depth=3, num_heads=3, context_channels=20, vocab_size=41, mlp_size=50,
    latent_channels=5, position_size=9, frequency_size=14, null_tokens=4,
)  # fmt: skip
PATCH_1 = DDiTConfig(
    hidden_size=24, depth=1, num_heads=2, context_channels=7, vocab_size=23, mlp_size=11,
    latent_channels=3, patch_size=1, position_size=8, frequency_size=6, null_tokens=2,
)  # fmt: skip


def small_model(config=SMALL, *, seed=0, dtype=torch.float32) -> DDiTTransformer:
    return randomize(DDiTTransformer(config, dtype=torch.float64), seed).to(dtype)


def published(model, x, timestep, text):
    """Velocity and logits of the published network, from the state dict, one row at a time."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    rows = [
        _published_row(weights, model.config, x[b].double(), float(timestep[b]), text[b].double())
        for b in range(len(x))
    ]
    return tuple(torch.stack(part) for part in zip(*rows, strict=True))


def _published_row(w, config, x, t, text):
    def linear(name, rows):
        return rows @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    p, side = config.patch_size, config.position_size
    h, wide = x.shape[1] // p, x.shape[2] // p
    table = w["pos_embed.pos_embed"][0].reshape(side, side, -1)
    top, left = (side - h) // 2, (side - wide) // 2
    kernel = w["pos_embed.proj.weight"]
    image = []
    for r in range(h):
        for c in range(wide):
            patch = x[:, r * p : r * p + p, c * p : c * p + p]
            token = (kernel * patch).sum((1, 2, 3)) + w["pos_embed.proj.bias"]
            image.append(token + table[top + r, left + c])
    image, text = torch.stack(image), linear("context_embedder", text)

    half = config.frequency_size // 2
    angles = [t * math.exp(-math.log(10000) * i / half) for i in range(half)]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)], dtype=torch.float64)
    time = "time_text_embed.timestep_embedder.linear_"
    vector = silu(linear(f"{time}2", silu(linear(f"{time}1", waves))))

    for i in range(config.depth):
        b = f"transformer_blocks.{i}."
        image_mod = linear(f"{b}norm1.linear", vector).reshape(6, -1)
        text_mod = linear(f"{b}norm1_context.linear", vector).reshape(6, -1)
        xi = norm(image) * (1 + image_mod[1]) + image_mod[0]
        xt = norm(text) * (1 + text_mod[1]) + text_mod[0]
        names = (("to_q", "add_q_proj"), ("to_k", "add_k_proj"), ("to_v", "add_v_proj"))
        q, k, v = (
            torch.cat([linear(f"{b}attn.{one}", xi), linear(f"{b}attn.{two}", xt)])
            for one, two in names
        )
        heads = []
        for part in range(config.num_heads):
            s = slice(part * config.head_dim, (part + 1) * config.head_dim)
            scores = q[:, s] @ k[:, s].T / math.sqrt(config.head_dim)
            heads.append(torch.softmax(scores, -1) @ v[:, s])
        out = torch.cat(heads, -1)
        image = image + image_mod[2] * linear(f"{b}attn.to_out.0", out[: h * wide])
        text = text + text_mod[2] * linear(f"{b}attn.to_add_out", out[h * wide :])
        xi = norm(image) * (1 + image_mod[4]) + image_mod[3]
        xt = norm(text) * (1 + text_mod[4]) + text_mod[3]
        image = image + image_mod[5] * linear(f"{b}ff.net.2", gelu(linear(f"{b}ff.net.0.proj", xi)))
        inner = gelu(linear(f"{b}ff_context.net.0.proj", xt))
        text = text + text_mod[5] * linear(f"{b}ff_context.net.2", inner)

    scale, shift = linear("image_norm_out.linear", vector).reshape(2, -1)
    patches = linear("image_proj_out", norm(image) * (1 + scale) + shift)
    z = config.latent_channels
    velocity = torch.zeros(z, h * p, wide * p, dtype=torch.float64)
    for n, patch in enumerate(patches):
        r, c = divmod(n, wide)
        velocity[:, r * p : r * p + p, c * p : c * p + p] = patch.reshape(p, p, z).permute(2, 0, 1)
    return velocity, linear("text_proj_out", norm(text))


def silu(x):
    return x / (1 + torch.exp(-x))


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)


WORDS = ("a", "cat", "dog", "on", "the", "table", "red", "mat", "two", "q:", "question?", "a:")


def word_tokenizer(words=WORDS, sentinels=3) -> Tokenizer:
    """Words parted by spaces, lower case; whatever is not among them is unknown."""
    known = {word: i + 3 for i, word in enumerate(words)}
    marks = {"</s>": 1, "<extra_id_0>": len(words) + 3 + sentinels - 1}
    names = {i: word for word, i in known.items()}
    return Tokenizer(
        ids=lambda text: [{**known, **marks}.get(w.lower(), 2) for w in text.split()],
        text=lambda ids: " ".join(names[i] for i in ids),
        vocabulary=Vocabulary(len(words) + 3 + sentinels, sentinels=sentinels),
    )


T = word_tokenizer()
READER = dataclasses.replace(SMALL, vocab_size=T.vocabulary.size, position_size=40)
_TABLE = randn(T.vocabulary.size, SMALL.context_channels, seed=9)


def encode(ids):
    """A text encoder that mixes its places, as T5 does."""
    embedded = _TABLE[ids]
    return embedded + embedded.mean(1, keepdim=True)


def vae_encode(pictures):
    """Eight pixels to a cell, five channels."""
    cells = torch.nn.functional.avg_pool2d(pictures, 8)
    return torch.cat([cells, cells[:, :2].flip(-1)], dim=1)


def vae_decode(latents):
    return torch.nn.functional.interpolate(latents[:, :3], scale_factor=8)


def word_pipeline() -> DDiTPipeline:
    """A pipeline of small parts, each of which does what its like does."""
    parts = {"vae_encode": vae_encode, "vae_decode": vae_decode}
    return DDiTPipeline(small_model(READER), encode, T, length=16, **parts)
