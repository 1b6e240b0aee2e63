"""Files that hang, crash or pass as whole elsewhere: every door says in a sentence what they are.

The doors are `jodi info`, `convert` and the pipeline; the nodes' loaders go through the same
`check`, and tests/nodes has checks of theirs.
"""

import json
import os
import socket
import struct
import warnings
import zipfile

import pytest
import torch
from jodi_pack.cli.info import describe
from jodi_pack.jodi_core.model.checkpoint import TRANSFORMER, load_transformer
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.autoencoder.checkpoint import AUTOENCODER, load_autoencoder
from jodi_pack.kit.autoencoder.keys import to_diffusers
from jodi_pack.kit.errors import CheckpointError
from jodi_pack.kit.weights.convert import convert
from jodi_pack.kit.weights.read import read_state_dict
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.tests.helpers import TINY, TINY_AE, tiny_autoencoder, tiny_transformer
from safetensors.torch import save_file


@pytest.fixture
def state():
    return tiny_transformer().state_dict()


@pytest.fixture
def vae():
    return tiny_autoencoder().state_dict()


@pytest.fixture
def save(tmp_path):
    def write(state, config=TINY, **changed):
        values = {**json.loads(config.to_json()), **changed}
        text = json.dumps(values)
        path = tmp_path / "w.safetensors"
        write_state_dict(path, state, {"config": text}, force=True)
        return path

    return write


def refused(path, *told, vae=False):
    """Every door refuses the file with one and the same sentence, which is returned."""
    out = path.with_name("converted.safetensors")
    doors = (
        lambda: list(describe(path)),
        lambda: convert(path, out, (TRANSFORMER, AUTOENCODER)),
        lambda: load_autoencoder(path) if vae else JodiPipeline.from_files(path),
    )
    said = set()
    for door in doors:
        with pytest.raises(CheckpointError) as caught:
            door()
        said.add(str(caught.value))
    assert len(said) == 1, said
    text = said.pop()
    assert all(part in text for part in told), text
    assert len(text) < 1500 and "\n" not in text and not out.exists()
    return text


class TestClaims:
    """What a file claims is bounded by what it holds, before anything is built."""

    @pytest.mark.parametrize(
        ("claim", "value"),
        [
            ("depth", 100_000),
            ("depth", 10**18),
            ("num_labels", 10**6),
            ("hidden_size", 10**12),
            ("caption_length", 10**15),
            ("latent_channels", 2**62),
            ("frequency_size", 2**40),
            ("pe_base_size", 10**9),
            ("mlp_ratio", 1e18),
        ],
    )
    def test_sizes_of_the_transformer(self, save, state, claim, value):
        told = {"num_labels": "domains"}.get(claim, claim)
        refused(save(state, **{claim: value}), told)

    @pytest.mark.parametrize("claim", ["hidden_size", "caption_length", "caption_channels"])
    def test_a_claim_that_no_tensor_speaks_against(self, save, state, claim):
        told_by = ("domain_embedding", "role_", "attention_y", "t_embedder", "y_embedder")
        for value in (4 * 10**5, 4 * 10**12, 2**62):
            refused(
                save(
                    {n: t for n, t in state.items() if not n.startswith(told_by)}, **{claim: value}
                )
            )

    @pytest.mark.long
    @pytest.mark.parametrize(
        "changed",
        [
            {"mlp_ratio": float("nan")},
            {"mlp_ratio": float("inf")},
            {"mlp_ratio": True},
            {"norm_eps_blocks": "x"},
            {"norm_eps_blocks": float("nan")},
            {"caption_norm_eps": -1.0},
            {"caption_norm_eps": 1e9},
            {"pe_interpolation": 0},
            {"depth": 2.0},
            {"depth": None},
            {"depth": [2]},
            {"hidden_size": {}},
            {"cross_attention_heads": 0},
            {"linear_head_dim": -32},
            {"wheels": 4},
        ],
    )
    def test_values_of_a_config(self, save, state, changed):
        refused(save(state, **changed), next(iter(changed)))

    @pytest.mark.long
    @pytest.mark.parametrize(
        "changed",
        [
            {"scaling_factor": float("nan")},
            {"scaling_factor": float("inf")},
            {"scaling_factor": 0},
            {"scaling_factor": "0.4"},
            {"block_types": "ResBlock"},
            {"block_types": 5},
            {"block_types": [["ResBlock"]] * 3},
            {"block_types": ["ResBlock"]},
            {"widths": []},
            {"widths": [8, 16, 32] * 40},
            {"encoder_depths": [1, 2, 100_000]},
            {"attention_head_dim": 0},
            {"qkv_multiscales": 7},
            {"qkv_multiscales": [[3]]},
        ],
    )
    def test_values_of_an_autoencoders_config(self, save, vae, changed):
        refused(
            save(vae, TINY_AE, **changed), next(iter(changed)).replace("qkv_multis", "s"), vae=True
        )

    def test_a_config_of_nested_lists(self, tmp_path, state):
        for text in ("[" * 10**5 + "]" * 10**5, '{"depth": ' + "[" * 10**5 + "]" * 10**5 + "}"):
            path = tmp_path / "deep.safetensors"
            write_state_dict(path, state, {"config": text}, force=True)
            refused(path, "nested too deeply")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "name",
        [
            "blocks.{}.attn.qkv.weight",
            "x_embedders.{}.proj.weight",
            "encoder.stages.{}.op_list.0.main.conv1.conv.weight",
            "encoder.stages.0.op_list.{}.main.conv1.conv.weight",
            "decoder.up_blocks.{}.0.conv1.weight",
            "layer{}",
        ],
    )
    def test_twenty_thousand_empty_tensors(self, tmp_path, name):
        empty = {name.format(i): torch.empty(0) for i in range(20_000)}
        path = tmp_path / "many.safetensors"
        more = {"domain_embedding": torch.ones(8, 64)} if name.startswith("blocks") else {}
        write_state_dict(path, {**empty, **more}, {"config": TINY.to_json()})
        for door in (load_transformer, load_autoencoder):
            with pytest.raises(CheckpointError):
                door(path)

    @pytest.mark.long
    @pytest.mark.parametrize("number", ["100000", "9" * 12, "9" * 5000])
    @pytest.mark.parametrize("name", ["blocks.{}.x", "final_layers.{}.x", "encoder.stages.{}.x"])
    def test_a_name_with_a_large_number(self, save, state, vae, name, number):
        ours = vae if name.startswith("encoder") else state
        config = TINY_AE if ours is vae else TINY
        path = save({**ours, name.format(number): torch.ones(1)}, config)
        refused(path, "counts up to", vae=ours is vae)

    def test_a_long_name_is_cut(self, save, state):
        text = refused(save({**state, "x" * 200_000: torch.ones(1)}), "unexpected 1: xxx")
        assert len(text) < 800


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
    def test_weights_that_are_no_floats(self, save, state, dtype):
        state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"].to(dtype)
        told = str(dtype).removeprefix("torch.")
        refused(save(state), f"blocks.0.attn.qkv.weight is stored as {told}", "not quantised")

    def test_complex_weights(self, tmp_path, state):
        whole = {name: tensor.to(torch.complex64) for name, tensor in state.items()}
        torch.save({"state_dict": whole}, tmp_path / "c.pth")
        with pytest.raises(CheckpointError, match="stored as complex64"):
            load_transformer(tmp_path / "c.pth", config=TINY)

    @pytest.mark.long
    @pytest.mark.parametrize("value", [float("nan"), float("-inf")])
    def test_values_that_are_not_finite(self, save, state, vae, value):
        state["blocks.1.attn.proj.bias"][3] = value
        refused(save(state), "blocks.1.attn.proj.bias holds values that are not finite")
        vae["decoder.project_in.main.conv.bias"][0] = value
        refused(save(vae, TINY_AE), "not finite", vae=True)

    def test_eight_bits_are_told_by_info_and_refused_where_they_cannot_be_used(
        self, tmp_path, state
    ):
        name = "blocks.0.attn.qkv.weight"
        state[name] = state[name].to(torch.float8_e4m3fn)
        path = tmp_path / "f8.safetensors"
        save_file(state, path, {"config": TINY.to_json()})
        lines = dict(describe(path))
        assert "whole" in lines["what"] and "ComfyUI's nodes take them" in lines["use"]
        for door in (
            lambda: convert(path, tmp_path / "n.safetensors", (TRANSFORMER, AUTOENCODER)),
            lambda: JodiPipeline.from_files(path),
        ):
            with pytest.raises(CheckpointError, match=r"float8_e4m3fn.* not quantised"):
                door()
        state["blocks.1.attn.qkv.weight"][0, 0] = float("nan")
        save_file(state, path, {"config": TINY.to_json()})
        with pytest.raises(CheckpointError, match="not finite"):
            list(describe(path))

    def test_thirds_that_do_not_match(self, save, vae):
        for change in (lambda t: t[:-1], lambda t: t.long(), lambda t: t.flatten()[0]):
            renamed = to_diffusers(vae)
            name = next(name for name in renamed if name.endswith("attn.to_k.weight"))
            renamed[name] = change(renamed[name]).clone()
            refused(save(renamed, TINY_AE), "three alike", vae=True)

    def test_two_namings_in_one_file(self, save, vae):
        path = save(
            {**vae, "encoder.conv_in.weight": vae["encoder.project_in.conv.weight"]}, TINY_AE
        )
        refused(path, "twice", vae=True)


class TestPlaces:
    """What is no file on a disk is refused before it is opened."""

    def test_pipes_devices_and_sockets(self, tmp_path, monkeypatch):
        os.mkfifo(tmp_path / "pipe.safetensors")
        refused(tmp_path / "pipe.safetensors", "a pipe, a socket or a device")
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(tmp_path)  # the whole path may be too long for a socket
            server.bind("s.safetensors")
            refused(tmp_path / "s.safetensors", "a pipe, a socket or a device")
        with pytest.raises(CheckpointError, match="device"):
            read_state_dict("/dev/zero")

    @pytest.mark.parametrize("name", ["a" * 300, "a\0b", "x" * 100_000])
    def test_names_that_no_file_has(self, tmp_path, name):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(CheckpointError) as caught:
                read_state_dict(path)
            assert "cannot be opened" in str(caught.value) and len(str(caught.value)) < 700

    def test_a_loop_of_links(self, tmp_path):
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(CheckpointError, match="cannot be opened"):
            read_state_dict(tmp_path / "a")

    def test_a_file_cut_while_it_is_in_use(self, save, state):
        """Small files are read into memory: what happens to them later changes nothing."""
        path = save(state)
        content = read_state_dict(path)
        os.truncate(path, 100)
        assert all(torch.equal(content.tensors[name], t) for name, t in state.items())


class TestPickles:
    def test_packed_again(self, tmp_path, state):
        whole, packed, flat = (tmp_path / name for name in ("w.pth", "p.pth", "f.pth"))
        torch.save({"state_dict": state}, whole)
        with (
            zipfile.ZipFile(whole) as source,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made,
            zipfile.ZipFile(flat, "w") as loose,
        ):
            for name in source.namelist():
                made.writestr(name, source.read(name))
                loose.writestr(name.partition("/")[2], source.read(name))
        found = read_state_dict(packed).tensors
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
        with pytest.raises(CheckpointError, match="without the folder"):
            read_state_dict(flat)

    @pytest.mark.slow
    def test_more_inside_than_a_file_can_hold(self, tmp_path):
        path = tmp_path / "bomb.pth"
        torch.save({"a": torch.zeros(8)}, tmp_path / "w.pth")
        with (
            zipfile.ZipFile(tmp_path / "w.pth") as source,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made,
        ):
            for name in source.namelist():
                made.writestr(name, source.read(name))
            with made.open("w/data/1", "w") as record:
                for _ in range(300):
                    record.write(bytes(1 << 20))
        refused(path, "unpacks to 3")

    def test_the_same_numbers_many_times_over(self, tmp_path):
        path = tmp_path / "wide.pth"
        torch.save({"domain_embedding": torch.ones(1).expand(10**5, 10**5)}, path)
        refused(path, "many times over")

    def test_storages_that_claim_too_much(self, tmp_path, state):
        path = tmp_path / "old.pth"
        torch.save({"a": torch.zeros(70_001)}, path, _use_new_zipfile_serialization=False)
        data = path.read_bytes()
        claim = struct.pack("<i", 70_001)
        assert data.count(claim) >= 2
        path.write_bytes(data.replace(claim, struct.pack("<i", 2**31 - 1)))
        refused(path, "claims 2.15e+09 numbers")

    @pytest.mark.slow
    def test_pickles_without_end(self, tmp_path):
        content = {"epoch": 1}
        content["state_dict"] = content
        for new in (True, False):
            path = tmp_path / f"{new}.pth"
            torch.save(content, path, _use_new_zipfile_serialization=new)
            refused(path, "without end")
        deep = {}
        for _ in range(400):
            deep = {"model": deep}
        torch.save(deep, path)
        refused(path, "more than 8 times over")
        path.write_bytes(b"\x80\x02" + b"N0" * 1_100_000 + b"N.")
        refused(path, "2,000,000 instructions")

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda: torch.eye(8).to_sparse(), "sparse_coo"),
            (lambda: torch.eye(8).to_sparse_csr(), "sparse_csr"),
            (lambda: torch.eye(8).to_sparse_bsc((2, 2)), "sparse_bsc"),
            (lambda: torch.empty(4, 64, device="meta"), "without its numbers"),
            (lambda: torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8), "qint8"),
            (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        ],
    )
    def test_tensors_that_are_more_or_less_than_their_numbers(self, tmp_path, make, told):
        path = tmp_path / "odd.pth"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"state_dict": {"domain_embedding": make()}}, path)
        refused(path, told, "expected plain dense numbers")

    def test_tensors_as_they_lie_in_memory(self, tmp_path, state):
        state = {name: t.t().contiguous().t() if t.ndim == 2 else t for name, t in state.items()}
        torch.save(state, tmp_path / "w.pth")
        model, _ = load_transformer(tmp_path / "w.pth", config=TINY)
        assert all(torch.equal(model.state_dict()[name], t) for name, t in state.items())
