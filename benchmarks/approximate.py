"""What each approximate extra loses on the built-in model: label by label, against exact results.

    python -m comfyui_jodi.benchmarks.approximate --scenes 128 --json approximate.json

Same scenes, same noise, same weights for every variant. Results are printed, and written, after
every chunk of scenes.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..jodi_core.approximate.step_cache import StepCache
from ..jodi_core.evaluation.scores import Tally, make_tally
from ..jodi_core.labels.maps import postprocess
from ..jodi_core.model.facts import PERCEPTION_STEPS, STEPS
from ..jodi_core.pipeline import JodiPipeline
from ..kit.scenes.render import SceneBatch, evaluation_seeds, render_scenes

Say = Callable[[str], None]


@dataclass
class Variant:
    """One way to run a job, and what has been measured of it."""

    options: dict
    fp8: bool = False
    cache: StepCache | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0
    saved: int = 0


def variants(task: str) -> dict[str, Variant]:
    """Exact first: the others are compared to it."""
    steps = PERCEPTION_STEPS if task == "perception" else STEPS
    made = {"exact": Variant({"steps": steps})}
    for threshold in (0.1, 0.2, 0.4):
        made[f"step cache {threshold}"] = Variant({"steps": steps}, cache=StepCache(threshold))
    made["fp8 (emulated)"] = Variant({"steps": steps}, fp8=True)
    if task == "perception":
        # The only free choice is the level in between, shift / (1 + shift): 0.5, 0.75, 0.9.
        for shift in (1.0, 3.0, 9.0):
            made[f"two steps, shift {shift:g}"] = Variant({"steps": 2, "shift": shift})
    return made


def measure(task: str, scenes: int, chunk: int, *, seed: int, say: Say, keep) -> dict:
    """Run a task in every variant; what `keep` is called with after each chunk, and returned."""
    exact, eight = JodiPipeline.embedded(), JodiPipeline.embedded().approximate_fp8(emulate=True)
    tried = variants(task)
    power: dict[str, float] = {}
    result: dict = {}
    begun = time.perf_counter()
    for start in range(0, scenes, chunk):
        seeds = list(evaluation_seeds(seed, scenes)[start : start + chunk])
        truth = render_scenes(seeds, exact.native_size)
        reference: dict[str, Tensor] = {}
        for variant in tried.values():
            raw = _run(eight if variant.fp8 else exact, exact, task, variant, truth, seeds)
            for name, x in raw.items():
                true = reference.setdefault(name, x)
                difference = float((x - true).double().square().sum())
                variant.error[name] = variant.error.get(name, 0.0) + difference
                if x is true:
                    power[name] = power.get(name, 0.0) + float(x.double().square().sum())
                tally = variant.tallies.setdefault(name, make_tally(name))
                tally.add(postprocess(name, x), truth)
        result = {"scenes": start + len(seeds), "variants": _summary(tried, power)}
        say(f"{task}: {result['scenes']} scenes in {time.perf_counter() - begun:.0f} s")
        keep(result)
    return result


def _run(pipeline, encoder, task, variant: Variant, truth: SceneBatch, seeds) -> dict[str, Tensor]:
    names = encoder.names
    given = ["image"] if task == "perception" else list(names[1:])
    plan = encoder.plan([n for n in names if n not in given], given)
    pictures = {n: truth.pictures[:, names.index(n)] for n in given}
    clean = encoder.encode_conditions(plan, pictures, encoder.native_size, len(seeds))
    text = negative = None
    if plan.uses_text:
        text, negative = encoder.encode_text(truth.captions), encoder.encode_text("")
    latents = pipeline.sample(
        plan,
        clean,
        text,
        negative,
        guidance=encoder.default_guidance(plan),
        seed=seeds,
        approximate_step_cache=variant.cache,
        **variant.options,
    )
    if variant.cache is not None:
        variant.saved += variant.cache.saved
        variant.evaluations += variant.cache.evaluations
    return encoder.decode(latents, plan.generated_names)


def _summary(tried: dict[str, Variant], power: dict[str, float]) -> dict:
    rows = {}
    for name, variant in tried.items():
        drift = {of: (e / power[of]) ** 0.5 for of, e in variant.error.items()}
        row = {
            f"{of}.{m}": tally.values()[m]
            for of, tally in variant.tallies.items()
            for m in tally.headline
        }
        row |= {f"{of}.drift": value for of, value in drift.items()}
        row["drift"] = sum(drift.values()) / len(drift)
        row["saved"] = variant.saved / max(variant.evaluations, 1)
        rows[name] = {k: round(v, 5) for k, v in row.items()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenes", type=int, default=128, help="of perception (default: 128)")
    parser.add_argument("--control-scenes", type=int, help="default: as many as of perception")
    parser.add_argument("--chunk", type=int, default=16, help="scenes at a time (default: 16)")
    parser.add_argument("--first-seed", type=int, default=1 << 24)
    parser.add_argument("--json", type=Path, default=Path("approximate.json"))
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    found: dict[str, dict] = {}
    counts = {"perception": args.scenes, "control": args.control_scenes}
    for task, scenes in counts.items():

        def keep(result: dict, task: str = task) -> None:
            found[task] = result
            args.json.write_text(json.dumps(found, indent=1))

        scenes = args.scenes if scenes is None else scenes
        if scenes:
            measure(task, scenes, args.chunk, seed=args.first_seed, say=_say, keep=keep)
    _say(json.dumps(found, indent=1))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
