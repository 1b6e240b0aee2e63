"""A start from Sana-1.6B: every tensor comes from somewhere, on shapes alone at the real size."""

import pytest
import torch
from jodi_pack.jodi_core.model.config import JODI_1600M, TransformerConfig
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.jodi_core.training.sana import map_sana, start_from_sana
from jodi_pack.kit.errors import CheckpointError

SMALL = TransformerConfig(
    hidden_size=32, depth=2, cross_attention_heads=2, caption_channels=6, caption_length=5,
    linear_head_dim=8, num_labels=2, latent_channels=4, frequency_size=8,
)  # fmt: skip


def sana_state(width, depth, channels, length, latent, frequency, hidden, device="meta"):
    """Sana's tensors by name and shape, written down from its published state dict."""
    make = lambda *shape: torch.randn(shape, device=device)  # noqa: E731
    state = {
        "pos_embed": make(1, 4, width),
        "x_embedder.proj.weight": make(width, latent, 1, 1),
        "x_embedder.proj.bias": make(width),
        "t_embedder.mlp.0.weight": make(width, frequency),
        "t_embedder.mlp.0.bias": make(width),
        "t_embedder.mlp.2.weight": make(width, width),
        "t_embedder.mlp.2.bias": make(width),
        "t_block.1.weight": make(6 * width, width),
        "t_block.1.bias": make(6 * width),
        "y_embedder.y_embedding": make(length, channels),
        "y_embedder.y_proj.fc1.weight": make(width, channels),
        "y_embedder.y_proj.fc1.bias": make(width),
        "y_embedder.y_proj.fc2.weight": make(width, width),
        "y_embedder.y_proj.fc2.bias": make(width),
        "attention_y_norm.weight": make(width),
        "final_layer.scale_shift_table": make(2, width),
        "final_layer.linear.weight": make(latent, width),
        "final_layer.linear.bias": make(latent),
    }
    for i in range(depth):
        b = f"blocks.{i}."
        state |= {
            b + "scale_shift_table": make(6, width),
            b + "attn.qkv.weight": make(3 * width, width),
            b + "attn.proj.weight": make(width, width),
            b + "attn.proj.bias": make(width),
            b + "cross_attn.q_linear.weight": make(width, width),
            b + "cross_attn.q_linear.bias": make(width),
            b + "cross_attn.kv_linear.weight": make(2 * width, width),
            b + "cross_attn.kv_linear.bias": make(2 * width),
            b + "cross_attn.proj.weight": make(width, width),
            b + "cross_attn.proj.bias": make(width),
            b + "mlp.inverted_conv.conv.weight": make(2 * hidden, width, 1, 1),
            b + "mlp.inverted_conv.conv.bias": make(2 * hidden),
            b + "mlp.depth_conv.conv.weight": make(2 * hidden, 1, 3, 3),
            b + "mlp.depth_conv.conv.bias": make(2 * hidden),
            b + "mlp.point_conv.conv.weight": make(width, hidden, 1, 1),
        }
    return state


@pytest.mark.long
def test_every_tensor_of_the_released_size_is_mapped():
    sana = sana_state(2240, 20, 2304, 300, 32, 256, 5600)
    plan = map_sana(JODI_1600M, sana)
    with torch.device("meta"):
        jodi = JodiTransformer(JODI_1600M).state_dict()
    assert set(plan.taken) | set(plan.new) == set(jodi)
    assert set(plan.new) == {
        "domain_embedding",
        "role_embedder.weight",
        "role_block.1.weight",
        "role_block.1.bias",
        "y_embedder.y_embedding",
    }
    assert set(plan.taken.values()) == set(sana) - {"pos_embed", "y_embedder.y_embedding"}
    assert plan.taken["x_embedders.5.proj.bias"] == "x_embedder.proj.bias"


def test_the_picture_alone_gives_what_sana_gives():
    """Roles that add nothing leave Sana: the weights are where its forward pass wants them."""
    sana = sana_state(32, 2, 6, 5, 4, 8, 80, device="cpu")
    null = torch.randn(5, 6)
    model = start_from_sana(SMALL, sana, null, seed=0)
    state = model.state_dict()
    for i in range(3):
        assert torch.equal(state[f"x_embedders.{i}.proj.weight"], sana["x_embedder.proj.weight"])
        assert torch.equal(state[f"final_layers.{i}.linear.bias"], sana["final_layer.linear.bias"])
    assert torch.equal(state["y_embedder.y_embedding"], null)
    assert 0.01 < float(state["role_block.1.weight"].std()) < 0.03
    assert torch.equal(state["role_block.1.bias"], torch.zeros(6 * 32))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda s: s.pop("blocks.1.attn.qkv.weight"), "lacks blocks.1.attn.qkv.weight"),
        (lambda s: s.update({"blocks.0.attn.q_norm.weight": torch.ones(32)}), "q_norm"),
        (lambda s: s.update({"t_block.1.bias": torch.ones(7)}), r"t_block.1.bias .* \(7,\)"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    sana = sana_state(32, 2, 6, 5, 4, 8, 80)
    change(sana)
    with pytest.raises(CheckpointError, match=said):
        map_sana(SMALL, sana)
