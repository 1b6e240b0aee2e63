"""One short run that says how a GPU does: its tests, its kernels, the network, whole requests.

Every step has its share of the time there is, figures are kept after each, and what had no time is
named. Without a GPU the same steps run at a tiny size on the CPU, kernels in Triton's interpreter:
a dry run, whose times mean nothing and which says so.

    tests.gpu                        passed, failed or left out
    ratio.kernel.NAME...             see `benchmarks.kernels`
    ratio.with_kernels.CASE          a step by torch alone over the same with Triton's kernels
    ratio.CASE, ours.CASE            see `benchmarks.runner`
    memory_ours.CASE                 GB that torch held at most while ours did a request
"""

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..kernels import selection
from ..kit.errors import JodiError
from ..kit.vectors import relative_rms
from . import kernels, runner, table
from .cases import Case
from .measure import HALF, exact_float32, seconds
from .subjects import Subject

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 240.0  # seconds
SHARES = {"tests": 0.3, "kernels": 0.15, "with_kernels": 0.2, "memory": 0.1}  # the rest: the cases
CASES = (
    "step.perceive1",
    "step.joint",
    "request.perceive1",
    "request_guided.control1",
    "request_guided.joint",
)
KERNEL_STEPS = ("step.perceive1", "step_guided.joint")
ROUNDS = 5
NO_TIME = "no time was left"
DRY_SIDE = 16  # pixels
DRY = "dry run on a CPU: these times mean nothing"


def run(
    *,
    budget: float = BUDGET,
    say: Callable[[str], None],
    keep: Callable[[dict], None] = lambda figures: None,
) -> dict:
    """All steps within `budget` seconds, and a table at the end.

    keep: told all figures so far after each step. Raises: JodiError when two sides that must be
    equal are not.
    """
    deadline = time.monotonic() + budget
    dry = not torch.cuda.is_available()
    figures: dict = runner.information("cpu" if dry else "cuda")
    if dry:
        figures["info.note"] = DRY
        say(DRY)
    steps = {"tests": _tests, "kernels": _kernels, "with_kernels": _with_kernels, "memory": _memory}
    for name, step in steps.items():
        share = SHARES[name] * budget
        if time.monotonic() + 0.2 * share > deadline:
            figures[f"skipped.{name}"] = NO_TIME
            continue
        began = time.monotonic()
        for found in step(dry, min(deadline, began + share), say):
            figures |= found
            keep(figures)
        figures[f"info.{name}_seconds"] = round(time.monotonic() - began, 1)
    left = deadline - time.monotonic()
    measured = runner.run(_cases(dry), minutes=max(left, 0) / 60, repeat=ROUNDS, say=say)
    figures = {**measured, **figures}
    figures["info.seconds"] = round(time.monotonic() - (deadline - budget), 1)
    keep(figures)
    say(table.markdown(figures))
    return figures


def _cases(dry: bool, names: tuple[str, ...] = CASES) -> list[Case]:
    size = ("tiny", 64, "fp32", "cpu") if dry else ("1600m", 1024, "bf16", "cuda")
    return [Case(kind, task, *size) for kind, _, task in (name.partition(".") for name in names)]


def _tests(dry: bool, deadline: float, say):
    """Tests that need a GPU; in a dry run they are collected, and skip."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/kernels"]
    limit = max(1.0, deadline - time.monotonic())
    try:
        done = subprocess.run(
            command, cwd=ROOT, timeout=limit, capture_output=True, text=True, check=False
        )
        lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
        outcome = "passed" if done.returncode == 0 else f"failed: {lines[-1]}"
    except subprocess.TimeoutExpired:
        outcome = f"stopped after {limit:.0f} s"
    except OSError as error:
        outcome = f"could not be started: {error}"
    say(f"tests of the kernels: {outcome}")
    yield {"tests.gpu": outcome}


def _kernels(dry: bool, deadline: float, say):
    """Each kernel against torch, and against the card's copy bandwidth."""
    if not dry:
        try:
            options = type("Options", (), {"repeat": ROUNDS, "say": staticmethod(say)})
            yield kernels.run(options)
        except JodiError as error:
            yield {"skipped.kernels": str(error)}
        return
    if reason := selection.obstacle("cpu"):
        yield {"skipped.kernels": reason}
        return
    for case in kernels.cases(torch.float32, "cpu", domains=(2,), grid=(1, 2))[:4]:
        if time.monotonic() > deadline:
            yield {f"skipped.{case.key}": NO_TIME}
            continue
        yield {f"difference.{case.key}": kernels.check(case)}


def _with_kernels(dry: bool, deadline: float, say):
    """Whole steps of the network, torch alone against Triton's kernels, in turns."""
    cases = _cases(dry, KERNEL_STEPS)
    if dry:  # an interpreter takes minutes for a whole network
        cases = [dataclasses.replace(cases[0], size=DRY_SIDE)]
    if reason := selection.obstacle(cases[0].device):
        yield {f"skipped.with_kernels.{case.key}": reason for case in cases}
        return
    about = {"sides": ("ours",), "depth": 1 if dry else None}
    subject = Subject(cases[0].model, cases[0].dtype, cases[0].device, **about)
    for case in cases:
        times: dict[str, list[float]] = {"reference": [], "triton": []}
        made = {}
        # the first round compiles
        for number in range(1 + (1 if dry else ROUNDS)):
            for mode, taken in times.items():
                with selection.use(mode), torch.inference_mode(), exact_float32():
                    work = subject.work(case, "ours")(subject.inputs(case, 1))
                    out = []
                    spent = seconds(lambda w=work, o=out: o.append(w()), subject.device)
                made[mode] = out[0]
                if number:
                    taken.append(spent)
            if number and time.monotonic() > deadline:
                break
        apart = relative_rms(made["triton"], made["reference"])
        most = HALF[case.kind] if case.dtype == "bf16" else 1e-4
        if not apart <= most:
            raise JodiError(f"{case.key}: with kernels the step differs by {apart:.1e}")
        torchs, ours = (statistics.median(times[mode]) for mode in ("reference", "triton"))
        say(f"{case.key:44} {torchs / ours:6.2f}x with kernels ({ours:.4f} s, {apart:.0e} apart)")
        yield {
            f"ratio.with_kernels.{case.key}": round(torchs / ours, 3),
            f"ours.with_kernels.{case.key}": round(ours, 5),
            f"baseline.with_kernels.{case.key}": round(torchs, 5),
            f"pairs.with_kernels.{case.key}": len(times["triton"]),
            f"difference.with_kernels.{case.key}": float(f"{apart:.2g}"),
        }


def _memory(dry: bool, deadline: float, say):
    """The most memory that requests of ours take, weights included."""
    cases = _cases(dry, ("request.perceive1", "request_guided.joint"))
    if dry:
        yield {f"skipped.memory_ours.{case.key}": DRY for case in cases}
        return
    subject = Subject(cases[0].model, cases[0].dtype, cases[0].device, sides=("ours",))
    for case in cases:
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            subject.work(case, "ours")(subject.inputs(case, 1))()
        peak = torch.cuda.max_memory_allocated() / 1e9
        say(f"{case.key:44} ours needs {peak:.2f} GB at its peak")
        yield {f"memory_ours.{case.key}": round(peak, 3)}
