"""The kernels' benchmark: it compares what is equal, and refuses where there is nothing to time."""

import importlib

import pytest
import torch
from jodi_pack.benchmarks import kernels as benchmark
from jodi_pack.kernels import selection
from jodi_pack.kit.errors import JodiError


def test_without_a_gpu_it_refuses(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(JodiError, match="measured on a CUDA device, and torch sees none"):
        benchmark.run()


@pytest.fixture
def small_cases(device, monkeypatch):
    monkeypatch.setattr(benchmark, "WIDTH", 64)
    monkeypatch.setattr(benchmark, "HIDDEN", 20)
    return benchmark.cases(torch.float32, device, domains=(2,), grid=(1, 2))


def test_both_sides_compute_the_same(small_cases):
    assert {case.name for case in small_cases} == {
        "relu_linear_attention",
        "layer_norm_modulate",
        "gated_residual_norm_modulate",
        "depthwise_conv3x3_glu",
        "rms_norm_channels",
    }
    keys = [case.key for case in small_cases]
    assert len(set(keys)) == len(keys)
    assert keys[0] == "kernel.relu_linear_attention.2x2.fp32.cuda"
    for case in small_cases[:4]:
        assert benchmark.check(case) < 2e-6


def test_sides_that_differ_are_not_timed(small_cases, monkeypatch):
    from jodi_pack.kernels import triton_layer_norm

    case = small_cases[1]
    assert case.name == "layer_norm_modulate"
    monkeypatch.setattr(triton_layer_norm, "layer_norm_modulate", lambda x, *_: 1.1 * x)
    with pytest.raises(JodiError, match="differ by"):
        benchmark.check(case)


@pytest.mark.usefixtures("device")
def test_other_tiles_exist_and_are_put_back():
    for module, settings in benchmark.CANDIDATES.items():
        target = importlib.import_module(f"jodi_pack.kernels.{module}")  # as its first run does
        for setting in settings:
            before = {name: getattr(target, name) for name in setting}
            with benchmark._tiles(module, setting):
                assert {name: getattr(target, name) for name in setting} == setting
            assert {name: getattr(target, name) for name in setting} == before


@pytest.mark.gpu
def test_figures_on_a_gpu(gpu):
    assert selection.obstacle(gpu) is None
    figures = benchmark.run(type("Options", (), {"repeat": 3}))
    ratios = [key for key in figures if key.startswith("ratio.kernel.")]
    assert len(ratios) == 10
    assert all(figures[key] > 0 for key in ratios)
