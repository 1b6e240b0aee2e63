"""Conversion keeps every value, says what it wrote, and never leaves half a file."""

import dataclasses
import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.model.checkpoint import TRANSFORMER, load_transformer
from jodi_pack.jodi_core.model.config import TransformerConfig
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.kit.autoencoder import keys as autoencoder_keys
from jodi_pack.kit.autoencoder.checkpoint import AUTOENCODER, load_autoencoder
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.errors import CheckpointError
from jodi_pack.kit.weights import convert as converter
from jodi_pack.kit.weights.convert import parse_dtype
from jodi_pack.kit.weights.read import read_state_dict
from jodi_pack.kit.weights.write import replace_weights_file, write_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

TINY = TransformerConfig(
    hidden_size=64,
    depth=1,
    cross_attention_heads=2,
    caption_channels=16,
    caption_length=5,
    latent_channels=4,
    pe_base_size=4,
    frequency_size=32,
)
TINY_AE = AutoencoderConfig(
    widths=(8, 16),
    encoder_depths=(1, 1),
    decoder_depths=(1, 1),
    block_types=("ResBlock", "EViTS5_GLU"),
    latent_channels=4,
    scaling_factor=0.5,
    attention_head_dim=8,
)


def convert(source, destination, **options):
    return converter.convert(source, destination, (TRANSFORMER, AUTOENCODER), **options)


def random_state(model_class, config, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = model_class(config, device="meta").state_dict()
    return {n: torch.randn(t.shape, generator=generator).to(dtype) for n, t in shapes.items()}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    state = random_state(JodiTransformer, TINY)
    path = folder / "Jodi.pth"
    torch.save({"state_dict": state}, path)
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "jodi.safetensors"


def same(found, expected):
    return set(found) == set(expected) and all(
        found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in expected.items()
    )


def test_values_names_and_metadata(source, out):
    report = convert(source, out, config=TINY)
    state = torch.load(source, weights_only=True)["state_dict"]
    assert same(load_file(out), state)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "jodi_format": "1",
        "kind": "jodi",
        "config": TINY.to_json(),
        "source": "Jodi.pth",
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "dtype": "float32",
        "trained_roles": "published",
    }
    assert report.bytes == out.stat().st_size
    assert report.tensors == len(state)
    assert report.parameters == sum(t.numel() for t in state.values())
    assert (report.kind, report.dtype, report.config) == ("jodi", "float32", TINY)
    assert report.source_sha256 == metadata["source_sha256"]


@pytest.mark.parametrize("name", ["bfloat16", "bf16", "float16", "fp16", "float32", "fp32"])
def test_dtype(source, out, name):
    report = convert(source, out, dtype=name, config=TINY)
    dtype = parse_dtype(name)
    assert report.dtype == str(dtype).removeprefix("torch.")
    state = torch.load(source, weights_only=True)["state_dict"]
    assert same(load_file(out), {n: t.to(dtype) for n, t in state.items()})


def test_the_result_needs_no_config_any_more(source, out):
    convert(source, out, config=TINY, dtype=torch.bfloat16)
    model, metadata = load_transformer(out)
    assert model.config == TINY
    assert model.domain_embedding.dtype == torch.bfloat16
    assert metadata["trained_roles"] == "published"


@pytest.mark.long
@settings(max_examples=12, deadline=None)
@given(
    labels=st.integers(1, 3),
    depth=st.integers(1, 3),
    patch=st.sampled_from([1, 2]),
    width=st.sampled_from([64, 96]),
    ratio=st.sampled_from([1.5, 2.5, 2.7]),
    base=st.integers(1, 64),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_convert_then_load_gives_equal_tensors_and_sizes(
    tmp_path_factory, labels, depth, patch, width, ratio, base, dtype, seed
):
    folder = tmp_path_factory.mktemp("property")
    config = dataclasses.replace(
        TINY,
        hidden_size=width,
        num_labels=labels,
        depth=depth,
        patch_size=patch,
        mlp_ratio=ratio,
        pe_base_size=base,
    )
    state = random_state(JodiTransformer, config, dtype, seed)
    save_file(state, folder / "a.safetensors", metadata={"config": config.to_json()})
    convert(folder / "a.safetensors", folder / "b.safetensors")
    model, metadata = load_transformer(folder / "b.safetensors")
    assert model.config == config
    assert same(model.state_dict(), state)
    assert "trained_roles" not in metadata  # only the eight domains have published patterns


EIGHT = json.dumps(DOMAIN_NAMES)


def test_one_source_makes_one_file(tmp_path, out):
    """Byte for byte: metadata is handed out in any order, and stands in one."""
    path, again = tmp_path / "a.safetensors", out.with_name("again.safetensors")
    about = {"config": TINY.to_json(), **{f"note {n}": str(n) for n in range(20)}}
    save_file(random_state(JodiTransformer, TINY), path, metadata=about)
    convert(path, out)
    for _ in range(3):
        convert(path, again, force=True)
        assert again.read_bytes() == out.read_bytes()
    (length,) = struct.unpack("<Q", out.read_bytes()[:8])
    metadata = json.loads(out.read_bytes()[8 : 8 + length])["__metadata__"]
    assert list(metadata) == sorted(metadata) and len(metadata) > 20


def test_metadata_of_the_source_is_kept(out, tmp_path):
    path = tmp_path / "a.safetensors"
    kept = {"config": TINY.to_json(), "trained_roles": "any", "domains": EIGHT, "kind": "old"}
    save_file(random_state(JodiTransformer, TINY), path, metadata=kept)
    convert(path, out)
    metadata = read_state_dict(out).metadata
    assert (metadata["trained_roles"], metadata["domains"]) == ("any", EIGHT)
    assert metadata["kind"] == "jodi"


@pytest.mark.parametrize("came", autoencoder_keys.NAMINGS)
@pytest.mark.parametrize("naming", autoencoder_keys.NAMINGS)
def test_autoencoder_to_either_naming(tmp_path, out, came, naming):
    state = random_state(DCAE, TINY_AE)
    path = tmp_path / "vae.safetensors"
    stored = {n: t.contiguous() for n, t in autoencoder_keys.to_naming(state, came).items()}
    save_file(stored, path, metadata={"config": TINY_AE.to_json()})
    report = convert(path, out, naming=naming)
    assert report.kind == "dcae"
    assert same(load_file(out), autoencoder_keys.to_naming(state, naming))
    assert "trained_roles" not in read_state_dict(out).metadata
    model, _ = load_autoencoder(out)
    assert model.config == TINY_AE
    assert same(model.state_dict(), state)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["dcae", "dcae_diffusers"])
def test_reference_autoencoder_both_ways(reference_dir, tmp_path, name):
    original = reference_dir / "dcae" / f"{name}.safetensors"
    other, back = tmp_path / "other.safetensors", tmp_path / "back.safetensors"
    here, there = autoencoder_keys.NAMINGS[:: -1 if "diffusers" in name else 1]
    convert(original, other, naming=there)
    assert not set(load_file(other)) & set(load_file(original))
    convert(other, back, naming=here)
    assert same(load_file(back), load_file(original))
    one, _ = load_autoencoder(original)
    two, _ = load_autoencoder(other)
    assert one.config == two.config
    picture = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.equal(one.encode(picture), two.encode(picture))


@pytest.mark.reference
def test_reference_transformer(reference_dir, out):
    original = reference_dir / "jodi" / "model.safetensors"
    convert(original, out)
    assert same(load_file(out), load_file(original))
    assert load_transformer(out)[0].config == load_transformer(original)[0].config


class TestNeverHalfAFile:
    def refused(self, *args, match, **kwargs):
        with pytest.raises(CheckpointError, match=match):
            convert(*args, config=TINY, **kwargs)

    def left_alone(self, out):
        assert list(out.parent.iterdir()) == []

    def test_existing_file_is_kept_without_force(self, source, out):
        out.write_text("precious")
        self.refused(source, out, match="exists and is left")
        assert out.read_text() == "precious"
        assert list(out.parent.iterdir()) == [out]
        convert(source, out, config=TINY, force=True)
        assert len(load_file(out)) == len(JodiTransformer(TINY, device="meta").state_dict())

    def test_a_file_that_appears_meanwhile_is_kept(self, source, out):
        def interfere(*_):
            out.write_text("precious")

        self.refused(source, out, match="exists and is left", progress=interfere)
        assert out.read_text() == "precious"
        assert list(out.parent.iterdir()) == [out]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
    @pytest.mark.parametrize("force", [False, True])
    def test_stopped_in_the_middle(self, source, out, error, force):
        if force:
            out.write_text("old")

        def stop(done, total):
            assert [p for p in out.parent.iterdir() if p.suffix == ".part"]
            if done > total // 2:
                raise error

        with pytest.raises(error):
            convert(source, out, config=TINY, progress=stop, force=force)
        assert list(out.parent.iterdir()) == ([out] if force else [])
        assert not force or out.read_text() == "old"

    @pytest.mark.skipif(os.name == "nt", reason="no interrupt signal for one process")
    @pytest.mark.slow
    def test_ctrl_c_on_a_running_program(self, source, out):
        """A real interrupt signal, to a real process, while it writes."""
        program = (
            # A program that was started with interrupts ignored, as by nohup, inherits that.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
            "import sys, time; sys.path.insert(0, sys.argv[1]); import conftest;"
            "from jodi_pack.kit.weights.write import write_state_dict; import torch;"
            "write_state_dict(sys.argv[2], {str(i): torch.ones(9) for i in range(999)}, {},"
            "progress=lambda *a: (print(a, flush=True), time.sleep(0.1)))"
        )
        tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        process = subprocess.Popen(
            [sys.executable, "-c", program, tests, str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Started under nohup or in the background, the tests ignore it, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        process.stdout.readline()  # it is writing now
        assert len(list(out.parent.iterdir())) == 1
        process.send_signal(2)
        assert process.wait(timeout=30) != 0
        process.stdout.close()
        self.left_alone(out)

    def test_broken_source_writes_nothing(self, source, out, tmp_path):
        state = torch.load(source, weights_only=True)["state_dict"]
        del state["t_block.1.bias"]
        torch.save(state, source)
        self.refused(source, out, match="missing 1")
        self.left_alone(out)

    def test_values_that_do_not_fit_write_nothing(self, source, out):
        state = torch.load(source, weights_only=True)["state_dict"]
        state["blocks.0.mlp.depth_conv.conv.weight"][0] = 1e6
        torch.save(state, source)
        self.refused(source, out, dtype="fp16", match="depth_conv.* more than float16")
        self.left_alone(out)
        state["blocks.0.mlp.depth_conv.conv.weight"][0] = float("nan")
        torch.save(state, source)
        self.refused(source, out, match="not finite")
        self.left_alone(out)

    def test_places_that_are_no_files(self, source, out):
        self.refused(source, out.parent / "no" / "x.safetensors", match="no folder")
        self.refused(source, out.with_suffix(".pth"), match="let its name end so")
        folder = out.parent / "d.safetensors"
        folder.mkdir()
        self.refused(source, folder, match="is a folder")

    def test_full_disk_is_said_beforehand(self, out):
        huge = torch.ones(1).expand(10**16)  # 40 petabytes by name, one value in memory
        with pytest.raises(CheckpointError, match=r"needs 40,000,000,000,.* bytes, its disk has"):
            write_state_dict(out, {"a": huge}, {})
        self.left_alone(out)

    def test_write_error_is_named(self, out):
        """The kernel's own limit on file size stands for a disk that fills up."""
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(CheckpointError, match=r"could not be written \(File too large\)"):
                write_state_dict(out, {"a": torch.ones(100_000)}, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.left_alone(out)

    def test_wrong_choices(self, source, out):
        self.refused(source, out, dtype="int8", match="cannot be stored as int8; use float32")
        self.refused(source, out, dtype=torch.int8, match="cannot be stored as torch.int8")
        with pytest.raises(CheckpointError, match="needs a TransformerConfig"):
            convert(source, out, config=TINY_AE)
        self.left_alone(out)


class TestWriter:
    def test_every_dtype_and_shape_comes_back(self, out):
        tensors = {
            "scalar": torch.tensor(3.5),
            "empty": torch.empty(0, 4),
            "flag": torch.tensor([True, False, True]),
            "small": torch.arange(5, dtype=torch.uint8),
            "long": torch.arange(7),
            "strided": torch.randn(6, 4).t(),
            "double": torch.randn(3, dtype=torch.float64),
            "half": torch.randn(3).half(),
            "brain": torch.randn(5).bfloat16(),
            "ünïcode": torch.randn(2),
        }
        size = write_state_dict(out, tensors, {"a": "ü", "b": 1})
        assert size == out.stat().st_size
        assert same(load_file(out), tensors)
        found, metadata = read_state_dict(out)
        assert same(found, tensors)
        assert metadata == {"a": "ü", "b": "1"}

    def test_tensors_are_aligned_for_mapping(self, out):
        write_state_dict(
            out, {"a": torch.ones(1).half(), "b": torch.ones(3), "c": torch.ones(1)}, {}
        )
        data = out.read_bytes()
        header_bytes = int.from_bytes(data[:8], "little")
        assert header_bytes % 8 == 0
        header = json.loads(data[8 : 8 + header_bytes])
        assert header["a"]["data_offsets"] == [16, 18]

    def test_only_floats_are_cast(self, out):
        write_state_dict(out, {"f": torch.ones(2), "i": torch.arange(2)}, {}, dtype=torch.float16)
        found = load_file(out)
        assert (found["f"].dtype, found["i"].dtype) == (torch.float16, torch.int64)

    def test_unwritable_dtype(self, out):
        with pytest.raises(CheckpointError, match=r"z cannot be written as torch\.complex64"):
            write_state_dict(out, {"z": torch.ones(1, dtype=torch.complex64)}, {})

    def test_permissions_follow_the_users_mask(self, out):
        plain = out.with_name("plain")
        plain.touch()
        write_state_dict(out, {"a": torch.ones(1)}, {})
        assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    def test_progress_ends_at_the_total(self, out):
        seen = []
        write_state_dict(
            out,
            {"a": torch.ones(4), "b": torch.ones(2)},
            {},
            progress=lambda *at: seen.append(at),
        )
        assert seen == [(16, 24), (24, 24)]

    def test_atomic_file_for_other_content(self, tmp_path):
        path = tmp_path / "x.bin"
        with replace_weights_file(path) as file:
            file.write(b"abc")
            assert not path.exists()
        assert path.read_bytes() == b"abc"
        assert list(tmp_path.iterdir()) == [path]
