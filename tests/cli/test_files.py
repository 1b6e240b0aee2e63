"""`jodi info`, `convert` and `verify` on real files."""

import pytest
import torch
from jodi_pack.kit.autoencoder.checkpoint import load_autoencoder
from jodi_pack.kit.weights.read import read_state_dict
from safetensors.torch import save_file


def test_info_of_each_part(jodi, tiny):
    status, out, err = jodi("info", tiny.transformer, tiny.autoencoder, tiny.text)
    assert (status, err) == (0, [])
    text = "\n".join(out)
    assert "a Jodi transformer, whole (jodi-nano)" in text and "any (any mix" in text
    assert "8: image, lineart, edge" in text and "width 64, 2 blocks" in text
    assert "8 pixels a latent cell, 4 channels" in text and "closed vocabulary" in text
    weights = read_state_dict(tiny.transformer).tensors
    assert f"{sum(t.numel() for t in weights.values()):,} in {len(weights)} tensors" in text
    assert "float16" in text


@pytest.mark.long
def test_info_of_a_picture_shows_its_settings(jodi, tiny, picture):
    few = (*tiny.options, "--steps", 1, "--seed", 11, "--labels", "depth", "--out", "made")
    jodi("perceive", picture("a.png"), *few)
    status, out, _ = jodi("info", "made/a_depth.png")
    assert status == 0 and any(line.split() == ["seed:", "11"] for line in out)


def test_info_names_what_is_no_use_and_goes_on(jodi, tiny, picture, tmp_path):
    plain, page = picture("plain.png"), tmp_path / "model.safetensors"
    page.write_text("<!DOCTYPE html><html>not found</html>")
    status, out, err = jodi("info", plain, page, tiny.autoencoder)
    assert status == 1 and "DC-AE" in "\n".join(out)
    assert err[0] == "2 failed:" and "without settings" in err[1] and "web page" in err[2]


def test_info_of_the_machine(jodi):
    _, out, _ = jodi("info")
    assert any(line.startswith("torch:") and torch.__version__ in line for line in out)
    assert any(line.startswith("class 11:") for line in out)


@pytest.mark.slow
def test_convert_there_and_back(jodi, tiny):
    status, out, err = jodi("convert", tiny.autoencoder, "d.safetensors", "--naming", "diffusers")
    assert (status, out) == (0, ["d.safetensors"]) and "sha256" in err[-1]
    assert jodi("convert", "d.safetensors", "m.safetensors", "--dtype", "fp32")[0] == 0
    model, metadata = load_autoencoder("m.safetensors")
    original, _ = load_autoencoder(tiny.autoencoder, dtype=torch.float32)
    assert metadata["dtype"] == "float32"
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.long
def test_convert_leaves_an_existing_file_alone(jodi, tiny, tmp_path):
    kept = tmp_path / "work" / "kept.safetensors"
    kept.write_text("mine")
    status, _, err = jodi("convert", tiny.autoencoder, kept)
    assert status == 1 and "exists" in err[-1] and kept.read_text() == "mine"
    assert jodi("convert", tiny.autoencoder, kept, "--force")[0] == 0
    assert load_autoencoder(kept)


@pytest.fixture
def vectors(tiny, tmp_path):
    """A folder of vectors made with the tiny autoencoder: (folder, cases)."""
    folder = tmp_path / "vectors"
    (folder / "dcae").mkdir(parents=True)
    (folder / "dcae/dcae.safetensors").write_bytes(tiny.autoencoder.read_bytes())
    model, _ = load_autoencoder(tiny.autoencoder, dtype=torch.float32)
    with torch.inference_mode():
        image, latent = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(1, 4, 4, 4)
        scale = model.config.scaling_factor
        encoded, decoded = model.encode(image) / scale, model.decode(latent * scale)
    cases = {"image": image, "latent": latent, "encoded": encoded, "decoded": decoded}
    return folder, {f"case0.{key}": value.clone().contiguous() for key, value in cases.items()}


@pytest.mark.slow
def test_verify_counts_and_passes(jodi, vectors):
    folder, cases = vectors
    (folder / "other").mkdir()
    save_file(cases, folder / "dcae/dcae_cases.safetensors")
    status, out, _ = jodi("verify", folder)
    assert status == 0 and out[-1] == "2 passed, 0 failed"
    assert [line.split()[0] for line in out[:-1]] == ["PASS", "PASS", "SKIP"]


@pytest.mark.long
def test_verify_fails_on_a_wrong_number(jodi, vectors):
    folder, cases = vectors
    cases["case0.decoded"][0, 0, 0, 0] += 0.1
    save_file(cases, folder / "dcae/dcae_cases.safetensors")
    status, out, _ = jodi("verify", folder)
    assert status == 1 and out[-1] == "1 passed, 1 failed"


def test_verify_of_nothing_is_a_failure(jodi, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, _ = jodi("verify", tmp_path / "empty")
    assert (status, out) == (1, ["0 passed, 0 failed"])
    status, _, err = jodi("verify", tmp_path / "missing")
    assert status == 1 and "missing" in err[-1]


@pytest.mark.slow
@pytest.mark.reference
def test_verify_looks_beside_the_project(jodi, reference_dir, monkeypatch, tmp_path):
    shared = tmp_path / "shared" / "reference"
    shared.mkdir(parents=True)
    (shared / "dcae").symlink_to(reference_dir / "dcae")
    monkeypatch.setattr("jodi_pack.cli.verify.ROOT", tmp_path / "project")
    status, out, _ = jodi("verify")
    assert status == 0 and out[-1].endswith(" passed, 0 failed")
