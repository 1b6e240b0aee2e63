"""Runs of the benchmark: what is chosen, figures with flat keys, tables, and the command."""

import functools
import json
import math
import time

import pytest
import torch
from jodi_pack.benchmarks import accuracy, cases, child, runner
from jodi_pack.benchmarks.accuracy import bfloat16_errors
from jodi_pack.benchmarks.cases import DTYPES, KINDS, MODELS, TASK_STEPS, TASKS, Case
from jodi_pack.benchmarks.child import measure_memory
from jodi_pack.benchmarks.measure import Timings, resident_peak, time_pairs
from jodi_pack.benchmarks.subjects import Subject
from jodi_pack.benchmarks.table import CPU_GOALS, GPU_GOALS, markdown
from jodi_pack.cli import bench
from jodi_pack.cli.main import main
from jodi_pack.kit.errors import JodiError

MEASURED = (
    "ratio",
    "ours",
    "baseline",
    "ratio_low",
    "ratio_high",
    "pairs",
    "prepare",
    "difference",
)


@pytest.fixture(scope="module", autouse=True)
def compared_once():
    """Every run compares both sides first, which takes longer than what these tests measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "check_equal", functools.cache(runner.check_equal))
        yield


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
    assert 0 < figures[f"difference.{key}"] <= 1e-5


def test_the_table_shows_every_case(figures, tmp_path, capsys):
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(figures), encoding="utf-8")
    assert main(["bench", "--table", str(path)]) == 0
    printed = capsys.readouterr().out
    for key in figures:
        if key.startswith("ratio."):
            assert f"`{key.removeprefix('ratio.')}`" in printed
    assert printed.count("open: no GPU was at hand") == len(GPU_GOALS) + 2


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(5.9, "missed"), (6.0, "met"), (7.49, "met"), (7.5, "stretch met")]
)
def test_the_table_judges_the_goals(ratio, verdict):
    key = f"{CPU_GOALS[0].key}.cpu"
    rows = markdown({f"ratio.{key}": ratio, f"ours.{key}": 1.0, f"baseline.{key}": ratio})
    row = next(r for r in rows.split("\n") if CPU_GOALS[0].title in r)
    assert row.endswith(f"| {ratio:.2f}x | {verdict} |")
    assert "not measured" in rows  # the other goals


@pytest.mark.parametrize(
    ("seconds", "ratio", "verdict"),
    [
        (0.0124, 5.0, "met"),
        (0.0104, 5.0, "stretch met"),
        (0.0126, 5.0, "missed"),
        (0.01, 3.9, "missed"),
    ],
)
def test_the_table_judges_a_gpus_times(seconds, ratio, verdict):
    key = f"{GPU_GOALS[0].key}.cuda"
    kernel = "kernel.layer_norm_modulate.8x1024.bf16.cuda"
    values = {f"ratio.{key}": ratio, f"ours.{key}": seconds, f"baseline.{key}": seconds * ratio}
    values |= {f"ratio.{kernel}": 2.0, f"ours.{kernel}": 1e-5, f"baseline.{kernel}": 2e-5}
    rows = markdown(values | {f"bandwidth.{kernel}": 0.72}).split("\n")
    row = next(r for r in rows if GPU_GOALS[0].title in r)
    assert row.endswith(f"| {1000 * seconds:.1f} ms, {ratio:.2f}x | {verdict} |")
    assert any(r.endswith("| 72% (layer_norm_modulate) | met |") for r in rows)
    assert not any("no GPU" in r for r in rows)


def test_the_standard_set_covers_the_goals():
    keys = {case.key for case in cases.standard_cases("cpu")}
    missing = {g.key for g in CPU_GOALS if f"{g.key}.cpu" not in keys}
    assert not missing
    on_gpu = {case.key for case in cases.standard_cases("cuda")}
    assert all(f"{goal.key}.cuda" in on_gpu for goal in GPU_GOALS)
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
    clock.builds["tiny"] = 95.0
    assert clock.allows(step, built=True) and not clock.allows(step, built=False)


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


@pytest.mark.slow
def test_memory_is_of_one_side_in_a_process_of_its_own():
    """And of that alone: how large the process is that asks does not show."""
    case = Case("step", "perceive1", "tiny", 64, "fp32", "cpu")
    alone = measure_memory(case, "ours")
    assert 0.05 < alone < 4
    held = torch.ones(int(1.25e8 * (alone + 0.3)), dtype=torch.float64)  # GB: 0.3 beyond the child
    assert measure_memory(case, "ours") == pytest.approx(alone, abs=0.1)
    assert resident_peak() > alone + 0.3 and held[-1] == 1


def test_memory_that_cannot_be_taken_is_named(monkeypatch):
    """Such as of a child that was killed; what else was measured is kept."""
    case = Case("step", "perceive1", "tiny", 64, "fp32", "cpu")
    dies = "import os, sys; print('so large', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    monkeypatch.setattr(child, "START", dies)
    figures = runner.run([case], minutes=5, repeat=1, memory=[case], say=lambda line: None)
    for side in ("ours", "baseline"):
        reason = figures[f"skipped.memory_{side}.{case.key}"]
        assert "killed by signal 9" in reason and "so large" in reason
    assert figures[f"ratio.{case.key}"] > 0
    assert "so large" in markdown(figures)


def test_figures_are_kept_when_a_run_is_stopped(tmp_path, monkeypatch):
    """After the first of two cases: the file is whole, and the exit status says so."""
    path, measure = tmp_path / "figures.json", runner._measure

    def stop(subject, case, *rest):
        if case.task == "control1":
            raise KeyboardInterrupt
        return measure(subject, case, *rest)

    monkeypatch.setattr(runner, "_measure", stop)
    options = ["--size", "tiny", "--dtype", "fp32", "--device", "cpu", "--repeat", "1"]
    chosen = ["--case", "step.perceive1", "--case", "step.control1"]
    assert main(["bench", *chosen, *options, "--json", str(path)]) == 130
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["ratio.step.perceive1.tiny.64.fp32.cpu"] > 0
    assert not any("control1.tiny" in key for key in figures)
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_figures_are_written_after_every_case():
    kept = []
    chosen = [Case("step", task, "tiny", 64, "fp32", "cpu") for task in ("perceive1", "control1")]
    keep = lambda figures: kept.append(sum(key.startswith("ratio.") for key in figures))  # noqa: E731
    runner.run(chosen, minutes=5, repeat=1, say=lambda line: None, keep=keep)
    assert kept == [1, 2, 2]


def test_a_place_that_cannot_be_written_is_found_out_first(tmp_path, capsys):
    assert main(["bench", "--case", "step", "--json", str(tmp_path)]) == 2
    assert "this is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[1", "[" * 9999, "[]", "7", '{"a": 1}', '{"ratio.x": "a"}', '{"ratio.x": 1.5}']
)
def test_files_that_hold_no_figures(tmp_path, capsys, content):
    path = tmp_path / "figures.json"
    path.write_text(content)
    assert main(["bench", "--table", str(path)]) == 1
    told = capsys.readouterr().err
    assert str(path) in told and "unexpected" not in told and told.count("\n") == 1


def test_no_cache_answers_across_cases(monkeypatch):
    """Every repetition of every case encodes its picture and reads its text anew."""
    for task in TASKS:
        monkeypatch.setitem(TASK_STEPS, task, 2)
    subject = Subject("tiny", "fp32", "cpu")
    encodes, reads = [], []
    subject.ours.autoencoder.encoder.register_forward_hook(lambda *_: encodes.append(1))
    subject.ours.transformer.y_embedder.register_forward_hook(lambda *_: reads.append(1))
    for task in ("perceive1", "perceive7", "control1"):
        case = Case("request", task, "tiny", 64, "fp32", "cpu")
        before = len(encodes), len(reads)
        time_pairs(subject, case, repeat=1, warm=("ours",), deadline=math.inf)
        assert len(encodes) == before[0] + 2, task
        if task == "control1":  # perception reads no text
            assert len(reads) == before[1] + 2, task


def test_inputs_of_all_cases_differ():
    subject = Subject("tiny", "fp32", "cpu", sides=())
    seen = set()
    for kind, task in (("request", "perceive1"), ("request", "control1"), ("encode", "")):
        case = Case(kind, task, "tiny", 64, "fp32", "cpu")
        for repetition in range(3):
            inputs = subject.inputs(case, repetition)
            same = subject.inputs(case, repetition)
            assert torch.equal(inputs.x, same.x) and inputs.seed == same.seed
            parts = [inputs.x, inputs.clean, inputs.text.caption, inputs.negative.caption]
            seen |= {float(part.sum()) for part in (*parts, *inputs.pictures.values())}
    assert len(seen) == 3 * 3 * 5
    sigmas = [subject.inputs(case, repetition).sigma for repetition in range(4)]
    assert sigmas == sorted(set(sigmas), reverse=True)


def test_both_sides_are_warmed_alike(monkeypatch):
    seen = []

    def record(subject, case, *, repeat, warm, deadline):
        seen.append(warm)
        return Timings(ours=[1.0], baseline=[2.0], prepare=[0.0])

    monkeypatch.setattr(runner, "time_pairs", record)
    clock = runner._Clock(math.inf)
    for case in cases.standard_cases("cpu"):
        runner._measure(None, case, 1, clock, lambda line: None)
        request = case.model == "1600m" and case.kind.startswith("request")
        assert set(seen[-1]) == (set() if request else {"ours", "baseline"}), case.key
    assert () in seen


def test_errors_are_those_of_half_precision(monkeypatch):
    monkeypatch.setattr(accuracy, "SIZE", 64)
    monkeypatch.setattr(accuracy, "DEPTH", 2)
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
