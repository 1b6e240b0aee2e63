"""Verification passes on the published vectors, on other sizes, and never on a wrong output."""

import dataclasses
import json
import shutil

import pytest
import torch
from jodi_pack.jodi_core.evaluation.verify import verify
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.errors import JodiError, ShapeError
from jodi_pack.kit.sampling import make_flow_sigmas
from jodi_pack.kit.vectors import EVALUATION_BOUND, SAMPLING_BOUND, relative_rms
from jodi_pack.tests.helpers import TINY_AE, TINY_PATCH2, randn, tiny_autoencoder, tiny_transformer
from jodi_pack.tests.jodi_core.transformer_oracle import published_velocity
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CONFIGS = {
    "patch 2, 3 labels, 3 channels": TINY_PATCH2,
    "patch 1, 1 label, 7 channels": dataclasses.replace(
        TINY_PATCH2, patch_size=1, num_labels=1, latent_channels=7, depth=1
    ),
}


def oracle(model, case):
    return published_velocity(
        model.state_dict(), model.config, case["x"], case["timestep"], case["caption"],
        case["caption_mask"], case["role"], case["clean_x"],
    )  # fmt: skip


def random_case(config, roles, grid, seed):
    batch = len(roles)
    shape = (batch, config.num_domains, config.latent_channels, *grid)
    mask = (randn(batch, config.caption_length, seed=seed) > 0).long()
    mask[:, 0] = 1
    return {
        "x": randn(*shape, seed=seed + 1),
        "clean_x": randn(*shape, seed=seed + 2),
        "timestep": torch.linspace(20.5, 980.25, batch),
        "caption": randn(batch, 1, config.caption_length, config.caption_channels, seed=seed + 3),
        "caption_mask": mask,
        "role": torch.tensor(roles),
    }


def published_run(model, case, negative, steps, guidance, shift):
    """A sampling run as published: both halves, the noise detour left out, all slots integrated."""
    x, given = case["x"].double(), (case["role"] == 1)[:, :, None, None, None]
    sigmas, previous = make_flow_sigmas(steps, shift), None
    for k in range(steps):
        s, t = sigmas[k], sigmas[k + 1]
        now = {**case, "x": x, "timestep": torch.full((len(x),), 1000 * s, dtype=torch.float64)}
        velocity = oracle(model, now)
        if guidance != 1:
            uncond = oracle(model, {**now, "caption": negative})
            velocity = uncond + guidance * (velocity - uncond)
        clean = x - s * velocity
        mixed = clean
        if 0 < k < steps - 1:
            log_snr = [torch.tensor((1 - v) / v).log() for v in (sigmas[k - 1], s, t)]
            half = 0.5 * (log_snr[2] - log_snr[1]) / (log_snr[1] - log_snr[0])
            mixed = (1 + half) * clean - half * previous
        x, previous = (t / s) * x + (1 - t / s) * mixed, clean
    return torch.where(given, case["clean_x"].double(), x)


def flat(groups):
    return {f"{g}.{k}": v.contiguous() for g, case in groups.items() for k, v in case.items()}


def write_jodi_folder(folder, config):
    folder.mkdir(parents=True)
    model = tiny_transformer(config)
    save_file(model.state_dict(), folder / "model.safetensors", {"config": config.to_json()})
    free = [2] * (config.num_domains - 2)
    cases = {}
    # The last row generates nothing: legal for the published code, meaningless everywhere.
    for i, roles in enumerate([[[0, 1, *free]], [[1, 0, *free], [0, 0, *free], [1, 2, *free]]]):
        case = random_case(config, roles, (2, 4), 10 * i)
        cases[f"case{i}"] = {**case, "output": oracle(model, case).float()}
    save_file(flat(cases), folder / "cases.safetensors")
    runs, settings = {}, []
    for i, (roles, steps, guidance) in enumerate([([0, 1], 4, 2.5), ([1, 0], 3, 1.0)]):
        run = random_case(config, [roles + free], (2, 2), 100 + i)
        negative = randn(*run["caption"].shape, seed=200 + i)
        sample = published_run(model, run, negative, steps, guidance, 2.0)
        noise = run.pop("x")
        runs[f"run{i}"] = {
            **run, "noise": noise, "negative_caption": negative, "sample": sample.float()
        }  # fmt: skip
        settings.append({"run": i, "steps": steps, "guidance": guidance, "flow_shift": 2.0})
    save_file(flat(runs), folder / "sampling.safetensors", {"runs": json.dumps(settings)})


def change(path, edit):
    """Rewrite a file of vectors after `edit` changed its tensors or its metadata in place."""
    with safe_open(path, "pt") as f:
        metadata = f.metadata() or {}
    tensors = load_file(path)
    edit(tensors, metadata)
    save_file(tensors, path, metadata)


def statuses(folder):
    return {result.name: result.status for result in verify(folder)}


@pytest.mark.long
@pytest.mark.reference
def test_passes_on_the_published_vectors(reference_dir):
    results = {r.name: r for r in verify(reference_dir)}
    jodi = [r for name, r in results.items() if name.startswith("jodi/")]
    dcae = [r for name, r in results.items() if name.startswith("dcae/")]
    assert [r.status for r in jodi] == ["PASS"] * 10 and [r.status for r in dcae] == ["PASS"] * 12
    assert all(r.error <= (SAMPLING_BOUND if "run" in r.name else EVALUATION_BOUND) for r in jodi)
    assert all(r.error <= EVALUATION_BOUND for r in dcae)


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_passes_on_other_sizes(tmp_path, name):
    write_jodi_folder(tmp_path / "jodi", CONFIGS[name])
    results = list(verify(tmp_path))
    assert [r.name for r in results] == ["jodi/case0", "jodi/case1", "jodi/run0", "jodi/run1"]
    assert [r.status for r in results] == ["PASS"] * 4, [str(r) for r in results]
    assert all(0 < r.error < 1e-5 for r in results)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors") / "jodi"
    write_jodi_folder(folder, CONFIGS["patch 1, 1 label, 7 channels"])
    return folder


@pytest.fixture
def jodi_folder(written, tmp_path):
    shutil.copytree(written, tmp_path / "jodi")
    return tmp_path


class TestFailures:
    def test_a_wrong_output_fails_alone(self, jodi_folder):
        def edit(tensors, _):
            tensors["case1.output"][0, 1] *= 1.0001

        change(jodi_folder / "jodi" / "cases.safetensors", edit)
        assert statuses(jodi_folder) == {
            "jodi/case0": "PASS", "jodi/case1": "FAIL", "jodi/run0": "PASS", "jodi/run1": "PASS"
        }  # fmt: skip

    def test_meaningless_slots_are_not_compared(self, jodi_folder):
        def edit(tensors, _):
            tensors["case0.output"][:, 1] = float("nan")  # a condition
            tensors["case1.output"][2] = float("inf")  # a row that generates nothing

        change(jodi_folder / "jodi" / "cases.safetensors", edit)
        assert set(statuses(jodi_folder).values()) == {"PASS"}

    def test_not_a_number_fails(self, jodi_folder):
        def edit(tensors, _):
            tensors["case0.output"][0, 0, 0, 0, 0] = float("nan")

        change(jodi_folder / "jodi" / "cases.safetensors", edit)
        assert statuses(jodi_folder)["jodi/case0"] == "FAIL"

    def test_a_condition_that_was_not_kept_fails(self, jodi_folder):
        def edit(tensors, _):
            tensors["run1.sample"][:, 0] += 1e-3

        change(jodi_folder / "jodi" / "sampling.safetensors", edit)
        assert statuses(jodi_folder)["jodi/run1"] == "FAIL"

    @pytest.mark.parametrize(
        ("settings", "words"), [(None, "no entry for run1"), ({"run": 1}, "steps")]
    )
    def test_a_run_without_its_settings_fails_and_says_so(self, jodi_folder, settings, words):
        def edit(_, metadata):
            runs = json.loads(metadata["runs"])[:1]
            metadata["runs"] = json.dumps([*runs, settings] if settings else runs)

        change(jodi_folder / "jodi" / "sampling.safetensors", edit)
        results = {r.name: r for r in verify(jodi_folder)}
        assert results["jodi/run0"].status == "PASS"
        assert results["jodi/run1"].status == "FAIL" and words in str(results["jodi/run1"])

    def test_a_missing_tensor_fails_and_is_named(self, jodi_folder):
        change(jodi_folder / "jodi" / "cases.safetensors", lambda t, _: t.pop("case0.timestep"))
        results = {r.name: r for r in verify(jodi_folder)}
        assert results["jodi/case0"].status == "FAIL" and "timestep" in results["jodi/case0"].note
        assert results["jodi/case1"].status == "PASS"

    def test_an_output_of_another_shape_fails(self, jodi_folder):
        def edit(tensors, _):
            tensors["case0.output"] = tensors["case0.output"][..., :1].clone()

        change(jodi_folder / "jodi" / "cases.safetensors", edit)
        assert statuses(jodi_folder)["jodi/case0"] == "FAIL"

    def test_an_unreadable_file_fails_and_the_rest_goes_on(self, jodi_folder):
        (jodi_folder / "jodi" / "cases.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
        assert statuses(jodi_folder) == {
            "jodi/cases": "FAIL", "jodi/run0": "PASS", "jodi/run1": "PASS"
        }  # fmt: skip

    def test_a_model_that_cannot_be_loaded_fails_once(self, jodi_folder):
        (jodi_folder / "jodi" / "model.safetensors").unlink()
        assert statuses(jodi_folder) == {"jodi/model": "FAIL"}

    def test_relative_rms_refuses_to_stretch(self):
        with pytest.raises(ShapeError, match=r"\(2, 1\), the reference \(2, 3\)"):
            relative_rms(torch.ones(2, 1), torch.ones(2, 3))
        assert relative_rms(torch.full((4,), 1.1), torch.ones(4)) == pytest.approx(0.1, rel=1e-6)


class TestAutoencoderFolder:
    DEEPER = AutoencoderConfig(
        widths=(8, 8, 16, 16), encoder_depths=(1, 1, 1, 1), decoder_depths=(1, 1, 1, 2),
        block_types=("ResBlock", "ResBlock", "EViTS5_GLU", "EViTS5_GLU"), latent_channels=2,
        scaling_factor=0.7, attention_head_dim=8,
    )  # fmt: skip

    def write(self, folder, config):
        """Vectors of our own float64 model: they prove the reading, not the network."""
        folder.mkdir(parents=True)
        model, exact = tiny_autoencoder(config), tiny_autoencoder(config, dtype=torch.float64)
        f = config.factor
        image = randn(2, 3, 2 * f, f)
        latent = randn(1, config.latent_channels, 3, 4, seed=1)
        case = {"image": image, "latent": latent}
        case["encoded"] = exact.encoder(image.double()).float()
        case["decoded"] = exact.decoder(latent.double()).float()
        save_file(model.state_dict(), folder / "toy.safetensors", {"config": config.to_json()})
        save_file(flat({"case0": case}), folder / "toy_cases.safetensors")

    @pytest.mark.parametrize("config", [TINY_AE, DEEPER], ids=["3 stages", "4 stages"])
    def test_passes_on_other_sizes_and_fails_on_a_wrong_output(self, tmp_path, config):
        folder = tmp_path / "dcae"
        self.write(folder, config)
        names = ("dcae/toy/case0 encode", "dcae/toy/case0 decode")
        assert statuses(tmp_path) == dict.fromkeys(names, "PASS")

        def edit(tensors, _):
            tensors["case0.decoded"][0, 0, 0, 0] += 0.01

        change(folder / "toy_cases.safetensors", edit)
        assert statuses(tmp_path) == dict(zip(names, ("PASS", "FAIL"), strict=True))


class TestFolders:
    def test_what_is_not_supported_is_skipped(self, jodi_folder):
        (jodi_folder / "another").mkdir()
        (jodi_folder / "README.md").write_text("not a folder")
        first, *rest = verify(jodi_folder)
        assert str(first).startswith("SKIP another: ")
        assert [r.status for r in rest] == ["PASS"] * 4

    def test_nothing_to_check_gives_no_result(self, tmp_path):
        assert list(verify(tmp_path)) == []

    def test_no_folder_is_an_error(self, tmp_path):
        with pytest.raises(JodiError, match="there is no folder"):
            list(verify(tmp_path / "nowhere"))

    def test_tf32_settings_are_put_back(self, jodi_folder):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            for _ in verify(jodi_folder):
                assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.backends.cuda.matmul.allow_tf32
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
