"""The baseline is the published function, in the published structure, and equal to ours."""

import dataclasses
import json

import pytest
import torch
from jodi_pack.benchmarks.baseline_autoencoder import BaselineAutoencoder
from jodi_pack.benchmarks.baseline_pipeline import BaselinePipeline
from jodi_pack.benchmarks.baseline_transformer import BaselineTransformer
from jodi_pack.benchmarks.cases import TASK_STEPS, TASKS, TINY, Case
from jodi_pack.benchmarks.measure import case_bound, check_equal, difference
from jodi_pack.benchmarks.subjects import Subject, random_state
from jodi_pack.jodi_core.model.checkpoint import load_transformer
from jodi_pack.jodi_core.roles import Role
from jodi_pack.jodi_core.text import TextFeatures
from jodi_pack.kit.autoencoder.checkpoint import load_autoencoder
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.sampling import make_flow_sigmas, sample_dpmpp_2m
from jodi_pack.kit.vectors import EVALUATION_BOUND, SAMPLING_BOUND, relative_rms
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

FIELDS = ("x", "timestep", "caption", "caption_mask", "role", "clean_x")
PUBLISHED_OPERATIONS = 4416


@pytest.fixture(scope="module")
def tiny() -> Subject:
    return Subject("tiny", "fp32", "cpu")


def read_cases(path):
    cases = {}
    with safe_open(path, "pt") as f:
        for key in f.keys():  # noqa: SIM118  (safe_open is no mapping)
            name, _, field = key.partition(".")
            cases.setdefault(name, {})[field] = f.get_tensor(key)
        return cases, f.metadata() or {}


def baseline_network(reference_dir) -> BaselineTransformer:
    ours, _ = load_transformer(reference_dir / "jodi/model.safetensors", dtype=torch.float32)
    baseline = BaselineTransformer(ours.config, device="meta")
    baseline.load_state_dict(ours.state_dict(), assign=True)
    return baseline.eval()


@pytest.mark.reference
@pytest.mark.slow
def test_network_passes_the_reference_vectors(reference_dir):
    baseline = baseline_network(reference_dir)
    cases, _ = read_cases(reference_dir / "jodi/cases.safetensors")
    assert cases
    for name, case in cases.items():
        generated = case["role"] == Role.GENERATE
        with torch.inference_mode():
            out = baseline(*(case[field] for field in FIELDS))
        assert relative_rms(out[generated], case["output"][generated]) <= EVALUATION_BOUND, name


@pytest.mark.reference
@pytest.mark.slow
def test_sampling_passes_the_reference_vectors(reference_dir):
    network = baseline_network(reference_dir)
    pipeline = BaselinePipeline(network, torch.nn.Module())
    runs, metadata = read_cases(reference_dir / "jodi/sampling.safetensors")
    settings = {f"run{s['run']}": s for s in json.loads(metadata["runs"])}
    assert runs
    for name, run in runs.items():
        noise, setting = run["noise"], settings[name]
        role = run["role"].expand(len(noise), -1)
        clean = run["clean_x"].expand_as(noise)
        text = TextFeatures(run["caption"], run["caption_mask"])
        negative = TextFeatures(run.get("negative_caption", run["caption"]), run["caption_mask"])

        def denoise(x, sigma, role=role, clean=clean, texts=(text, negative), setting=setting):
            v = pipeline.velocity(x, sigma, clean, role, *texts, setting["guidance"])
            return x - sigma * v

        with torch.inference_mode():
            sigmas = make_flow_sigmas(setting["steps"], setting["flow_shift"])
            out = sample_dpmpp_2m(denoise, noise, sigmas)
        generated = role == Role.GENERATE
        assert relative_rms(out[generated], run["sample"][generated]) <= SAMPLING_BOUND, name


@pytest.mark.reference
def test_autoencoder_passes_the_reference_vectors(reference_dir):
    paths = sorted((reference_dir / "dcae").glob("*_cases.safetensors"))
    assert paths
    for path in paths:
        ours, _ = load_autoencoder(
            path.with_name(path.name.replace("_cases", "")), dtype=torch.float32
        )
        baseline = BaselineAutoencoder(ours.config, device="meta")
        baseline.load_state_dict(ours.state_dict(), assign=True)
        cases, _ = read_cases(path)
        scale = ours.config.scaling_factor
        for name, case in cases.items():
            with torch.inference_mode():
                encoded = baseline.encode(case["image"]) / scale
                decoded = baseline.decode(case["latent"] * scale)
            assert relative_rms(encoded, case["encoded"]) <= EVALUATION_BOUND, name
            assert relative_rms(decoded, case["decoded"]) <= EVALUATION_BOUND, name


@pytest.mark.slow
def test_both_sides_are_equal():
    assert 0 < check_equal("cpu") <= 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_both_sides_are_equal_for_any_roles(tiny, seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    roles = torch.randint(0, 3, (8,), generator=generator)
    roles[torch.randint(0, 8, (1,), generator=generator)] = Role.GENERATE
    plan = type(TASKS["joint"])(tuple(Role(int(r)) for r in roles))
    monkeypatch.setitem(TASKS, "joint", plan)
    for kind in ("step", "step_guided"):
        assert difference(tiny, Case(kind, "joint", "tiny", 64, "fp32", "cpu"), seed) <= 1e-5


def test_a_difference_is_refused():
    """Were ours to compute something else, no ratio would be measured."""
    subject = Subject("tiny", "fp32", "cpu")
    case = Case("step", "perceive1", "tiny", 64, "fp32", "cpu")
    table = subject.baseline.transformer.blocks[3].scale_shift_table
    subject.baseline.transformer.blocks[3].scale_shift_table = torch.nn.Parameter(table + 0.01)
    with pytest.raises(JodiError, match="no ratio is measured"):
        difference(subject, case)


def test_a_difference_in_half_precision_is_refused(monkeypatch):
    """Unlike functions are told from unlike rounding: here time, rounded on one side alone."""
    subject = Subject("tiny", "bf16", "cpu")
    case = Case("step", "joint", "tiny", 64, "bf16", "cpu")
    near = difference(subject, case, repetition=1)
    assert 1e-3 < near < case_bound(case) / 3
    with pytest.raises(JodiError, match=f"{case.key}: ours and the baseline differ"):
        monkeypatch.setattr(Subject, "rounded", False)
        difference(subject, case, repetition=1)


def test_requests_are_compared_and_bounded(monkeypatch):
    """Guided or not, they differ by far less than the bound, and by more than nothing."""
    monkeypatch.setitem(TASK_STEPS, "perceive7", 2)
    for dtype in ("fp32", "bf16"):
        subject = Subject("tiny", dtype, "cpu")
        for kind in ("request", "request_guided"):
            case = Case(kind, "perceive7", "tiny", 64, dtype, "cpu")
            assert 0 < difference(subject, case) < case_bound(case) / 2


def test_weights_are_shared(tiny):
    """Two sets of the released weights would not fit the memory that a run may take."""
    theirs = tiny.baseline.transformer.state_dict()
    ours = tiny.ours.transformer.state_dict()
    assert ours.keys() == theirs.keys()
    shared = [name for name in ours if ours[name].data_ptr() == theirs[name].data_ptr()]
    size = sum(ours[name].numel() for name in shared)
    assert size > 0.99 * sum(t.numel() for t in ours.values())


class Operations(TorchDispatchMode):
    """Counts operations that are no views: each is at least one launch on a GPU."""

    VIEWS = ("aten::_unsafe_view", "aten::promote_types")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and func._schema.name not in self.VIEWS
        return func(*args, **(kwargs or {}))


def test_operations_are_about_as_many_as_the_published_codes():
    """Not more, or the baseline would be slower by construction; not far fewer."""
    config = dataclasses.replace(TINY, depth=20)
    model = BaselineTransformer(config, device="meta", dtype=torch.bfloat16)
    model.load_state_dict(random_state(model, torch.device("cpu")), assign=True)
    shape = (1, 8, config.latent_channels, 4, 4)
    x, clean = torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16()
    caption = torch.randn(1, 1, config.caption_length, config.caption_channels).bfloat16()
    mask, role = torch.ones(1, config.caption_length), TASKS["joint"].as_tensor(1)
    with torch.no_grad(), Operations() as operations:
        model(x, torch.tensor([500.0]), caption, mask, role, clean)
    assert 0.9 * PUBLISHED_OPERATIONS <= operations.count <= PUBLISHED_OPERATIONS
