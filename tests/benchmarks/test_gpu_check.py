"""`make gpu-check` without a GPU: every step runs at a tiny size, and the table says so."""

import json
import os
import time

import pytest
import torch
from jodi_pack.benchmarks import gpu_check
from jodi_pack.cli.main import main

if not torch.cuda.is_available():
    # Triton settles this when it is imported: test files are read before any test runs.
    os.environ["TRITON_INTERPRET"] = "1"

pytestmark = [
    pytest.mark.interpreted,
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: `make gpu-check` itself"),
]


@pytest.mark.slow
def test_a_dry_run_does_every_step_and_keeps_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_check, "_tests", lambda *_: iter([{"tests.gpu": "passed"}]))
    file = tmp_path / "figures.json"
    assert main(["bench", "gpu-check", "--budget", "6", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["info.note"] == gpu_check.DRY
    for key in ("step.perceive1", "step.joint", "request.perceive1"):
        assert figures[f"ratio.{key}.tiny.64.fp32.cpu"] > 0
    assert figures["ratio.with_kernels.step.perceive1.tiny.16.fp32.cpu"] > 0
    assert figures["difference.kernel.layer_norm_modulate.2x2.fp32.cuda"] < 2e-6
    assert figures["skipped.memory_ours.request.perceive1.tiny.64.fp32.cpu"] == gpu_check.DRY
    out = capsys.readouterr().out
    assert gpu_check.DRY in out and "| info" not in out


def test_tests_that_need_a_gpu_are_collected(monkeypatch):
    (found,) = gpu_check._tests(True, time.monotonic() + 300, lambda line: None)
    assert found["tests.gpu"] == "passed"  # all of them skip


def test_without_time_everything_is_named(monkeypatch):
    kept = []
    for name in ("_tests", "_kernels", "_with_kernels", "_memory"):
        monkeypatch.setattr(gpu_check, name, lambda *_: pytest.fail("no time was left for this"))
    figures = gpu_check.run(budget=-1, say=lambda line: None, keep=kept.append)
    assert {f"skipped.{name}" for name in gpu_check.SHARES} <= set(figures)
    assert kept[-1] == figures
