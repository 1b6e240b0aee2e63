"""A run of several cases: weights built once for each set, a time budget, flat figures out."""

import itertools
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from .cases import Case
from .child import measure_memory
from .measure import Timings, check_equal, time_pairs
from .subjects import SIDES, Subject

Say = Callable[[str], None]
Figures = dict[str, float | int | str]

# Pairs of one case at most, where nothing else is asked: long ones are few.
PAIRS = {"tiny": 15, "1600m": 3, "f32c32": 5}
PAIRS_ON_GPU = 20


def run(
    cases: Sequence[Case],
    *,
    minutes: float,
    repeat: int | None = None,
    memory: Sequence[Case] = (),
    say: Say,
) -> Figures:
    """Measure the cases in order and return flat figures: `ratio.KEY`, `ours.KEY`, ...

    minutes: no pair is begun that would probably end behind them, and cases that then have none
    are left out and named. repeat: pairs of each case. memory: cases whose peak memory is taken,
    each side in a process of its own. Raises: JodiError when both sides are not equal.
    """
    began = time.monotonic()
    deadline = began + 60 * minutes
    device = cases[0].device
    error = check_equal(device)
    say(f"both sides agree to {error:.1e} (float32, relative RMS; at most 1e-5)")
    figures: Figures = {"error.fp32": error, **information(device)}
    longest: dict[tuple, float] = {}
    for (model, dtype), group in itertools.groupby(cases, lambda c: (c.model, c.dtype)):
        subject = Subject(model, dtype, device)
        warmed: set[tuple] = set()
        for case in group:
            pairs = repeat or (PAIRS_ON_GPU if device == "cuda" else PAIRS[model])
            if time.monotonic() + longest.get(_cost(case), 0) > deadline:
                figures[f"skipped.{case.key}"] = "no time was left"
                say(f"{case.key:44} left out: no time was left")
                continue
            timings = time_pairs(
                subject, case, repeat=pairs, warmed=_cost(case) in warmed, deadline=deadline
            )
            warmed.add(_cost(case))
            longest[_cost(case)] = sum(timings.medians)
            figures |= _figures(case, timings)
            say(line(case, timings))
        del subject
    for case in memory:
        for side in SIDES:
            if time.monotonic() + longest.get(_cost(case), 0) > deadline:
                figures[f"skipped.memory_{side}.{case.key}"] = "no time was left"
                continue
            peak = measure_memory(case, side)
            figures[f"memory_{side}.{case.key}"] = round(peak, 3)
            say(f"{case.key:44} {side} needs {peak:.2f} GB at its peak")
    figures["info.minutes"] = round((time.monotonic() - began) / 60, 1)
    return figures


def _cost(case: Case) -> tuple:
    """What the baseline's time depends on: not on roles."""
    return case.kind, case.model, case.size, case.dtype


def _figures(case: Case, timings: Timings) -> Figures:
    ours, baseline = timings.medians
    return {
        f"ratio.{case.key}": round(baseline / ours, 3),
        f"ours.{case.key}": round(ours, 5),
        f"baseline.{case.key}": round(baseline, 5),
        f"ratio_low.{case.key}": round(min(timings.ratios), 3),
        f"ratio_high.{case.key}": round(max(timings.ratios), 3),
        f"pairs.{case.key}": timings.pairs,
    }


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
    facts = dict(
        (part.strip() for part in row.split(":", 1)) for row in text.split("\n") if ":" in row
    )
    flags = facts.get("flags", "").split()
    found = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    model = facts.get("model name", platform.machine())
    family = f"family {facts.get('cpu family', '?')} model {facts.get('model', '?')}"
    return f"{model} ({family}; {', '.join(found) or 'no wide vectors'})"
