"""Files of other models in the wrong place are recognised by their key names."""

import dataclasses

import pytest
import torch
from jodi_pack.kit.autoencoder.config import DC_AE_F32C32
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.autoencoder.keys import NAMINGS, to_naming
from jodi_pack.kit.errors import CheckpointError
from jodi_pack.kit.weights import kinds as file_kind
from jodi_pack.kit.weights.kinds import WrongKindError, identify, require_kind
from safetensors.torch import load_file

# Key names as the files of these models have them, with the width of the text they attend to.
FILES = {
    "sana": [
        "x_embedder.proj.weight",
        "t_block.1.weight",
        "y_embedder.y_embedding",
        "blocks.0.attn.qkv.weight",
        "blocks.0.cross_attn.q_linear.weight",
        "blocks.0.mlp.inverted_conv.conv.weight",
        "final_layer.linear.weight",
    ],
    "sana diffusers": [
        "patch_embed.proj.weight",
        "caption_norm.weight",
        "scale_shift_table",
        "transformer_blocks.0.attn1.to_q.weight",
        "transformer_blocks.0.ff.conv_inverted.weight",
        "caption_projection.linear_1.weight",
        "proj_out.weight",
    ],
    "pixart": [
        "x_embedder.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.cross_attn.q_linear.weight",
        "final_layer.linear.weight",
    ],
    "pixart diffusers": [
        "pos_embed.proj.weight",
        "adaln_single.linear.weight",
        "transformer_blocks.0.attn1.to_q.weight",
        "caption_projection.linear_1.weight",
    ],
    "flux": ["img_in.weight", "double_blocks.0.img_attn.qkv.weight", "txt_in.weight"],
    "flux diffusers": ["x_embedder.weight", "single_transformer_blocks.0.attn.to_q.weight"],
    "sd3": ["x_embedder.proj.weight", "joint_blocks.0.context_block.attn.qkv.weight"],
    "sdxl": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "first_stage_model.encoder.conv_in",
        "model.diffusion_model.label_emb.0.0.weight",
        "conditioner.embedders.0.transformer.x",
    ],
    "sdxl diffusers": ["down_blocks.1.attentions.0.proj_in.weight", "add_embedding.linear_1.bias"],
    "sd1": [
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    ],
    "sd1 diffusers": ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"],
    "controlnet": ["input_hint_block.0.weight", "input_blocks.0.0.weight"],
    "kl-vae": ["encoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight"],
    "kl-vae diffusers": ["encoder.conv_in.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"],
    "gemma": [
        "layers.0.self_attn.q_proj.weight",
        "layers.0.pre_feedforward_layernorm.weight",
        "embed_tokens.weight",
    ],
    "llm": ["embed_tokens.weight", "layers.0.self_attn.q_proj.weight", "norm.weight"],
    "t5": [
        "shared.weight",
        "encoder.embed_tokens.weight",  # beside it in files of transformers, as in language models
        "encoder.block.0.layer.0.SelfAttention.q.weight",
    ],
    "clip": ["text_model.encoder.layers.0.layer_norm1.weight"],
    "lora": ["lora_unet_blocks_0_attn.lora_down.weight", "lora_unet_blocks_0_attn.alpha"],
    "lora peft": ["blocks.0.attn.qkv.lora_A.weight", "final_layers.0.linear.lora_B.weight"],
    "bundle": ["model.diffusion_model.domain_embedding", "vae.encoder.project_in.conv.weight"],
}
WIDTHS = {"sd1": 768}


def tensors_of(label):
    width = WIDTHS.get(label.split()[0], 8)
    return {name: torch.zeros(4, width) for name in FILES[label]}


@pytest.mark.parametrize("label", FILES)
def test_other_models_are_recognised(label):
    assert identify(tensors_of(label)).name == label.split()[0]


@pytest.mark.parametrize("label", FILES)
@pytest.mark.parametrize("wanted", [file_kind.JODI, file_kind.DCAE])
def test_the_error_says_what_was_expected_and_what_came(label, wanted):
    state = tensors_of(label)
    with pytest.raises(WrongKindError) as caught:
        require_kind(state, (wanted,), "x.safetensors")
    kind = identify(state)
    text = f"expected {wanted.title}, but x.safetensors is {kind.title}."
    assert str(caught.value) == text  # where it belongs is for the front ends to say
    assert (caught.value.kind, caught.value.wanted) == (kind, wanted)


def test_stable_diffusion_versions_by_text_width():
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    kinds = {w: identify({name: torch.zeros(2, w)}).name for w in (768, 1024, 5)}
    assert kinds == {768: "sd1", 1024: "sd2", 5: "unet"}


def test_our_own_files_are_told_apart():
    vae = {"encoder.project_in.conv.weight": torch.zeros(1)}
    jodi = {"domain_embedding": torch.zeros(8, 4)}
    assert require_kind(vae, (file_kind.JODI, file_kind.DCAE), "x") is file_kind.DCAE
    assert require_kind(jodi, (file_kind.JODI, file_kind.DCAE), "x") is file_kind.JODI
    for name in ("table", "encoder.table"):
        assert identify({name: torch.zeros(4, 4)}) is file_kind.WORDS
    assert identify({"table": torch.zeros(4), "x": torch.zeros(4)}) is file_kind.UNKNOWN


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_tensor_of_the_autoencoder_tells_its_naming(naming):
    config = dataclasses.replace(DC_AE_F32C32, widths=(128, 128, 64, 64, 64, 64))
    state = to_naming(DCAE(config, device="meta").state_dict(), naming)
    kind = {"mit-han-lab": "dcae", "diffusers": "dcae-diffusers"}[naming]
    shared = {"mit-han-lab": (), "diffusers": ("encoder.conv_", "decoder.conv_", "decoder.norm_")}
    for name, tensor in state.items():
        if not name.startswith(shared[naming]):
            assert identify({name: tensor}).name == kind, name


def test_nothing_known_lists_what_is_there():
    with pytest.raises(CheckpointError, match=r"not known here\. It holds 2 tensors: a, b"):
        require_kind({"a": torch.zeros(1), "b": torch.zeros(1)}, (file_kind.JODI,), "x")
    assert identify({}) is file_kind.UNKNOWN


@pytest.mark.reference
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("jodi/model", "jodi"),
        ("dcae/dcae", "dcae"),
        ("dcae/dcae_diffusers", "dcae-diffusers"),
        ("ddit/transformer", "ddit"),
        ("jodi/cases", "unknown"),
    ],
)
def test_real_files(reference_dir, file, kind):
    assert identify(load_file(reference_dir / f"{file}.safetensors")).name == kind


@pytest.mark.reference
def test_every_piece_of_a_jodi_that_sana_lacks_is_a_jodi(reference_dir):
    state = load_file(reference_dir / "jodi" / "model.safetensors")
    own = {n: t for n, t in state.items() if not n.startswith(("blocks.", "t_", "y_", "attention"))}
    for name, tensor in own.items():
        assert identify({name: tensor}) is file_kind.JODI, name
    assert identify({n: t for n, t in state.items() if n not in own}).name == "sana"
