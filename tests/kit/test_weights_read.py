"""Every way in which a weight file can be wrong, made here as a real file."""

import json
import random
import re
import struct
import zipfile

import numpy as np
import pytest
import torch
from jodi_pack.kit.errors import CheckpointError, shorten
from jodi_pack.kit.weights.read import read_state_dict, simplify_keys
from safetensors.torch import save_file


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(8, 8, generator=generator),
        "b.bias": torch.randn(8, generator=generator),
        "b.steps": torch.arange(3),
    }


def refused(path, *expected):
    """The one-paragraph error for `path`, proved to name the file and to say what is expected."""
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    for pattern in expected:
        assert re.search(pattern, text), text
    return text


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_and_pickles_give_the_same_tensors(tmp_path, state, dtype):
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    save_file(state, tmp_path / "w.safetensors", metadata={"kind": "x"})
    torch.save(state, tmp_path / "w.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    tensors, metadata = read_state_dict(tmp_path / "w.safetensors")
    assert_same(dict(sorted(tensors.items())), dict(sorted(state.items())))
    assert metadata == {"kind": "x"}
    for name in ("w.pth", "old.pth"):
        tensors, metadata = read_state_dict(str(tmp_path / name))
        assert_same(tensors, state)
        assert metadata == {}


def test_the_suffix_does_not_decide(tmp_path, state):
    save_file(state, tmp_path / "w.pth")
    torch.save(state, tmp_path / "w.safetensors")
    assert len(read_state_dict(tmp_path / "w.pth").tensors) == 3
    assert len(read_state_dict(tmp_path / "w.safetensors").tensors) == 3


@pytest.mark.parametrize("wrap", ["state_dict", "model", "module", "model_state_dict"])
def test_wrapped_and_bare_are_the_same(tmp_path, state, wrap):
    torch.save({wrap: state, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    assert_same(read_state_dict(tmp_path / "w.pth").tensors, state)


def test_parameters_come_out_as_plain_tensors(tmp_path):
    torch.save({"w": torch.nn.Parameter(torch.ones(2))}, tmp_path / "w.pth")
    found = read_state_dict(tmp_path / "w.pth").tensors["w"]
    assert type(found) is torch.Tensor
    assert not found.requires_grad


def test_stray_values_beside_tensors_are_left_out(tmp_path, state):
    torch.save({**state, "step": 7}, tmp_path / "w.pth")
    assert_same(read_state_dict(tmp_path / "w.pth").tensors, state)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.diffusion_model.", "module._orig_mod.", "base_model.", "model."]
)
def test_a_prefix_on_every_key_is_removed(state, prefix):
    assert_same(simplify_keys({prefix + name: t for name, t in state.items()}), state)


def test_a_prefix_on_some_keys_stays(state):
    mixed = {f"model.diffusion_model.{n}": t for n, t in state.items()} | {"vae.x": torch.ones(1)}
    assert_same(simplify_keys(mixed), mixed)


@pytest.mark.parametrize("name", ["pos_embed", "base_model.pos_embed", "model.pos_embed"])
def test_stored_positional_tables_are_dropped(state, name):
    assert_same(simplify_keys({name: torch.ones(4), **state}), state)
    kept = {"pos_embed.proj.weight": torch.ones(4), **state}
    assert_same(simplify_keys(kept), kept)


def test_positional_table_under_a_common_prefix_is_dropped(state):
    wrapped = {f"module.{n}": t for n, t in {"pos_embed": torch.ones(4), **state}.items()}
    assert_same(simplify_keys(wrapped), state)


def test_missing_empty_and_folder(tmp_path, state):
    refused(tmp_path / "nowhere.safetensors", "no file", "check the name")
    (tmp_path / "empty.safetensors").touch()
    refused(tmp_path / "empty.safetensors", "empty", "again")
    folder = tmp_path / "folder"
    folder.mkdir()
    refused(folder, "folder")
    save_file(state, folder / "w.safetensors")
    refused(folder, "folder", r"w\.safetensors")


def test_truncated_safetensors_at_every_part(tmp_path, state):
    whole = tmp_path / "w.safetensors"
    save_file(state, whole)
    data = whole.read_bytes()
    header_end = 8 + struct.unpack("<Q", data[:8])[0]
    cut = tmp_path / "cut.safetensors"
    for length in (header_end - 5, 20):
        cut.write_bytes(data[:length])
        refused(cut, "truncated", "header", f"{length}")
    for length in (header_end, header_end + 7, len(data) - 1):
        cut.write_bytes(data[:length])
        missing = len(data) - length
        refused(cut, "truncated", rf"\({missing:,} missing\)", "again")
    for length in range(1, 9):
        cut.write_bytes(data[:length])
        refused(cut)


def test_longer_than_its_header_says(tmp_path, state):
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    path.write_bytes(path.read_bytes() + b"\0" * 10)
    refused(path, "damaged", "goes on")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": ',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": 5}',
        b'{"a": \xff\xfe}',
    ],
)
def test_damaged_safetensors_header(tmp_path, header):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    refused(path, "damaged|cannot be read", "again")


def test_absurd_header_length(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 10**9) + b'{"a"' + b"\0" * 50)
    refused(path, "1,000,000,000", "damaged")


def test_safetensors_without_tensors(tmp_path):
    save_file({}, tmp_path / "w.safetensors", metadata={"a": "b"})
    refused(tmp_path / "w.safetensors", "no tensors")


def test_truncated_pickles(tmp_path, state):
    for new in (True, False):
        whole = tmp_path / f"{new}.pth"
        torch.save(state, whole, _use_new_zipfile_serialization=new)
        data = whole.read_bytes()
        cut = tmp_path / f"cut{new}.pth"
        for part in (0.1, 0.4, 0.7, 0.95):
            cut.write_bytes(data[: int(part * len(data))])
            # torch 2.4 takes some ends of an old-style pickle for something it may not read
            refused(cut, "truncated|breaks off|or it is damaged")


def test_damaged_zip_content(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02rubbish")
        archive.writestr("archive/version", "3\n")
    refused(path, "breaks off or is damaged")


def test_other_zip_archives(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "zip archive", r"readme\.txt", "Unpack")
    with zipfile.ZipFile(path, "w") as archive:  # the layout of a saved TorchScript program
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"linear/{name}", b"\x80\x02N.")
    refused(path, "TorchScript", "state_dict")


class Surprise:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self):
        return setattr, (Surprise, "ran", True)


def test_unsafe_pickle_is_refused_and_does_not_run(tmp_path, state):
    for new in (True, False):
        path = tmp_path / f"{new}.pth"
        torch.save(
            {"state_dict": state, "extra": Surprise()}, path, _use_new_zipfile_serialization=new
        )
        refused(path, "more than tensors .it asks for setattr", "unsafe", "weights_only=False")
        assert not Surprise.ran


def test_full_training_checkpoint_says_how_to_take_out_the_weights(tmp_path, state):
    path = tmp_path / "epoch_1.pth"
    rng = {"numpy": np.random.RandomState(0).get_state(), "python": random.getstate()}
    torch.save({"state_dict": state, "epoch": 1, "rng_state": rng}, path)
    text = refused(path, "training checkpoint", "numpy")
    # The advice is a command: it has to work.
    command = re.search(r"torch\.save\(.*\)(?=, and)", text).group(0)
    out = tmp_path / "weights.pth"
    exec(command.replace("'weights.pth'", repr(str(out))), {"torch": torch, "file": path})
    assert_same(read_state_dict(out).tensors, state)


def test_pickles_of_other_things(tmp_path):
    for value, told in (([1, 2], "list"), (torch.ones(3), "Tensor"), ({"a": 1}, "holds a")):
        torch.save(value, tmp_path / "w.pth")
        refused(tmp_path / "w.pth", told, "state dict")


def test_git_lfs_pointer(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3272700000\n"
    )
    refused(path, "git-LFS pointer", "3,272,700,000", "git lfs pull")


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html><html><body>404</body></html>",
        "\n  <html lang='en'>",
        "\ufeff<!doctype HTML>",
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    ],
)
def test_web_page(tmp_path, page):
    path = tmp_path / "model.safetensors"
    path.write_text(page, encoding="utf-8")
    refused(path, "web page", "link")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"Entry not found", "text file .*Entry not found"),
        (b'{"error": "Repository not found"}', "text file"),
        (json.dumps({"weight_map": {"a": "part-1"}}).encode(), "index"),
        (b"GGUF\x03\x00\x00\x00" + b"\1" * 50, "GGUF"),
        (b"\x1f\x8b\x08" + b"\1" * 50, "gzip"),
        (b"\x93NUMPY\x01\x00" + b"\1" * 50, "NumPy"),
        (b"\x89PNG\r\n\x1a\n" + b"\1" * 50, "PNG"),
        (b"\0" * 5000, "zeros only"),
        (b"\x01\x02\x03", "truncated"),
        (bytes(range(200, 256)), "no weight file: it begins with the bytes c8 c9"),
    ],
)
def test_other_files(tmp_path, content, told):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path, told)


def test_few():
    assert shorten("ab") == "a, b"
    assert shorten("abcdefg") == "a, b, c, d, e and 2 more"
