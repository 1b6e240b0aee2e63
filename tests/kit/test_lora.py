"""Adapters: what they add, what they freeze, and the file other programs read."""

import pytest
import torch
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.layers import make_pointwise_conv
from jodi_pack.kit.training.lora import (
    add_adapters,
    drop_adapters,
    merge_adapters,
    read_adapter_scales,
    take_adapters,
)
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.inner = nn.ModuleDict({"conv": make_pointwise_conv(nn)(8, 4, 1)})
        self.last = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.last(self.inner["conv"](self.first(tokens).tanh()).tanh())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().double()


def trained(model, alpha=3.0):
    count = add_adapters(model, ("first", "conv"), 2, alpha, seed=1)
    assert count == 2
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


def test_nothing_changes_at_first_and_only_adapters_learn(model):
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    before = model(x)
    add_adapters(model, ("first", "conv"), 2, 2.0, seed=1)
    assert torch.equal(model(x), before)
    model(x).sum().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {
        f"{layer}.lora_{part}.weight" for layer in ("first", "inner.conv") for part in "AB"
    }


def test_merged_weights_give_the_same(model):
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    plain = {k: v.clone() for k, v in model.state_dict().items()}
    result = trained(model)(x)
    state, scales = model.state_dict(), read_adapter_scales(model)
    assert scales == {"first": 1.5, "inner.conv": 1.5}
    merged = Small().double()
    merged.load_state_dict(merge_adapters(state, scales))
    torch.testing.assert_close(merged(x), result, rtol=1e-12, atol=1e-12)
    for name, tensor in drop_adapters(state).items():
        assert torch.equal(tensor, plain[name])


def test_the_file_is_named_for_comfyui_and_holds_its_scale(model):
    state = trained(model).state_dict()
    exported = take_adapters(state, read_adapter_scales(model))
    assert set(exported) == {
        f"diffusion_model.{layer}.lora_{part}.weight"
        for layer in ("first", "inner.conv")
        for part in "AB"
    }
    up, down = (exported[f"diffusion_model.first.lora_{part}.weight"] for part in "BA")
    change = (
        merge_adapters(state, read_adapter_scales(model))["first.weight"] - state["first.weight"]
    )
    torch.testing.assert_close(up @ down, change)


def test_a_target_that_fits_nothing_is_named(model):
    with pytest.raises(JodiError, match=r"attn\.qkv"):
        add_adapters(model, ("first", "attn.qkv"), 2, 2.0, seed=1)
