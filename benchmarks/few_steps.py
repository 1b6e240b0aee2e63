"""What perception in two steps loses on the built-in model, label by label, against ten steps.

    python -m comfyui_jodi.benchmarks.few_steps --scenes 128 --json few_steps.json

Same scenes, same noise, same weights for every schedule. Results are printed, and written, after
every chunk of scenes.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..jodi_core.evaluation.scores import Tally, make_tally
from ..jodi_core.labels.maps import postprocess
from ..jodi_core.model.facts import PERCEPTION_STEPS
from ..jodi_core.pipeline import JodiPipeline
from ..kit.scenes.render import check_evaluation_seeds, render_scenes

Say = Callable[[str], None]


@dataclass
class Schedule:
    """One schedule, and what has been measured of it."""

    options: dict
    tallies: dict[str, Tally] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)


def schedules() -> dict[str, Schedule]:
    """The default first: the others are compared to it."""
    made = {f"{PERCEPTION_STEPS} steps": Schedule({"steps": PERCEPTION_STEPS})}
    # Two steps leave one free choice, the level in between, shift / (1 + shift): 0.5, 0.75, 0.9.
    for shift in (1.0, 3.0, 9.0):
        made[f"two steps, shift {shift:g}"] = Schedule({"steps": 2, "shift": shift})
    return made


def measure(scenes: int, chunk: int, *, seed: int, say: Say, keep: Callable[[dict], None]) -> None:
    """Perceive all labels by every schedule; `keep` gets the figures after each chunk."""
    pipeline = JodiPipeline.embedded()
    tried = schedules()
    power: dict[str, float] = {}
    begun = time.perf_counter()
    for start in range(0, scenes, chunk):
        seeds = list(check_evaluation_seeds(seed, scenes)[start : start + chunk])
        truth = render_scenes(seeds, pipeline.native_size)
        image = truth.pictures[:, pipeline.names.index("image")]
        reference: dict[str, Tensor] = {}
        for schedule in tried.values():
            raw = pipeline.perceive(image, seed=seeds, **schedule.options).raw
            for name, x in raw.items():
                exact = reference.setdefault(name, x)
                difference = float((x - exact).double().square().sum())
                schedule.error[name] = schedule.error.get(name, 0.0) + difference
                if x is exact:
                    power[name] = power.get(name, 0.0) + float(x.double().square().sum())
                tally = schedule.tallies.setdefault(name, make_tally(name))
                tally.add(postprocess(name, x), truth)
        done = start + len(seeds)
        say(f"{done} scenes in {time.perf_counter() - begun:.0f} s")
        keep({"scenes": done, "schedules": _summarise(tried, power)})


def _summarise(tried: dict[str, Schedule], power: dict[str, float]) -> dict:
    rows = {}
    for name, schedule in tried.items():
        drift = {of: (e / power[of]) ** 0.5 for of, e in schedule.error.items()}
        row = {
            f"{of}.{m}": tally.values()[m]
            for of, tally in schedule.tallies.items()
            for m in tally.headline
        }
        row |= {f"{of}.drift": value for of, value in drift.items()}
        row["drift"] = sum(drift.values()) / len(drift)
        rows[name] = {k: round(v, 5) for k, v in row.items()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=128, help="how many (default: 128)")
    parser.add_argument("--chunk", type=int, default=16, help="scenes at a time (default: 16)")
    parser.add_argument("--first-seed", type=int, default=1 << 24)
    parser.add_argument("--json", type=Path, default=Path("few_steps.json"))
    args = parser.parse_args()

    def keep(figures: dict) -> None:
        args.json.write_text(json.dumps(figures, indent=1))

    measure(args.scenes, args.chunk, seed=args.first_seed, say=_say, keep=keep)
    _say(args.json.read_text())


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
