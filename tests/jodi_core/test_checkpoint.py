"""Strict loading, and errors that say what a fault usually means."""

import dataclasses
import json
import logging
import re
import struct
from pathlib import Path

import pytest
import torch
from jodi_pack.jodi_core.model.checkpoint import (
    TRANSFORMER,
    load_transformer,
    read_sizes,
)
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.kit.autoencoder import keys as autoencoder_keys
from jodi_pack.kit.autoencoder.checkpoint import (
    AUTOENCODER,
    load_autoencoder,
    read_autoencoder_sizes,
)
from jodi_pack.kit.autoencoder.config import DC_AE_F32C32
from jodi_pack.kit.weights import kinds
from jodi_pack.kit.weights.convert import convert
from jodi_pack.kit.weights.loading import load_state
from jodi_pack.tests.jodi_core.small_networks import TINY, TINY_AE, random_state, refused
from safetensors.torch import save_file


def on_meta(listed):
    return {name: torch.empty(shape, device="meta") for name, shape in listed.items()}


@pytest.fixture
def save(tmp_path):
    """Writes tensors to a file, with a config in the metadata if one is given."""

    def write(state, config=None, **metadata):
        path = tmp_path / "w.safetensors"
        if config is not None:
            metadata["config"] = config if isinstance(config, str) else config.to_json()
        save_file({n: t.contiguous() for n, t in state.items()}, path, metadata=metadata or None)
        return path

    return write


class TestManifests:
    """Our classes at full size, on the meta device, against the lists of the releases."""

    @pytest.mark.reference
    def test_transformer(self, reference_dir):
        listed = json.loads((reference_dir / "jodi" / "jodi_1600m_manifest.json").read_text())
        ours = JodiTransformer(JODI_1600M, device="meta").state_dict()
        assert {n: list(t.shape) for n, t in ours.items()} == listed
        assert len(listed) == 356
        assert sum(t.numel() for t in ours.values()) == 1_636_348_416

    @pytest.mark.reference
    def test_released_sizes_are_inferred_from_shapes_alone(self, reference_dir):
        read = lambda name: on_meta(json.loads((reference_dir / name).read_text()))  # noqa: E731
        assert read_sizes(read("jodi/jodi_1600m_manifest.json"), {}) == JODI_1600M
        for name in ("dcae_f32c32_sana_manifest.json", "dcae_f32c32_sana_diffusers_manifest.json"):
            state = autoencoder_keys.to_mit_han_lab(read(f"dcae/{name}"))
            assert read_autoencoder_sizes(state, {}) == DC_AE_F32C32


class TestLoading:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_transformer_has_the_files_tensors(self, save, dtype):
        state = random_state(JodiTransformer, TINY, dtype)
        model, metadata = load_transformer(save(state, TINY, kind="jodi"))
        assert metadata == {"kind": "jodi", "config": TINY.to_json()}
        assert model.config == TINY
        assert not model.training
        found = model.state_dict()
        assert set(found) == set(state)
        assert all(torch.equal(found[n], t) and found[n].dtype == dtype for n, t in state.items())

    def test_null_text_is_a_plain_buffer(self, save, state):
        model, _ = load_transformer(save(state, TINY))
        assert "y_embedder.y_embedding" not in dict(model.named_parameters())
        assert not model.get_buffer("y_embedder.y_embedding").requires_grad

    def test_dtype_is_cast(self, save, state):
        model, _ = load_transformer(save(state, TINY), dtype=torch.bfloat16)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name].bfloat16()), name

    def test_mixed_dtypes_take_the_widest(self, save, state):
        state["domain_embedding"] = state["domain_embedding"].bfloat16()
        state["t_block.1.bias"] = state["t_block.1.bias"].half()
        model, _ = load_transformer(save(state, TINY))
        assert {t.dtype for t in model.state_dict().values()} == {torch.float32}

    def test_pickle_with_config_passed(self, tmp_path, state):
        torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, tmp_path / "w.pth")
        model, metadata = load_transformer(tmp_path / "w.pth", config=TINY)
        assert torch.equal(model.domain_embedding, state["domain_embedding"])
        assert metadata == {}

    @pytest.mark.parametrize("naming", autoencoder_keys.NAMINGS)
    def test_autoencoder_under_either_naming(self, save, vae_state, naming):
        path = save(autoencoder_keys.to_naming(vae_state, naming), TINY_AE)
        model, _ = load_autoencoder(path)
        assert model.config == TINY_AE
        found = model.state_dict()
        assert set(found) == set(vae_state)
        assert all(torch.equal(found[n], t) for n, t in vae_state.items())

    def test_operations_are_injected(self, save, state):
        class Ops(torch.nn.Module):
            class Linear(torch.nn.Linear):
                pass

            Conv2d = torch.nn.Conv2d
            Embedding = torch.nn.Embedding

        model, _ = load_transformer(save(state, TINY), operations=Ops)
        assert isinstance(model.t_block[1], Ops.Linear)
        assert torch.equal(model.t_block[1].weight, state["t_block.1.weight"])

    def test_zero_weights_are_mentioned(self, save, state, caplog):
        state["blocks.0.attn.proj.weight"].zero_()
        with caplog.at_level(logging.WARNING, logger="jodi"):
            load_transformer(save(state, TINY))
        assert "nothing but zeros in blocks.0.attn.proj.weight" in caplog.text

    def test_the_callers_tensors_are_left_alone(self, state):
        before = {n: t.clone() for n, t in state.items()}
        load_state(state, TRANSFORMER, config=TINY, dtype=torch.bfloat16)
        assert all(
            torch.equal(state[n], t) and state[n].dtype == t.dtype for n, t in before.items()
        )

    @pytest.mark.reference
    def test_reference_files(self, reference_dir):
        load_transformer(reference_dir / "jodi" / "model.safetensors")
        for name in ("dcae", "dcae_diffusers"):
            load_autoencoder(reference_dir / "dcae" / f"{name}.safetensors")


def test_a_file_is_identified_once(save, state, tmp_path, monkeypatch):
    path, seen = save(state, TINY), []

    def counted(tensors, identify=kinds.identify):
        seen.append(len(tensors))
        return identify(tensors)

    monkeypatch.setattr(kinds, "identify", counted)
    load_transformer(path)
    assert seen == [len(state)]
    convert(path, tmp_path / "n.safetensors", (TRANSFORMER, AUTOENCODER))
    assert len(seen) == 2


class TestFaults:
    """Missing, misshaped and unexpected tensors, and what they are taken to mean."""

    def check(self, save, state, *expected, config=TINY):
        path = save(state, config)
        return refused(lambda: load_transformer(path), re.escape(str(path)), *expected)

    def without(self, state, *prefixes):
        return {n: t for n, t in state.items() if not n.startswith(prefixes)}

    def test_one_missing(self, save, state):
        total = len(state)
        self.check(
            save,
            self.without(state, "t_block.1.bias"),
            rf"missing 1 of {total}: t_block\.1\.bias\. ",
            "convert it again",
        )

    @pytest.mark.parametrize(
        "name", ["domain_embedding", "y_embedder.y_embedding", "t_embedder.mlp.0.weight"]
    )
    def test_a_missing_tensor_from_which_sizes_are_read(self, save, state, name):
        self.check(save, self.without(state, name), rf"missing 1 of \d+: {re.escape(name)}")

    def test_many_missing_list_the_first_and_the_count(self, save, state):
        text = self.check(save, self.without(state, "blocks.0.attn", "y_embedder", "role_"))
        listed, more = re.search(r"missing 11 of \d+: (.*?) and (\d+) more", text).groups()
        assert (len(listed.split(", ")), int(more)) == (5, 6)

    def test_no_output_layers_is_sana(self, save, state):
        self.check(save, self.without(state, "final_layers"), "missing 12", "Sana checkpoint")

    def test_no_input_layers_is_sana(self, save, state):
        self.check(save, self.without(state, "x_embedders"), "missing 8", "Sana checkpoint")

    def test_lost_blocks(self, save, state):
        self.check(save, self.without(state, "blocks.1."), r"Blocks 1 \(of 0-1\)", "stopped early")
        self.check(save, self.without(state, "blocks.0."), r"Blocks 0 \(of 0-1\)")

    def test_lost_blocks_of_the_released_size_are_not_a_shallower_model(self):
        state = JodiTransformer(JODI_1600M, device="meta").state_dict()
        state = self.without(state, *(f"blocks.{i}." for i in range(12, 20)))
        refused(lambda: load_state(state, TRANSFORMER), r"Blocks 12-19 \(of 0-19\)", "missing 120")

    @pytest.mark.parametrize("name", ["y_embedder.y_embedding", "domain_embedding"])
    def test_lost_size_tensors_of_the_released_size(self, name):
        state = self.without(JodiTransformer(JODI_1600M, device="meta").state_dict(), name)
        refused(lambda: load_state(state, TRANSFORMER), f"missing 1 of 356: {re.escape(name)}")

    def test_fewer_labels(self, save, state):
        fewer = self.without(state, "x_embedders.3", "final_layers.3")
        self.check(save, fewer, "domains 3 are missing", "fewer labels", "4 domains")

    def test_more_labels(self, save, state):
        state["x_embedders.4.proj.bias"] = torch.ones(64)
        self.check(save, state, r"unexpected 1: x_embedders\.4\.proj\.bias", "more domains")

    def test_mixed_hidden_sizes(self, save, state):
        other = random_state(JodiTransformer, dataclasses.replace(TINY, hidden_size=96))
        state.update({n: t for n, t in other.items() if n.startswith("final_layers")})
        text = self.check(save, state, "misshaped 8", "hidden size 96, the model 64")
        assert "expected (2, 64), came (2, 96)" in text

    def test_normalised_queries(self, save, state):
        state["blocks.0.attn.q_norm.weight"] = torch.ones(64)
        self.check(save, state, "unexpected 1", "normalises queries and keys")

    def test_unknown_extra(self, save, state):
        state["control_head.weight"] = torch.ones(3)
        self.check(save, state, r"unexpected 1: control_head\.weight", "newer or extended")

    def test_quantised(self, save, state):
        extra = {"blocks.0.attn.qkv.scale_weight": torch.ones(1)}
        self.check(save, {**state, **extra}, "quantised")
        state["t_block.1.weight"] = state["t_block.1.weight"].to(torch.float8_e4m3fn)
        self.check(save, state, "t_block.1.weight is stored as float8_e4m3fn", "not quantised")

    def test_most_missing_is_a_part(self, save, state):
        self.check(save, self.without(state, "blocks", "y_", "t_", "role"), "missing")

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_values_that_are_not_finite(self, save, state, value):
        state["blocks.1.attn.proj.bias"][3] = value
        self.check(save, state, "blocks.1.attn.proj.bias", "not finite")

    def test_values_too_large_for_half(self, save, state):
        state["role_embedder.weight"][1, 2] = -70000.0
        path = save(state, TINY)
        refused(
            lambda: load_transformer(path, dtype=torch.float16),
            "role_embedder.weight reaches 7e\\+04",
            "Use bfloat16",
        )
        load_transformer(path, dtype=torch.bfloat16)

    def test_given_config_against_shapes(self, save, state):
        path = save(state)
        config = dataclasses.replace(TINY, caption_length=7)
        refused(
            lambda: load_transformer(path, config=config),
            "caption_length is 5 by the tensors, 7 by the config passed",
        )

    def test_the_wrong_network(self, save, state, vae_state):
        path = save(vae_state, TINY_AE)
        refused(
            lambda: load_transformer(path), "expected a Jodi transformer, but .* DC-AE autoencoder"
        )
        path = save(state, TINY)
        refused(lambda: load_autoencoder(path), "expected a DC-AE .*, but .* is a Jodi transf")

    def test_sana_file(self, save, state):
        renamed = {n: t for n, t in state.items() if n.startswith(("blocks", "t_", "y_"))}
        renamed["x_embedder.proj.weight"] = state["x_embedders.0.proj.weight"]
        self.check(save, renamed, "is a Sana transformer", config=None)

    def test_autoencoder_faults(self, save, vae_state):
        def check(state, *expected):
            path = save(state, TINY_AE)
            refused(lambda: load_autoencoder(path), re.escape(str(path)), *expected)

        check(self.without(vae_state, "encoder.project_in"), "missing 2 of", "dc-ae-f32c32")
        check(self.without(vae_state, "decoder"), "0 decoder blocks")
        batch_norm = {"encoder.stages.0.op_list.0.main.conv1.norm.running_mean": torch.ones(8)}
        check({**vae_state, **batch_norm}, "unexpected 1", "ImageNet")
        vae_state["decoder.project_in.main.conv.bias"] = torch.ones(5)
        check(vae_state, r"misshaped 1: .*expected \(16,\), came \(5,\)")


@pytest.mark.slow
def test_full_size_file_loads_without_a_second_copy(tmp_path):
    """The 1.6B transformer in bfloat16: 3.27 GB, sparse on the disk but for one tensor of noise."""
    shapes = JodiTransformer(JODI_1600M, device="meta").state_dict()
    header, end = {}, 0
    for name, tensor in shapes.items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    name = "blocks.19.attn.qkv.weight"
    noise = torch.randn(shapes[name].shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    path = tmp_path / "full.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
        file.seek(header[name]["data_offsets"][0], 1)
        file.write(noise.view(torch.uint8).numpy())
    model, _ = load_transformer(path)
    assert model.config == JODI_1600M
    assert sum(t.numel() for t in model.state_dict().values()) == 1_636_348_416
    assert {t.dtype for t in model.state_dict().values()} == {torch.bfloat16}
    assert torch.equal(model.get_parameter(name), noise)
    # Mapped, not read into memory of its own: the private memory stays far below the 3.27 GB.
    if (status := Path("/proc/self/status")).exists():
        private = int(re.search(r"RssAnon:\s+(\d+) kB", status.read_text()).group(1))
        assert private < 1_500_000
