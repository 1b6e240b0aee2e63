"""What each task of an evaluation took: steps, guidance, roles, seconds, memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...kit.memory import measure_peak_memory
from ..pipeline import JodiPipeline, Result
from ..roles import RolePlan


@dataclass
class _Run:
    plan: RolePlan
    steps: int
    guidance: float
    scenes: int = 0
    seconds: float = 0.0
    peak: float | None = None


class RunBoard:
    """Does the runs of a pipeline, and keeps what they took by task."""

    def __init__(self, pipeline: JodiPipeline):
        self.pipeline = pipeline
        self._runs: dict[str, _Run] = {}

    def do(
        self,
        task: str,
        scenes: int,
        make: Callable[[], Result],
        *,
        steps: int,
        guidance: float | None,
    ) -> Result:
        """Call `make`, a run of so many scenes with these settings, and return what it returns."""
        began = time.perf_counter()
        result = make()
        spent = time.perf_counter() - began
        if guidance is None:
            guidance = self.pipeline.default_guidance(result.plan)
        run = self._runs.setdefault(task, _Run(result.plan, steps, guidance))
        run.scenes, run.seconds = run.scenes + scenes, run.seconds + spent
        run.peak = measure_peak_memory(self.pipeline.device)
        return result

    def values(self) -> dict[str, float | int | str | None]:
        """By key "run.<task>.<what>".

        trained: whether this model met these roles in training, as its file says; published:
        whether the released training has them. seconds_per_scene: with encoding and decoding.
        peak_memory_mb: what the process had held at most when the task was done.
        """
        values: dict[str, float | int | str | None] = {}
        for task, run in self._runs.items():
            plan, key = run.plan, f"run.{task}"
            values |= {
                f"{key}.roles": plan.text(),
                f"{key}.trained": _answer(plan.trained(self.pipeline.facts.trained_roles)),
                f"{key}.published": _answer(plan.trained("published")),
                f"{key}.steps": run.steps,
                f"{key}.guidance": run.guidance,
                f"{key}.seconds_per_scene": round(run.seconds / run.scenes, 5),
                f"{key}.peak_memory_mb": run.peak,
            }
        return values


def _answer(yes: bool) -> str:
    return "yes" if yes else "no"
