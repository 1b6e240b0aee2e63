"""Small networks for the tests of their files: sizes, random tensors, and refusals."""

import re

import pytest
import torch
from jodi_pack.jodi_core.model.config import TransformerConfig
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.errors import CheckpointError

TINY = TransformerConfig(
    hidden_size=64,
    depth=2,
    cross_attention_heads=2,
    caption_channels=16,
    caption_length=5,
    latent_channels=4,
    num_labels=3,
    pe_base_size=4,
    frequency_size=32,
)
TINY_AE = AutoencoderConfig(
    widths=(8, 16),
    encoder_depths=(1, 2),
    decoder_depths=(2, 1),
    block_types=("ResBlock", "EViTS5_GLU"),
    latent_channels=4,
    scaling_factor=0.5,
    attention_head_dim=8,
)


def random_state(model_class, config, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = model_class(config, device="meta").state_dict()
    return {n: torch.randn(t.shape, generator=generator).to(dtype) for n, t in shapes.items()}


def refused(call, *expected):
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    for pattern in expected:
        assert re.search(pattern, text), text
    assert "\n" not in text
    return text
