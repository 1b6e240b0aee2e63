"""Figures as the Markdown tables of docs/performance.md."""

from collections.abc import Mapping
from dataclasses import dataclass

Figures = Mapping[str, float | int | str]

SIDES = ("ours", "baseline")
GPU = "open: no GPU measured"
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
    Goal("autoencoder, decode of one picture, 512 px, bf16", "decode.f32c32.512.bf16", "1.7"),
    Goal("the same, compiled", "decode_compiled.f32c32.512.bf16", "", "3.5"),
    Goal(
        "whole request, picture to one label, 10 steps, 512 px, bf16",
        "request.perceive1.1600m.512.bf16",
        "8",
    ),
)
GPU_GOALS = (
    ("forward, 2 domains, batch 1, 1024 px", "12.5 ms", "10.5 ms"),
    ("forward, 8 domains, batch 2, 1024 px", "87 ms", "76 ms"),
    ("whole request, one label, 10 steps", "180 ms", "140 ms"),
    ("whole request, one control, 20 steps, guided", "520 ms", "440 ms"),
    ("whole request, joint, 20 steps, guided", "1900 ms", "1700 ms"),
    ("each Triton kernel, 8 domains, 1024 px, share of copy bandwidth", "70 %", "85 %"),
    ("kernels against our own torch path, whole forward", "1.2x", "1.28x"),
)


def markdown(figures: Figures) -> str:
    """All tables of one run: conditions, goals, every case, accuracy, memory."""
    parts = [_conditions(figures), _goals(figures), _cases(figures), _errors(figures)]
    return "\n\n".join(part for part in (*parts, _memory(figures)) if part)


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
        least = [float(x) for x in (goal.stretch, goal.must) if x]
        reached = [x for x in least if float(ratio) >= x]
        verdict = "missed" if not reached else "stretch met" if goal.stretch else "met"
        if reached and goal.stretch and float(ratio) < float(goal.stretch):
            verdict = "met"
        rows.append((goal.title, must, stretch, f"{float(ratio):.2f}x", verdict))
    ratios = {k: float(v) for k, v in figures.items() if k.startswith("error_ratio.bf16.")}
    if ratios:
        worst = max(ratios, key=ratios.__getitem__)
        verdict = "met" if ratios[worst] <= 1.05 else "missed"
        what = f"{ratios[worst]:.2f} ({worst.removeprefix('error_ratio.bf16.')})"
        title = "bfloat16 error against float32 truth, over the baseline's (the worst)"
        rows.append((title, "at most 1.05", "", what, verdict))
    if not any(key.endswith(".cuda") for key in figures):
        rows += [(title, must, stretch, GPU, "") for title, must, stretch in GPU_GOALS]
    return _table(("goal", "must", "stretch", "measured", ""), rows)


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
        rows.append((f"`{key}`", f"**{float(value):.2f}x**", ours, baseline, pairs, spread))
    return _table(("case", "ratio", "ours", "baseline", "pairs", "ratios of the pairs"), rows)


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


def _table(head: tuple[str, ...], rows: list) -> str:
    if not rows:
        return ""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
