"""Runs of the benchmark: what is chosen, figures with flat keys, tables, and the command."""

import json
import time

import pytest
import torch
from jodi_pack.benchmarks import cases, runner
from jodi_pack.benchmarks.accuracy import bfloat16_errors
from jodi_pack.benchmarks.cases import DTYPES, KINDS, MODELS, TASKS, Case
from jodi_pack.benchmarks.child import measure_memory
from jodi_pack.benchmarks.measure import Timings
from jodi_pack.benchmarks.table import CPU_GOALS, markdown
from jodi_pack.cli import bench
from jodi_pack.cli.main import main
from jodi_pack.jodi_core.errors import JodiError

MEASURED = ("ratio", "ours", "baseline", "ratio_low", "ratio_high", "pairs", "prepare")


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    """One real run of the command on the tiny network."""
    path = tmp_path_factory.mktemp("bench") / "new" / "figures.json"
    options = ["--size", "tiny", "--dtype", "fp32", "--device", "cpu", "--repeat", "2"]
    chosen = ["--case", "step.*1", "--case", "decode"]
    began = time.monotonic()
    assert main(["bench", *chosen, *options, "--json", str(path)]) == 0
    figures = json.loads(path.read_text(encoding="utf-8"))
    return figures | {"seconds": time.monotonic() - began}


def test_a_run_measures_what_was_chosen(figures):
    measured = {k.removeprefix("ratio.") for k in figures if k.startswith("ratio.")}
    names = ("step.perceive1.tiny", "step.control1.tiny", "decode.tiny")
    assert measured == {f"{name}.64.fp32.cpu" for name in names}


def test_keys_are_flat_and_name_cases(figures):
    for key, value in figures.items():
        what, _, rest = key.partition(".")
        assert isinstance(value, str | int | float), key
        if what in MEASURED:
            case = Case.parse(rest)
            assert case.key == rest
            assert case.model in MODELS and case.dtype in DTYPES and case.kind in KINDS
            assert value > 0
    assert 0 < figures["error.fp32"] <= 1e-5
    for name in ("date", "command", "torch", "cpu", "threads", "minutes"):
        assert f"info.{name}" in figures


def test_a_ratio_is_the_quotient_of_the_medians(figures):
    key = "step.perceive1.tiny.64.fp32.cpu"
    quotient = figures[f"baseline.{key}"] / figures[f"ours.{key}"]
    assert figures[f"ratio.{key}"] == pytest.approx(quotient, rel=0.02)
    assert figures[f"pairs.{key}"] == 2
    assert figures[f"ratio_low.{key}"] <= figures[f"ratio_high.{key}"]


def test_the_table_shows_every_case(figures, tmp_path, capsys):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(figures), encoding="utf-8")
    assert main(["bench", "--table", str(path)]) == 0
    printed = capsys.readouterr().out
    for key in figures:
        if key.startswith("ratio."):
            assert f"`{key.removeprefix('ratio.')}`" in printed
    assert "open: no GPU measured" in printed


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(5.9, "missed"), (6.0, "met"), (7.49, "met"), (7.5, "stretch met")]
)
def test_the_table_judges_the_goals(ratio, verdict):
    key = f"{CPU_GOALS[0].key}.cpu"
    rows = markdown({f"ratio.{key}": ratio, f"ours.{key}": 1.0, f"baseline.{key}": ratio})
    row = next(r for r in rows.split("\n") if CPU_GOALS[0].title in r)
    assert row.endswith(f"| {ratio:.2f}x | {verdict} |")
    assert "not measured" in rows  # the other goals


def test_the_standard_set_covers_the_goals():
    keys = {case.key for case in cases.standard_cases("cpu")}
    missing = {g.key for g in CPU_GOALS if f"{g.key}.cpu" not in keys}
    assert missing == {"decode_compiled.f32c32.512.bf16"}
    assert {c.task for c in cases.standard_cases("cpu") if c.kind == "step"} == set(TASKS)
    for device in ("cpu", "cuda"):
        chosen = cases.standard_cases(device)
        assert len({case.key for case in chosen}) == len(chosen)
        assert all(Case.parse(case.key) == case for case in chosen)


def test_cases_that_have_no_time_are_named():
    case = Case("step", "perceive1", "tiny", 64, "fp32", "cpu")
    figures = runner.run([case], minutes=0, say=lambda line: None)
    assert figures[f"skipped.{case.key}"] == "no time was left"
    assert not any(key.startswith("ratio.") for key in figures)


def test_a_long_case_is_left_out_by_what_a_step_took():
    step = Case("step", "joint", "tiny", 64, "fp32", "cpu")
    request = Case("request_guided", "joint", "tiny", 64, "fp32", "cpu")
    clock = runner._Clock(time.monotonic() + 100)
    assert clock.allows(request)  # nothing is known yet
    clock.learn(step, Timings(ours=[1.0], baseline=[2.0], prepare=[0.0]))
    assert clock.seconds(request) == 2 * 20 * 3.0
    assert clock.allows(step) and not clock.allows(request)
    larger = Case("step", "joint", "tiny", 128, "bf16", "cpu")  # guessed: 4 times the tokens
    assert clock.seconds(larger) == pytest.approx(4 * 3.0 / 2.5)
    assert clock.seconds(Case("step", "joint", "1600m", 512, "bf16", "cpu")) == 0


def test_requests_are_composed_of_measured_parts_only():
    step = "step.perceive1.1600m.512.bf16.cpu"
    parts = {f"ours.{step}": 2.0, f"baseline.{step}": 20.0, f"prepare.{step}": 0.5}
    assert runner.composed_requests(parts, "cpu") == {}
    for kind, (ours, baseline) in {"decode": (3.0, 6.0), "encode": (1.0, 2.0)}.items():
        parts[f"ours.{kind}.f32c32.512.bf16.cpu"] = ours
        parts[f"baseline.{kind}.f32c32.512.bf16.cpu"] = baseline
    key = "request_composed.perceive1.1600m.512.bf16.cpu"
    composed = runner.composed_requests(parts, "cpu")
    assert composed[f"ours.{key}"] == 0.5 + 10 * 2 + 1 + 3
    assert composed[f"baseline.{key}"] == 10 * 20 + 2 + 8 * 6
    measured = parts | {"ratio.request.perceive1.1600m.512.bf16.cpu": 9.0}
    assert runner.composed_requests(measured, "cpu") == {}


def test_memory_is_of_one_side_in_a_process_of_its_own():
    case = Case("step", "perceive1", "tiny", 64, "fp32", "cpu")
    assert 0.05 < measure_memory(case, "ours") < 4


def test_errors_are_those_of_half_precision():
    errors = bfloat16_errors("cpu", model="tiny")
    for key, error in errors.items():
        if not key.startswith("error_ratio"):
            assert 1e-4 < error < 0.1, key  # an error of half precision, not of float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--case", "stroll"], "no case is named stroll"),
        (["--size", "512"], "choose among cases"),
        (["--table", "/nowhere/figures.json"], "holds no figures"),
    ],
)
def test_what_cannot_be_measured_is_said(options, message, capsys):
    assert main(["bench", "--device", "cpu", *options]) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_kernels_without_a_gpu_are_refused(capsys):
    assert main(["bench", "kernels"]) == 1
    assert "CUDA device" in capsys.readouterr().err


def test_an_install_without_benchmarks_says_so(monkeypatch, capsys):
    monkeypatch.setattr(bench, "runner", None)
    assert main(["bench"]) == 1
    assert "not in this install" in capsys.readouterr().err


@pytest.mark.parametrize(
    "key", ["step.perceive1", "walk.joint.tiny.64.fp32.cpu", "decode.tiny.x.fp32.cpu"]
)
def test_a_key_of_no_case_is_refused(key):
    with pytest.raises(JodiError):
        Case.parse(key)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured_by_events():
    case = Case("step", "perceive1", "tiny", 64, "bf16", "cuda")
    figures = runner.run([case], minutes=5, repeat=3, say=lambda line: None)
    assert figures[f"ratio.{case.key}"] > 0 and figures["info.gpu"]
