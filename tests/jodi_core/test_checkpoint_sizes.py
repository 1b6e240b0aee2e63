"""Sizes read from shapes, metadata, published models and arguments; contradictions are named."""

import dataclasses
import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.jodi_core.model.checkpoint import read_sizes
from jodi_pack.jodi_core.model.config import JODI_1600M, TransformerConfig
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.kit.autoencoder import keys as autoencoder_keys
from jodi_pack.kit.autoencoder.checkpoint import read_autoencoder_sizes
from jodi_pack.tests.jodi_core.small_networks import TINY, TINY_AE, refused


class TestTransformerConfig:
    def test_metadata_tells_all(self, state):
        assert read_sizes(state, {"config": TINY.to_json()}) == TINY

    def test_an_unreleased_size_without_metadata_says_what_is_not_told(self, state):
        text = refused(lambda: read_sizes(state, {}), "width 64", "training exported")
        for name in ("cross_attention_heads", "linear_head_dim", "pe_base_size"):
            assert name in text and f"{name}=" not in text
        assert read_sizes(state, {}, TINY) == TINY

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("hidden_size", 128),
            ("num_labels", 7),
            ("caption_length", 300),
            ("caption_channels", 32),
            ("latent_channels", 8),
            ("patch_size", 2),
            ("mlp_ratio", 4.0),
            ("frequency_size", 64),
        ],
    )
    def test_metadata_against_shapes_names_both(self, state, field, value):
        config = dataclasses.replace(TINY, **{field: value})
        told = {"num_labels": "domains", "mlp_ratio": "mlp_size"}.get(field, field)
        text = refused(lambda: read_sizes(state, {"config": config.to_json()}))
        assert re.search(rf"{told} is \d+ by the tensors, \d+ by its metadata", text), text

    def test_partial_metadata_is_completed_from_shapes(self, state):
        stored = {"cross_attention_heads": 2, "pe_base_size": 4}
        assert read_sizes(state, {"config": json.dumps(stored)}) == TINY

    @pytest.mark.parametrize(
        ("config", "told"),
        [
            ("{", "not JSON"),
            ("[1]", "list"),
            ('{"wheels": 4}', "no field wheels"),
            ('{"cross_attention_heads": "2"}', "cross_attention_heads is '2'"),
            ('{"cross_attention_heads": 2.0}', "whole number"),
            ('{"cross_attention_heads": 3}', "divisible"),
            ('{"cross_attention_heads": 2, "mlp_ratio": "x"}', "mlp_ratio|sizes"),
        ],
    )
    def test_unusable_metadata(self, state, config, told):
        refused(lambda: read_sizes(state, {"config": config}), told)

    def test_published_sizes_by_width(self):
        def shapes(config):
            return JodiTransformer(config, device="meta").state_dict()

        small = TransformerConfig(
            hidden_size=1152,
            depth=28,
            cross_attention_heads=16,
            caption_channels=2304,
            caption_length=300,
        )
        assert read_sizes(shapes(small), {}) == small
        patch_two = dataclasses.replace(JODI_1600M, patch_size=2, pe_base_size=16)
        assert read_sizes(shapes(patch_two), {}) == patch_two
        fewer = dataclasses.replace(JODI_1600M, num_labels=3)
        assert read_sizes(shapes(fewer), {}) == fewer

    @settings(deadline=None)
    @given(width=st.integers(1, 100).map(lambda n: 32 * n), size=st.integers(1, 20_000))
    def test_any_mlp_width_comes_back(self, width, size):
        facts = {
            "domain_embedding": torch.empty(4, width, device="meta"),
            "x_embedders.0.proj.weight": torch.empty(width, 4, 1, 1, device="meta"),
            "y_embedder.y_embedding": torch.empty(5, 16, device="meta"),
            "t_embedder.mlp.0.weight": torch.empty(width, 32, device="meta"),
            "blocks.0.mlp.point_conv.conv.weight": torch.empty(width, size, 1, 1, device="meta"),
        }
        stored = json.dumps({"cross_attention_heads": 1, "pe_base_size": 4})
        assert read_sizes(facts, {"config": stored}).mlp_size == size


class TestAutoencoderConfig:
    @pytest.mark.parametrize("naming", autoencoder_keys.NAMINGS)
    def test_shapes_and_metadata(self, vae_state, naming):
        state = autoencoder_keys.to_naming(vae_state, naming)
        state = autoencoder_keys.to_mit_han_lab(state)
        assert read_autoencoder_sizes(state, {"config": TINY_AE.to_json()}) == TINY_AE
        assert read_autoencoder_sizes(state, {"config": '{"scaling_factor": 0.5}'}) == TINY_AE
        assert read_autoencoder_sizes(state, {}, TINY_AE) == TINY_AE

    def test_diffusers_words_in_the_metadata(self, vae_state):
        stored = {
            "block_types": ["ResBlock", "EfficientViTBlock"],
            "qkv_multiscales": [[], [5]],
            "attention_head_dim": 8,
            "scaling_factor": 0.5,
        }
        assert read_autoencoder_sizes(vae_state, {"config": json.dumps(stored)}) == TINY_AE
        stored["qkv_multiscales"] = [[], [3, 5]]
        metadata = {"config": json.dumps(stored)}
        refused(lambda: read_autoencoder_sizes(vae_state, metadata), "kernel of 5")

    def test_the_scale_is_never_guessed(self, vae_state):
        refused(lambda: read_autoencoder_sizes(vae_state, {}), "nothing tells the scale")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("widths", (8, 24)),
            ("encoder_depths", (1, 3)),
            ("block_types", ("ResBlock", "ResBlock")),
            ("latent_channels", 8),
            ("attention_head_dim", 16),
            ("in_channels", 1),
        ],
    )
    def test_metadata_against_shapes_names_both(self, vae_state, field, value):
        stored = {**json.loads(TINY_AE.to_json()), field: value}
        text = refused(
            lambda: read_autoencoder_sizes(vae_state, {"config": json.dumps(stored)}), field
        )
        assert "by the tensors" in text
        assert str(value) in text

    def test_an_autoencoder_of_another_series(self, vae_state):
        lost = {
            n: t for n, t in vae_state.items() if not n.startswith("encoder.stages.0.op_list.0")
        }
        refused(
            lambda: read_autoencoder_sizes(lost, {}),
            "stage 0 .* 0 encoder and 2 decoder",
        )
