"""The two DC-AE namings, against the key lists of the releases and there and back again."""

import json

import pytest
import torch
from jodi_pack.kit.autoencoder import keys as keys
from jodi_pack.kit.autoencoder.config import DC_AE_F32C32, AutoencoderConfig
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.errors import CheckpointError
from safetensors.torch import load_file

TINY = AutoencoderConfig(
    widths=(8, 16, 24),
    encoder_depths=(2, 1, 2),
    decoder_depths=(1, 2, 1),
    block_types=("ResBlock", "EViTS5_GLU", "EViTS5_GLU"),
    latent_channels=4,
    scaling_factor=0.5,
    attention_head_dim=8,
)


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    shapes = DCAE(TINY, device="meta").state_dict()
    return {n: torch.randn(t.shape, generator=generator) for n, t in shapes.items()}


def manifest(reference_dir, name):
    return json.loads((reference_dir / "dcae" / name).read_text())


def shapes(state):
    return {name: list(tensor.shape) for name, tensor in state.items()}


def on_meta(listed):
    return {name: torch.empty(shape, device="meta") for name, shape in listed.items()}


@pytest.mark.reference
def test_our_modules_are_named_as_the_release(reference_dir):
    ours = shapes(DCAE(DC_AE_F32C32, device="meta").state_dict())
    assert ours == manifest(reference_dir, "dcae_f32c32_sana_manifest.json")


@pytest.mark.reference
@pytest.mark.slow
def test_released_names_map_onto_each_other(reference_dir):
    mit = on_meta(manifest(reference_dir, "dcae_f32c32_sana_manifest.json"))
    diffusers = on_meta(manifest(reference_dir, "dcae_f32c32_sana_diffusers_manifest.json"))
    assert shapes(keys.to_diffusers(mit)) == shapes(diffusers)
    assert shapes(keys.to_mit_han_lab(diffusers)) == shapes(mit)
    assert (len(mit), len(diffusers)) == (339, 375)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["dcae.safetensors", "dcae_diffusers.safetensors"])
def test_reference_weights_there_and_back(reference_dir, name):
    original = load_file(reference_dir / "dcae" / name)
    there, back = (keys.to_diffusers, keys.to_mit_han_lab)
    if "diffusers" in name:
        there, back = back, there
    mapped = there(original)
    assert not set(mapped) & set(original)
    assert_same(back(mapped), original)


@pytest.mark.reference
def test_diffusers_weights_compute_what_diffusers_computes(reference_dir):
    """The map is right when the mapped weights give the published outputs."""
    folder = reference_dir / "dcae"
    state = keys.to_mit_han_lab(load_file(folder / "dcae_diffusers.safetensors"))
    config = AutoencoderConfig(
        widths=tuple(
            state[f"encoder.stages.{i}.op_list.0.{n}"].shape[0]
            for i, n in enumerate(
                ["main.conv1.conv.weight"] + ["context_module.main.proj.norm.weight"] * 2
            )
        ),
        encoder_depths=(1, 1, 2),
        decoder_depths=(1, 2, 1),
        block_types=("ResBlock", "EViTS5_GLU", "EViTS5_GLU"),
        latent_channels=8,
        scaling_factor=1.0,
    )
    model = DCAE(config)
    model.load_state_dict(state, strict=True)
    cases = load_file(folder / "dcae_diffusers_cases.safetensors")
    names = {name.rpartition(".")[0] for name in cases}
    compared = 0
    with torch.no_grad():
        for case in sorted(names):
            for given, told, run in (
                ("image", "encoded", model.encode),
                ("latent", "decoded", model.decode),
            ):
                if f"{case}.{given}" in cases:
                    expected = cases[f"{case}.{told}"]
                    error = (run(cases[f"{case}.{given}"]) - expected).square().mean().sqrt()
                    assert error < 1e-5 * expected.square().mean().sqrt(), case
                    compared += 1
    assert compared == len(cases) // 2


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


def test_there_and_back_is_exact_and_keeps_the_order(state):
    diffusers = keys.to_diffusers(state)
    assert_same(keys.to_mit_han_lab(diffusers), state)
    assert list(keys.to_mit_han_lab(diffusers)) == list(state)


def test_maps_leave_their_own_naming_alone(state):
    assert_same(keys.to_mit_han_lab(state), state)
    diffusers = keys.to_diffusers(state)
    assert_same(keys.to_diffusers(diffusers), diffusers)


def test_thirds_are_rows_of_the_map(state):
    name = "encoder.stages.1.op_list.0.context_module.main.qkv.conv.weight"
    diffusers = keys.to_diffusers(state)
    q, k, v = (diffusers[f"encoder.down_blocks.1.0.attn.to_{x}.weight"] for x in "qkv")
    assert q.shape == (16, 16)
    assert torch.equal(torch.cat([q, k, v]), state[name][:, :, 0, 0])
    assert not torch.equal(q, k)


def test_to_diffusers_copies_nothing(state):
    def storages(tensors):
        return {t.untyped_storage().data_ptr() for t in tensors.values()}

    assert storages(keys.to_diffusers(state)) == storages(state)


@pytest.mark.long
def test_foreign_names_pass_through(state):
    extra = {"something.else": torch.ones(1), "encoder.down_blocks.0.0.odd.weight": torch.ones(1)}
    assert set(extra) <= set(keys.to_mit_han_lab(extra))
    odd = {"encoder.stages.0.op_list.0.odd.weight": torch.ones(1)}
    assert_same(keys.to_diffusers(odd), odd)


@pytest.mark.parametrize("third", ["to_q", "to_k", "to_v"])
def test_a_lost_third_is_named(state, third):
    diffusers = keys.to_diffusers(state)
    lost = f"decoder.up_blocks.1.1.attn.{third}.weight"
    del diffusers[lost]
    with pytest.raises(CheckpointError, match=f"not {lost}"):
        keys.to_mit_han_lab(diffusers)


def test_a_map_that_cannot_be_cut_is_named():
    name = "encoder.stages.1.op_list.0.context_module.main.qkv.conv.weight"
    with pytest.raises(CheckpointError, match=r"qkv.conv.weight has shape \(47, 16, 1, 1\)"):
        keys.to_diffusers({name: torch.ones(47, 16, 1, 1)})


def test_to_naming(state):
    assert_same(keys.to_naming(state, "mit-han-lab"), state)
    assert_same(keys.to_naming(state, "diffusers"), keys.to_diffusers(state))
    with pytest.raises(CheckpointError, match="mit-han-lab or diffusers"):
        keys.to_naming(state, "hugging face")
