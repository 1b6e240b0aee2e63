"""Figures as the Markdown tables of docs/performance.md."""

from collections.abc import Mapping
from dataclasses import dataclass

Figures = Mapping[str, float | int | str]

SIDES = ("ours", "baseline")
GPU = "open: no GPU was at hand"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """A row of the goals: what, the case's key, and the least ratios."""

    title: str
    key: str
    must: str
    stretch: str = ""


CPU_GOALS = (
    Goal(
        "one step, picture to one label, 512 px, bf16", "step.perceive1.1600m.512.bf16", "6", "7.5"
    ),
    Goal("the same in float32", "step.perceive1.1600m.512.fp32", "5"),
    Goal("one step, joint (8 domains), 512 px, bf16", "step.joint.1600m.512.bf16", "1.7", "2.2"),
    Goal("one step, joint, 1024 px, bf16", "step.joint.1600m.1024.bf16", "1.3", "1.8"),
    Goal(
        "autoencoder, decode of one picture, 512 px, bf16 (stretch: compiled)",
        "decode.f32c32.512.bf16",
        "1.7",
        "3.5",
    ),
    Goal(
        "whole request, picture to one label, 10 steps, 512 px, bf16",
        "request.perceive1.1600m.512.bf16",
        "8",
    ),
)


@dataclass(frozen=True)
class TimeGoal:
    """A row of a GPU's goals: what, the case's key, the most milliseconds, the least ratio."""

    title: str
    key: str
    must: float
    stretch: float
    ratio: float = 0.0


GPU_GOALS = (
    TimeGoal(
        "forward, 2 domains, batch 1, 1024 px", "step.perceive1.1600m.1024.bf16", 12.5, 10.5, 4
    ),
    # guided: both halves are one batch of two
    TimeGoal(
        "forward, 8 domains, batch 2, 1024 px", "step_guided.joint.1600m.1024.bf16", 87, 76, 1.5
    ),
    TimeGoal(
        "whole request, one label, 10 steps, 1024 px",
        "request.perceive1.1600m.1024.bf16",
        180,
        140,
        4,
    ),
    TimeGoal(
        "whole request, one control, 20 steps, guided, 1024 px",
        "request_guided.control1.1600m.1024.bf16",
        520,
        440,
    ),
    TimeGoal(
        "whole request, joint, 20 steps, guided, 1024 px",
        "request_guided.joint.1600m.1024.bf16",
        1900,
        1700,
        1.5,
    ),
)
KERNELS = "slowest Triton kernel, 8 domains, 1024 px, share of copy bandwidth"
KERNELS_SIZE = ".8x1024.bf16.cuda"
FORWARD = "kernels against our own torch path, whole forward"


def markdown(figures: Figures) -> str:
    """All tables of one run: conditions, goals, every case, accuracy, memory, what is missing."""
    parts = [_conditions(figures), _goals(figures), _cases(figures), _errors(figures)]
    return "\n\n".join(part for part in (*parts, _memory(figures), _skipped(figures)) if part)


def _conditions(figures: Figures) -> str:
    names = {"cpu": "CPU", "cpu_capability": "torch's vector level", "gpu": "GPU"}
    rows = [
        (names.get(key[5:], key[5:]), str(value))
        for key, value in figures.items()
        if key.startswith("info.")
    ]
    return _table(("condition", "value"), rows)


def _goals(figures: Figures) -> str:
    rows = []
    for goal in CPU_GOALS:
        ratio = figures.get(f"ratio.{goal.key}.cpu")
        must, stretch = (f"{x}x" if x else "" for x in (goal.must, goal.stretch))
        if ratio is None:
            rows.append((goal.title, must, stretch, NOT_MEASURED, ""))
            continue
        met = float(ratio) >= float(goal.must)
        beyond = bool(goal.stretch) and float(ratio) >= float(goal.stretch)
        rows.append((goal.title, must, stretch, f"{float(ratio):.2f}x", _verdict(met, beyond)))
    ratios = {k: float(v) for k, v in figures.items() if k.startswith("error_ratio.bf16.")}
    if ratios:
        worst = max(ratios, key=ratios.__getitem__)
        verdict = "met" if ratios[worst] <= 1.05 else "missed"
        what = f"{ratios[worst]:.2f} ({worst.removeprefix('error_ratio.bf16.')})"
        title = "bfloat16 error against float32 truth, over the baseline's (the worst)"
        rows.append((title, "at most 1.05", "", what, verdict))
    return _table(("goal", "must", "stretch", "measured", ""), [*rows, *_gpu_goals(figures)])


def _gpu_goals(figures: Figures) -> list[tuple[str, ...]]:
    absent = NOT_MEASURED if any(key.endswith(".cuda") for key in figures) else GPU
    rows = []
    for goal in GPU_GOALS:
        must, stretch = f"{goal.must:g} ms", f"{goal.stretch:g} ms"
        if goal.ratio:
            must += f" and {goal.ratio:g}x"
        key = f"{goal.key}.cuda"
        if f"ours.{key}" not in figures:
            rows.append((goal.title, must, stretch, absent, ""))
            continue
        time, ratio = 1000 * float(figures[f"ours.{key}"]), float(figures[f"ratio.{key}"])
        met = time <= goal.must and ratio >= goal.ratio
        verdict = _verdict(met, met and time <= goal.stretch)
        rows.append((goal.title, must, stretch, f"{time:.1f} ms, {ratio:.2f}x", verdict))
    prefix = "bandwidth.kernel."
    shares = {
        k.removeprefix(prefix).removesuffix(KERNELS_SIZE): float(v)
        for k, v in figures.items()
        if k.startswith(prefix) and k.endswith(KERNELS_SIZE)
    }
    if shares:
        least = min(shares, key=shares.__getitem__)
        verdict = _verdict(shares[least] >= 0.7, shares[least] >= 0.85)
        rows.append((KERNELS, "70 %", "85 %", f"{shares[least]:.0%} ({least})", verdict))
    else:
        rows.append((KERNELS, "70 %", "85 %", absent, ""))
    gains = [float(v) for k, v in figures.items() if k.startswith("ratio.with_kernels.")]
    if not gains or absent == GPU:  # in a dry run kernels are interpreted
        return [*rows, (FORWARD, "1.2x", "1.28x", absent, "")]
    verdict = _verdict(min(gains) >= 1.2, min(gains) >= 1.28)
    return [*rows, (FORWARD, "1.2x", "1.28x", f"{min(gains):.2f}x", verdict)]


def _verdict(met: bool, beyond: bool) -> str:
    return "stretch met" if beyond else "met" if met else "missed"


def _cases(figures: Figures) -> str:
    rows = []
    for name, value in figures.items():
        if not name.startswith("ratio."):
            continue
        key = name.removeprefix("ratio.")
        ours, baseline = (f"{float(figures[f'{side}.{key}']):.3g} s" for side in SIDES)
        pairs = str(figures.get(f"pairs.{key}", "composed"))
        spread = ""
        if f"ratio_low.{key}" in figures:
            low, high = (float(figures[f"ratio_{end}.{key}"]) for end in ("low", "high"))
            spread = f"{low:.2f} to {high:.2f}"
        apart = figures.get(f"difference.{key}")
        apart = "" if apart is None else f"{float(apart):.1e}"
        rows.append((f"`{key}`", f"**{float(value):.2f}x**", ours, baseline, pairs, spread, apart))
    head = ("case", "ratio", "ours", "baseline", "pairs", "ratios of the pairs", "difference")
    return _table(head, rows)


def _errors(figures: Figures) -> str:
    prefix = "error_ratio.bf16."
    rows = []
    for name in figures:
        if name.startswith(prefix):
            case = name.removeprefix(prefix)
            both = [f"{float(figures[f'error_{side}.bf16.{case}']):.2e}" for side in SIDES]
            rows.append((case, *both, f"{float(figures[name]):.2f}"))
    return _table(("bfloat16 error", "ours", "baseline", "ratio"), rows)


def _memory(figures: Figures) -> str:
    prefix = "memory_ours."
    rows = []
    for name in figures:
        case = name.removeprefix(prefix)
        if name.startswith(prefix) and f"memory_baseline.{case}" in figures:
            both = [f"{float(figures[f'memory_{side}.{case}']):.2f} GB" for side in SIDES]
            rows.append((f"`{case}`", *both))
    return _table(("peak memory, weights included", "ours", "baseline"), rows)


def _skipped(figures: Figures) -> str:
    prefix = "skipped."
    rows = [
        (f"`{name.removeprefix(prefix)}`", str(value).replace("|", "/"))
        for name, value in figures.items()
        if name.startswith(prefix)
    ]
    return _table(("left out", "because"), rows)


def _table(head: tuple[str, ...], rows: list) -> str:
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
