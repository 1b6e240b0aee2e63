"""Verification passes on the published vectors, on other sizes, and never on a wrong output."""

import itertools
import json
import random

import pytest
import torch
from jodi_pack.ddit_core.evaluation.verify import SUITES
from jodi_pack.ddit_core.model.config import DDiTConfig
from jodi_pack.ddit_core.model.denoiser import make_published_sigmas
from jodi_pack.kit.vectors import verify_folder
from jodi_pack.tests.ddit_core.small import PATCH_1, SMALL, published, small_model
from jodi_pack.tests.helpers import randn
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.mark.reference
def test_passes_on_the_published_vectors(reference_dir):
    results = [r for r in verify_folder(reference_dir, SUITES) if r.name.startswith("ddit")]
    assert len(results) == 16 and {r.status for r in results} == {"PASS"}


def write_folder(folder, config, *, seed=0, grid=(4, 2), length=5, metadata=True):
    folder.mkdir(parents=True)
    model = small_model(config, seed=seed)
    about = {"config": config.to_json()} if metadata else None
    save_file(model.state_dict(), folder / "transformer.safetensors", about)
    p, tensors = config.patch_size, {}
    for i, time in enumerate(([250.0, 990.0], [0.0, 0.0])):
        case = {
            "latent": randn(2, config.latent_channels, grid[0] * p, grid[1] * p, seed=i),
            "text_features": randn(2, length, config.context_channels, seed=i + 9),
            "timestep": torch.tensor(time),
        }
        velocity, logits = published(model, case["latent"], case["timestep"], case["text_features"])
        case |= {"velocity": velocity.float(), "text_logits": logits.float()}
        tensors |= {f"case{i}.{name}": part for name, part in case.items()}
    x = noise = randn(1, config.latent_channels, grid[1] * p, grid[0] * p, seed=5)
    text, negative = (randn(1, length, config.context_channels, seed=s) for s in (6, 7))
    sigmas, x = make_published_sigmas(3, 2.0), x.double()
    for s, t in itertools.pairwise(sigmas):
        one, other = (published(model, x, [1000 * s], f)[0] for f in (text, negative))
        x = x + (t - s) * (other + 3 * (one - other))
    run = {"noise": noise, "text_features": text, "negative_features": negative}
    run |= {"sigmas": torch.tensor(sigmas), "sample": x.float()}
    tensors |= {f"t2i.{name}": part for name, part in run.items()}
    settings = {"t2i": json.dumps({"steps": 3, "guidance": 3.0, "shift": 2.0})}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, folder / "cases.safetensors", settings
    )


def statuses(folder):
    return {r.name: r.status for r in verify_folder(folder, SUITES)}


NAMES = (
    *(f"ddit/case0 {part}" for part in ("velocity", "velocity alone", "text_logits")),
    *(f"ddit/case1 {part}" for part in ("velocity", "velocity alone", "text_logits")),
    "ddit/case1 text_logits alone",
    "ddit/t2i sigmas",
    "ddit/t2i",
)


@pytest.mark.parametrize("config", [SMALL, PATCH_1], ids=["patch 2", "patch 1"])
def test_passes_on_other_sizes(tmp_path, config):
    write_folder(tmp_path / "ddit", config)
    assert statuses(tmp_path) == dict.fromkeys(NAMES, "PASS")


def random_sizes(seed):
    """Sizes of a network and of its inputs that no file at hand has."""
    draw = random.Random(seed)
    heads, head = draw.randint(1, 5), draw.choice((6, 10, 16, 64))
    rows, columns = draw.randint(1, 5), draw.randint(1, 7)
    config = DDiTConfig(
        hidden_size=heads * head,
        depth=draw.randint(1, 5),
        num_heads=heads,
        context_channels=draw.randint(1, 70),
        vocab_size=draw.randint(4, 300),
        mlp_size=draw.randint(1, 200),
        latent_channels=draw.choice((1, 4, 16, 32)),
        patch_size=draw.choice((1, 2, 3, 4)),
        position_size=max(rows, columns) + draw.randint(0, 9),
        frequency_size=draw.choice((2, 30, 256)),
        null_tokens=draw.randint(1, 9),
    )
    return config, {"grid": (rows, columns), "length": draw.randint(1, 20)}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_passes_on_sizes_drawn_at_random(tmp_path, seed):
    config, inputs = random_sizes(seed)
    stated = seed % 2 == 0 or config.head_dim != 64
    write_folder(tmp_path / "ddit", config, seed=seed, metadata=stated, **inputs)
    failed = [str(r) for r in verify_folder(tmp_path, SUITES) if r.status != "PASS"]
    assert not failed, (config, inputs, failed)


def test_words_without_a_stated_time_and_a_case_that_lacks_its_inputs(tmp_path):
    write_folder(tmp_path / "ddit", PATCH_1)
    path = tmp_path / "ddit" / "cases.safetensors"
    tensors = load_file(path)
    for name in ("case1.timestep", "case1.velocity", "case0.latent"):
        del tensors[name]
    save_file(tensors, path)
    found = statuses(tmp_path)
    assert found["ddit/case1 text_logits"] == found["ddit/case1 text_logits alone"] == "PASS"
    assert found["ddit/case0 velocity"] == found["ddit/case0 text_logits"] == "FAIL"


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ("case0.velocity", {"ddit/case0 velocity", "ddit/case0 velocity alone"}),
        ("case1.text_logits", {"ddit/case1 text_logits", "ddit/case1 text_logits alone"}),
        ("t2i.sigmas", {"ddit/t2i sigmas"}),
        ("t2i.sample", {"ddit/t2i"}),
    ],
)
def test_a_wrong_output_fails_alone(tmp_path, change, fails):
    write_folder(tmp_path / "ddit", PATCH_1)
    path = tmp_path / "ddit" / "cases.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors[change].view(-1)[1] *= 1.01
    save_file(tensors, path, metadata)
    assert {name for name, status in statuses(tmp_path).items() if status == "FAIL"} == fails


def test_a_run_without_settings_fails_and_says_so(tmp_path):
    write_folder(tmp_path / "ddit", PATCH_1)
    path = tmp_path / "ddit" / "cases.safetensors"
    save_file(load_file(path), path)
    results = {r.name: r for r in verify_folder(tmp_path, SUITES)}
    assert results["ddit/t2i"].status == "FAIL" and "no entry 't2i'" in results["ddit/t2i"].note
    assert results["ddit/case0 velocity"].status == "PASS"


def test_a_folder_without_weights_fails_once(tmp_path):
    (tmp_path / "ddit").mkdir()
    assert statuses(tmp_path) == {"ddit/transformer": "FAIL"}
