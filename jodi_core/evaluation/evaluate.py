"""The whole evaluation: how well a pipeline does each task on scenes it has never seen.

Every label is perceived alone from the picture (one sample each, no averaging), the picture is made
from all labels, labels are made from labels, and whole sets of maps are made at once. Scenes come
in chunks and only sums are kept, so memory does not grow with their number.
"""

import time
from collections.abc import Callable, Iterable

from ...kit.errors import JodiError, ShapeError
from ...kit.scenes.render import TRAIN_SEED_END, check_evaluation_seeds, render_scenes
from ..model.facts import STEPS
from ..pipeline import JodiPipeline
from .baselines import BaselineBoard, average_training_scenes
from .real import Infer
from .report import Report, Value
from .tasks import Evaluation

PARTS = ("perception", "control", "any", "joint")
MORE_PARTS = ("reextraction", "patterns")
"""Only done when they are named: the picture from each label alone, and the label read back from
it; more mixes of roles."""

Progress = Callable[[int, int, str], None]


def evaluate(
    pipeline: JodiPipeline,
    *,
    scenes: int = 512,
    first_seed: int = TRAIN_SEED_END,
    size: int | tuple[int, int] | None = None,
    steps: int | None = None,
    control_steps: int = STEPS,
    guidance: float | None = None,
    batch: int = 32,
    parts: Iterable[str] = PARTS,
    training_scenes: int = 256,
    resamples: int = 1000,
    show: int = 8,
    extractor: Infer | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a pipeline on scenes of evaluation seeds.

    scenes, first_seed: seeds first_seed.. are used, at least 2^24. size: (height, width) or one
    number; the pipeline's own by default. steps: of single-label perception and of all labels at
    once, always without guidance. control_steps, guidance: of the tasks that read text. Steps and
    guidance that are None are the pipeline's own. batch: scenes in memory at a time. parts: which
    of `PARTS` and `MORE_PARTS` to do.
    training_scenes: how many the baselines are averaged over. resamples: of the bootstrap. show:
    scenes whose pictures are kept for the report; 0 leaves out the best and the worst ones too.
    extractor: a program that reads labels back from pictures; else the built-in reader does, for
    the labels it knows. progress(done, total, what) after every run.
    Row i of a run uses its scene's seed as noise seed, so that results do not depend on `batch`.

    Returns: a `Report`, whose values are flat: "<what>.<measure>.<whose>".
    Raises: JodiError for training seeds, counts or parts that make no sense; ShapeError for a size
    that the pipeline cannot do.
    """
    seeds = check_evaluation_seeds(first_seed, scenes)
    height, width = _checked_size(pipeline, size)
    wanted = _checked_parts(parts)
    steps = pipeline.facts.perception_steps if steps is None else steps
    if min(batch, steps, control_steps, training_scenes) < 1:
        raise JodiError(
            "batch, steps, control_steps and training_scenes must be at least 1, got "
            f"{batch}, {steps}, {control_steps} and {training_scenes}"
        )
    begun = time.perf_counter()
    run = Evaluation(
        pipeline,
        (height, width),
        steps=steps,
        control_steps=control_steps,
        guidance=guidance,
        show=show,
        extractor=extractor,
    )
    statistics = average_training_scenes((height, width), training_scenes)
    run.baselines = {name: BaselineBoard(name, statistics) for name in run.names}
    total, done = -(-scenes // batch) * len(wanted), 0
    for start in range(0, scenes, batch):
        chunk = list(seeds[start : start + batch])
        truth = render_scenes(chunk, (height, width))
        run.begin(truth, chunk)
        for part in wanted:
            run.tasks[part](truth, chunk)
            done += 1
            if progress:
                progress(done, total, f"{part}, scene {start + len(chunk)} of {scenes}")
    values: dict[str, Value] = dict(run.values(resamples))
    values |= {"scenes": scenes, "first_seed": first_seed, "size": height, "steps": steps}
    if height != width:
        values |= {"size": f"{height}x{width}"}
    values |= run.settings(wanted)
    values |= {"baseline.training_scenes": training_scenes, "batch": batch}
    values["seconds"] = round(time.perf_counter() - begun, 1)
    return Report(values, run.strips, run.examples(first_seed) if show else [])


def _checked_parts(parts: Iterable[str]) -> list[str]:
    parts = list(dict.fromkeys(parts))
    known = (*PARTS, *MORE_PARTS)
    unknown = [p for p in parts if p not in known]
    if unknown or not parts:
        raise JodiError(
            f"expected some of {', '.join(known)} as parts of an evaluation, got "
            f"{', '.join(unknown) or 'none'}"
        )
    return parts


def _checked_size(pipeline: JodiPipeline, size: int | tuple[int, int] | None) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size or pipeline.native_size
    if height < 1 or width < 1 or height % pipeline.factor or width % pipeline.factor:
        raise ShapeError(
            f"sides must be positive multiples of {pipeline.factor} for this model, got "
            f"{height} x {width}"
        )
    return height, width
