"""`jodi bench kernels --tune` reaches the kernels, with every tile setting it knows."""

import os
from types import SimpleNamespace

import pytest
import torch
from jodi_pack.benchmarks import kernels as benchmark
from jodi_pack.cli import bench
from jodi_pack.cli.main import main
from jodi_pack.kernels import selection

if not torch.cuda.is_available():
    # Triton settles this when it is imported: test files are read before any test runs.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.mark.parametrize("tune", [True, False])
def test_the_option_reaches_the_benchmark(tune, monkeypatch):
    asked = []
    record = SimpleNamespace(run=lambda options: asked.append(options) or {})
    monkeypatch.setattr(bench, "kernels", record)
    assert main(["bench", "kernels", *(["--tune"] if tune else [])]) == 0
    assert asked[0].tune is tune


def test_the_option_is_of_the_kernels_alone(capsys):
    assert main(["bench", "--tune"]) == 2
    assert "jodi bench kernels --tune" in capsys.readouterr().err


@pytest.mark.slow
def test_every_tile_setting_runs(monkeypatch):
    """In the interpreter where there is no GPU: the clock alone is replaced there."""
    pytest.importorskip("triton")
    on_gpu = torch.cuda.is_available()
    monkeypatch.setattr(benchmark, "WIDTH", 64)
    monkeypatch.setattr(benchmark, "HIDDEN", 20)
    monkeypatch.setattr(benchmark, "COLD_BYTES", 0)
    ran = []

    def run_once(calls, rounds):
        ran.append([call() for call in calls])
        return 1e-3

    if not on_gpu:
        monkeypatch.setattr(benchmark, "_device_seconds", run_once)
    device = "cuda" if on_gpu else "cpu"
    assert on_gpu or selection.obstacle("cpu") is None
    for case in benchmark.cases(torch.float32, device, domains=(2,), grid=(1, 2))[:4]:
        benchmark.check(case)
        figures = benchmark._tune(case, 2, lambda line: None)
        assert len(figures) == len(benchmark.CANDIDATES[case.module])
        assert all(key.startswith(f"tune.{case.key}.") and figures[key] > 0 for key in figures)
    assert on_gpu or len(ran) == 4 + 2 * 4 + 8
