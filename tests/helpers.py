"""Small models and inputs that tests of every layer share. Random, seeded, never downloaded."""

import dataclasses

import torch
from jodi_pack.jodi_core.model.config import TransformerConfig
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.autoencoder.dcae import DCAE
from torch import Tensor

# Every size differs from every other, so that two axes mixed up cannot pass unseen.
TINY = TransformerConfig(
    hidden_size=64,
    depth=2,
    cross_attention_heads=4,
    linear_head_dim=32,
    caption_channels=24,
    caption_length=10,
    latent_channels=5,
    pe_base_size=6,
    frequency_size=40,
)
TINY_PATCH2 = dataclasses.replace(TINY, patch_size=2, num_labels=3, latent_channels=3)
# Factor 4; cells of the last stage below and above head_dim are both reached by small pictures.
TINY_AE = AutoencoderConfig(
    widths=(8, 16, 32),
    encoder_depths=(1, 2, 1),
    decoder_depths=(2, 1, 1),
    block_types=("ResBlock", "EViTS5_GLU", "EViTS5_GLU"),
    latent_channels=4,
    scaling_factor=0.41407,
    attention_head_dim=8,
)
WORDS = ("a", "red", "blue", "house", "tree", "and", "under", "the", "sky")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same on every machine and in every order of tests."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fill every parameter and buffer with random numbers at which each part of a network counts.

    Matrices keep their input's scale; vectors and tables are far from zero and from one, so that
    a forgotten bias, norm or gate shows.
    """
    g = generator(seed)
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            noise = torch.randn(tensor.shape, generator=g, dtype=torch.float64)
            if tensor.dim() < 2:
                value = 0.3 * noise + (1.0 if name.endswith("norm.weight") else 0.0)
            elif "table" in name or "embedding" in name or "role_embedder" in name:
                value = 0.5 * noise
            else:
                value = noise / tensor[0].numel() ** 0.5
            tensor.copy_(value)
    return module.eval().requires_grad_(False)


def tiny_transformer(
    config: TransformerConfig = TINY, *, seed: int = 0, dtype=torch.float32, null_rows: bool = True
) -> JodiTransformer:
    """A random transformer. null_rows: its null text has two distinct rows, as the released one."""
    model = randomize(JodiTransformer(config, dtype=torch.float64), seed)
    if null_rows:
        model.y_embedder.y_embedding[2:] = model.y_embedder.y_embedding[1]
    return model.to(dtype)


def tiny_autoencoder(
    config: AutoencoderConfig = TINY_AE, *, seed: int = 1, dtype=torch.float32
) -> DCAE:
    return randomize(DCAE(config, dtype=torch.float64), seed).to(dtype)


def tiny_pipeline(
    *, num_labels: int = 7, patch_size: int = 1, text: bool = True, metadata=None, dtype=None
) -> JodiPipeline:
    """A pipeline of random parts that fit each other; patch_size * 4 pixels to a token."""
    encoder = ClosedVocabularyEncoder(WORDS, caption_length=8)
    config = dataclasses.replace(
        TINY,
        num_labels=num_labels,
        patch_size=patch_size,
        latent_channels=TINY_AE.latent_channels,
        caption_channels=encoder.channels,
        caption_length=encoder.caption_length,
    )
    transformer = tiny_transformer(config, dtype=dtype or torch.float32)
    return JodiPipeline(
        transformer,
        tiny_autoencoder(dtype=dtype or torch.float32),
        encoder if text else None,
        {"native_size": "16", **(metadata or {})},
    )


def random_picture(
    batch: int = 1, height: int = 16, width: int = 16, *, seed: int = 0, channels: int = 3
) -> Tensor:
    """(batch, channels, height, width) in [0, 1]."""
    return torch.rand(batch, channels, height, width, generator=generator(seed))


class HostOperations:
    """Layers as a host injects them: weights stay in their dtype and are cast at every call."""

    class Linear(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            bias = None if self.bias is None else self.bias.to(x)
            return torch.nn.functional.linear(x, self.weight.to(x), bias)

    class Conv2d(torch.nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            bias = None if self.bias is None else self.bias.to(x)
            return self._conv_forward(x, self.weight.to(x), bias)

    class Embedding(torch.nn.Embedding):
        pass  # gives rows in the dtype they are stored in, as a host's does

    @classmethod
    def foreign_layers(cls, model: torch.nn.Module) -> list[str]:
        """Layers with weights of torch's own that are not the host's."""
        nn = torch.nn
        kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.LayerNorm, nn.RMSNorm)
        hosted = (cls.Linear, cls.Conv2d, cls.Embedding)
        return [
            name
            for name, module in model.named_modules()
            if isinstance(module, kinds) and not isinstance(module, hosted)
        ]


def relative_rms(ours: Tensor, reference: Tensor) -> float:
    """rms(ours - reference) / rms(reference), in float64; the shapes must agree."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    difference = ours.double() - reference.double()
    return float(difference.square().mean().sqrt() / reference.double().square().mean().sqrt())
