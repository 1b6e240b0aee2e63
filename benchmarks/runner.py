"""A run of several cases: weights built once for each set, a time budget, flat figures out."""

import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from .accuracy import bfloat16_errors
from .cases import AUTOENCODER_KINDS, DTYPES, STEPS, TASKS, Case
from .child import measure_memory
from .measure import Timings, check_equal, time_pairs
from .subjects import SIDES, Subject

Say = Callable[[str], None]
Figures = dict[str, float | int | str]

MAIN = ("perceive1", "joint")  # more pairs of these
COST = {"bf16": 1.0, "fp32": 2.5}  # of a step, roughly: only to guess what a first pair takes


def run(
    cases: Sequence[Case],
    *,
    minutes: float,
    repeat: int | None = None,
    memory: Sequence[Case] = (),
    accuracy: bool = False,
    say: Say,
) -> Figures:
    """Measure the cases in order and return flat figures: `ratio.KEY`, `ours.KEY`, ...

    minutes: no pair is begun that would probably end behind them, and cases that then have none
    are left out and named. repeat: pairs of each case. memory: cases whose peak memory is taken,
    each side in a process of its own. accuracy: the errors of bfloat16 too.
    Raises: JodiError when both sides are not equal.
    """
    began = time.monotonic()
    device = cases[0].device
    figures: Figures = information(device)
    figures["error.fp32"] = error = check_equal(device)
    say(f"both sides agree to {error:.1e} (float32, relative RMS; at most 1e-5)")
    if accuracy:
        errors = bfloat16_errors(device)
        figures |= errors
        for key in sorted(k for k in errors if k.startswith("error_ratio")):
            say(f"{key}: {errors[key]:.3f}, bfloat16 against float32, ours over the baseline's")
    clock = _Clock(began + 60 * minutes)
    for (model, dtype), group in itertools.groupby(cases, lambda c: (c.model, c.dtype)):
        subject = None
        for case in group:
            if not clock.allows(case):
                figures[f"skipped.{case.key}"] = "no time was left"
                say(f"{case.key:44} left out: no time was left")
                continue
            subject = subject or Subject(model, dtype, device)
            figures |= _measure(subject, case, repeat or most_pairs(case), clock, say)
        del subject
    figures |= composed_requests(figures, device)
    for case in memory:
        for side in SIDES:
            if clock.allows(case):
                peak = measure_memory(case, side)
                figures[f"memory_{side}.{case.key}"] = round(peak, 3)
                say(f"{case.key:44} {side} needs {peak:.2f} GB at its peak")
            else:
                figures[f"skipped.memory_{side}.{case.key}"] = "no time was left"
    figures["info.minutes"] = round((time.monotonic() - began) / 60, 1)
    return figures


class _Clock:
    """The deadline, and what a pair of each case is expected to take."""

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.steps: dict[tuple, float] = {}  # the slowest pair of steps of a network and size

    def seconds(self, case: Case) -> float:
        """Of one pair, guessed from another size or dtype if need be; 0 for a network's first."""
        guesses = [
            seconds * (case.size / size) ** 2 * COST[case.dtype] / COST[dtype]
            for (model, size, dtype), seconds in self.steps.items()
            if model == case.model
        ]
        step = self.steps.get((case.model, case.size, case.dtype), max(guesses, default=0.0))
        rows = 2 if case.guidance != 1 else 1
        return rows * step * (STEPS[case.task] if case.kind.startswith("request") else 1)

    def allows(self, case: Case) -> bool:
        return time.monotonic() + self.seconds(case) <= self.deadline

    def learn(self, case: Case, timings: Timings) -> None:
        if case.kind == "step":
            key = (case.model, case.size, case.dtype)
            self.steps[key] = max(sum(timings.medians), self.steps.get(key, 0.0))


def most_pairs(case: Case) -> int:
    """How many pairs are taken where nothing is asked: fewer, the longer they take."""
    if case.device != "cpu":
        return 20
    if case.model != "1600m":
        return 7 if case.model == "tiny" else 3
    return 3 if case.kind == "step" and case.size == 512 and case.task in MAIN else 1


def _measure(subject: Subject, case: Case, pairs: int, clock: _Clock, say: Say) -> Figures:
    # A step of the baseline costs the same whatever its roles are, and a request is many steps.
    long = case.model == "1600m" and case.device == "cpu"
    known = clock.seconds(case) > 0
    warm = () if long and known and "step" not in case.kind else ("ours",) if known else SIDES
    timings = time_pairs(subject, case, repeat=pairs, warm=warm, deadline=clock.deadline)
    clock.learn(case, timings)
    say(line(case, timings))
    return _figures(case, timings)


def _figures(case: Case, timings: Timings) -> Figures:
    ours, baseline = timings.medians
    figures: Figures = {
        f"ratio.{case.key}": round(baseline / ours, 3),
        f"ours.{case.key}": round(ours, 5),
        f"baseline.{case.key}": round(baseline, 5),
        f"ratio_low.{case.key}": round(min(timings.ratios), 3),
        f"ratio_high.{case.key}": round(max(timings.ratios), 3),
        f"pairs.{case.key}": timings.pairs,
    }
    if case.kind == "step":
        figures[f"prepare.{case.key}"] = round(statistics.median(timings.prepare), 5)
    return figures


def composed_requests(figures: Figures, device: str) -> Figures:
    """Requests that were too long to be measured, as the sum of their measured parts.

    ours: preparation, steps, an encode for each condition, a decode for each generated domain;
    baseline: steps, encodes, eight decodes. The keys say `request_composed`.
    """
    found: Figures = {}
    for size, dtype, task in itertools.product((512, 1024), DTYPES, TASKS):
        key = f"{task}.1600m.{size}.{dtype}.{device}"
        parts = [f"step.{key}", *(f"{k}.f32c32.{size}.{dtype}.{device}" for k in AUTOENCODER_KINDS)]
        if f"ratio.request.{key}" in figures or any(f"ours.{p}" not in figures for p in parts):
            continue
        plan = TASKS[task]
        step, decode, encode = range(3)
        ours, baseline = ([float(figures[f"{side}.{p}"]) for p in parts] for side in SIDES)
        given, made = len(plan.conditions), len(plan.generated)
        total = STEPS[task] * ours[step] + given * ours[encode] + made * ours[decode]
        total += float(figures[f"prepare.{parts[step]}"])
        other = STEPS[task] * baseline[step] + given * baseline[encode]
        other += len(plan.names) * baseline[decode]
        found[f"ratio.request_composed.{key}"] = round(other / total, 3)
        found[f"ours.request_composed.{key}"] = round(total, 3)
        found[f"baseline.request_composed.{key}"] = round(other, 3)
    return found


def line(case: Case, timings: Timings) -> str:
    """One line of the printed table."""
    ours, baseline = timings.medians
    low, high = min(timings.ratios), max(timings.ratios)
    pairs = f"{timings.pairs} pair{'s' if timings.pairs > 1 else ''}"
    return (
        f"{case.key:44} {baseline / ours:6.2f}x  ours {ours:9.4f} s  baseline {baseline:9.4f} s  "
        f"({pairs}, {low:.2f} to {high:.2f})"
    )


def information(device: str) -> Figures:
    """What the figures depend on besides the code."""
    info: Figures = {
        "info.date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "info.command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "info.torch": torch.__version__,
        "info.python": platform.python_version(),
        "info.cpu": cpu_name(),
        "info.cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "info.threads": torch.get_num_threads(),
        "info.device": device,
    }
    if device == "cuda":
        info["info.gpu"] = torch.cuda.get_device_name()
    return info


def cpu_name() -> str:
    """The CPU's name and what it does in half precision, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    rows = (row.partition(":") for row in text.split("\n"))
    facts = {name.strip(): value.strip() for name, colon, value in rows if colon}
    flags = facts.get("flags", "").split()
    found = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    model = facts.get("model name", platform.machine())
    family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{model} ({family}; {', '.join(found) or 'no wide vectors'})"
