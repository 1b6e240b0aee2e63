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

from ..kit.errors import JodiError
from .accuracy import bfloat16_errors
from .cases import AUTOENCODER_KINDS, DTYPES, TASK_STEPS, TASKS, Case
from .child import measure_memory
from .measure import Timings, check_equal, exact_float32, time_pairs
from .subjects import SIDES, Subject

Say = Callable[[str], None]
Figures = dict[str, float | int | str]
Keep = Callable[[Figures], None]

NO_TIME = "no time was left"
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
    keep: Keep = lambda figures: None,
) -> Figures:
    """Measure the cases in order and return flat figures: `ratio.KEY`, `ours.KEY`, ...

    minutes: no pair is begun that would probably end behind them, and cases that then have none
    are left out and named. repeat: pairs of each case. memory: cases whose peak memory is taken,
    each side in a process of its own; one that fails is named with its reason. accuracy: the errors
    of bfloat16 too. keep: told all figures so far after each case, and at the end however it comes.
    Raises: JodiError when both sides are not equal.
    """
    began = time.monotonic()
    device = cases[0].device
    clock = _Clock(began + 60 * minutes)
    figures: Figures = information(device)
    with exact_float32():
        figures["error.fp32"] = error = check_equal(device)
        say(f"both sides agree to {error:.1e} (float32, relative RMS; at most 1e-5)")
        try:
            if accuracy:
                errors = bfloat16_errors(device)
                figures |= errors
                for key in sorted(k for k in errors if k.startswith("error_ratio")):
                    say(f"{key}: {errors[key]:.3f}, bfloat16 against float32, ours over baseline's")
            for found in _times(cases, repeat, clock, say):
                figures |= found
                keep(figures)
            for found in _peaks(memory, clock, say):
                figures |= found
                keep(figures)
        finally:  # after Ctrl-C too
            figures |= composed_requests(figures, device)
            figures["info.minutes"] = round((time.monotonic() - began) / 60, 1)
            keep(figures)
    return figures


def _times(cases: Sequence[Case], repeat: int | None, clock: "_Clock", say: Say):
    """Figures of each case, in order; weights are built once for each run of cases that share."""
    for (model, dtype), group in itertools.groupby(cases, lambda c: (c.model, c.dtype)):
        subject = None
        for case in group:
            if not clock.allows(case, built=subject is not None):
                say(f"{case.key:44} left out: {NO_TIME}")
                yield {f"skipped.{case.key}": NO_TIME}
                continue
            if subject is None:
                began = time.monotonic()
                subject = Subject(model, dtype, case.device)
                clock.builds[model] = max(time.monotonic() - began, clock.build(case))
            yield _measure(subject, case, repeat or most_pairs(case), clock, say)
        del subject


def _peaks(cases: Sequence[Case], clock: "_Clock", say: Say):
    """Peak memory of each case and side, or why there is none."""
    for case, side in itertools.product(cases, SIDES):
        key, reason = f"memory_{side}.{case.key}", NO_TIME
        if clock.fits(clock.build(case) + clock.seconds(case)):
            try:
                peak = measure_memory(case, side)
            except JodiError as error:
                reason = str(error)
            else:
                say(f"{case.key:44} {side} needs {peak:.2f} GB at its peak")
                yield {key: round(peak, 3)}
                continue
        say(f"{case.key:44} {side}, memory left out: {reason}")
        yield {f"skipped.{key}": reason}


class _Clock:
    """The deadline, and what a pair of each case is expected to take."""

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.steps: dict[tuple, float] = {}  # the slowest pair of steps of a network and size
        self.builds: dict[str, float] = {}  # making the weights of both sides, the slowest

    def seconds(self, case: Case) -> float:
        """Of one pair, guessed from another size or dtype if need be; 0 for a network's first."""
        guesses = [
            seconds * (case.size / size) ** 2 * COST[case.dtype] / COST[dtype]
            for (model, size, dtype), seconds in self.steps.items()
            if model == case.model
        ]
        step = self.steps.get((case.model, case.size, case.dtype), max(guesses, default=0.0))
        rows = 2 if case.guidance != 1 else 1
        return rows * step * (TASK_STEPS[case.task] if case.kind.startswith("request") else 1)

    def build(self, case: Case) -> float:
        """Of its weights; 0 for a network's first."""
        return self.builds.get(case.model, 0.0)

    def fits(self, seconds: float) -> bool:
        return time.monotonic() + seconds <= self.deadline

    def allows(self, case: Case, built: bool = True) -> bool:
        """Whether a first pair will probably end in time, what comes before it included."""
        pairs = 2 if warmed(case) else 1
        return self.fits(pairs * self.seconds(case) + (0 if built else self.build(case)))

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


def warmed(case: Case) -> bool:
    """Whether each side runs once before anything counts: always the same for both.

    A request of the large network on a CPU takes minutes, and is many steps already.
    """
    return not (case.model == "1600m" and case.device == "cpu" and case.kind.startswith("request"))


def _measure(subject: Subject, case: Case, pairs: int, clock: _Clock, say: Say) -> Figures:
    warm = SIDES if warmed(case) else ()
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
        f"difference.{case.key}": float(f"{timings.difference:.2g}"),
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
        total = TASK_STEPS[task] * ours[step] + given * ours[encode] + made * ours[decode]
        total += float(figures[f"prepare.{parts[step]}"])
        other = TASK_STEPS[task] * baseline[step] + given * baseline[encode]
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
        f"({pairs}, {low:.2f} to {high:.2f}; {timings.difference:.0e} apart)"
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
