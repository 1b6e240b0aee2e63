"""`jodi train nano`: from random weights to the files of jodi-nano, with a report card.

It runs the other stages one after the other, each with its own options, so that what it does can be
done by hand too.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..jodi_core.evaluation.bars import write_report_card
from ..jodi_core.evaluation.evaluate import evaluate
from ..jodi_core.pipeline import JodiPipeline
from ..jodi_core.training.export import NAMES
from ..jodi_core.training.run import PICTURE_SHARES, TrainingRun, write_json
from ..jodi_core.training.transformer import RoleSwitchTask, TrainingSettings
from ..kit.autoencoder.checkpoint import load_autoencoder
from ..kit.errors import CheckpointError
from ..kit.files import read_json
from ..kit.scenes.render import render_scenes
from ..kit.training.autoencoder import RoundTripTask
from ..kit.training.flops import count_flops
from ..kit.training.state import RunFolder
from .progress import Console

SIZE = 64


@dataclass
class Recipe:
    """How much of everything; by default as much as jodi-nano itself is made with.

    scenes: to train on. *_steps: updates at most. minutes: of everything together, or None for no
    limit. scene_seconds: what rendering one scene took when the run was begun, the measure for all
    that cannot be stopped early. *_minutes: of training, set when it begins, from what is left.
    """

    scenes: int = 20_000
    autoencoder_steps: int = 8_000
    transformer_steps: int = 40_000
    minutes: float | None = None
    scene_seconds: float = 0.0
    autoencoder_minutes: float | None = None
    transformer_minutes: float | None = None


# Shares of a budget, the trainings' of what is left when they begin. They end on time; what comes
# between them does not, so each gets less than seems free.
SCENES, AUTOENCODER, TRANSFORMER, EVALUATION = 0.1, 0.33, 0.5, 0.8
TRIED = 8  # scenes that are rendered to see how long one takes
ENCODING = 1.0  # what a scene costs there, as a multiple of its rendering
# What a scene costs in the evaluation, without and for each step of control; the steps of a long
# evaluation, and those where time is left for fewer than so many scenes.
EVALUATING, CONTROL_STEP = 20.0, 5.0
STEPS, FEW_STEPS, FEW_SCENES = 20, 4, 8
BASELINES = 0.15  # share of the evaluation's time that training scenes for baselines may take


def nano(args, console: Console) -> int:
    """Make jodi-nano from nothing: scenes, autoencoder, latents, transformer, export, report card.

    The same command goes on where an earlier one was stopped.
    """
    begun = time.monotonic()
    run = TrainingRun(args.run_folder)
    recipe = _begin_recipe(run, args.minutes)
    where = ["--run", run.root]

    def left() -> float:
        """Seconds of the budget."""
        return max(0.0, 60 * (recipe.minutes or 0) - (time.monotonic() - begun))

    def stage(name: str, *words) -> None:
        console.note(f"{name}, after {(time.monotonic() - begun) / 60:.1f} min")
        chosen = args.stages[name].parse_args([str(word) for word in (*where, *words)])
        chosen.run(chosen, console)

    stage("scenes", "--count", recipe.scenes, "--size", SIZE, *_few_workers(recipe))
    if not run.vae.exists():
        limit = _limit(run, recipe, "autoencoder", AUTOENCODER * left())
        stage("autoencoder", "--steps", recipe.autoencoder_steps, *limit, "--device", args.device)
    stage("latents", "--device", args.device)
    if not run.model.exists():
        limit = _limit(run, recipe, "transformer", TRANSFORMER * left())
        steps = ("--steps", recipe.transformer_steps)
        where_it_runs = ("--device", args.device, "--processes", args.processes)
        stage("transformer", *steps, *limit, *where_it_runs)
    stage("export", "--to", args.to, *(["--force"] if args.force else []))
    console.note("evaluating")
    values = _evaluate(args, recipe, left())
    values["training.flops"] = _count_flops(run, 16 if recipe.minutes is None else 4)
    values["training.minutes"] = round((time.monotonic() - begun) / 60, 2)
    for line in write_report_card(values):
        console.result(line)
    console.result(
        f"{values['training.flops']:.2e} floating-point operations of training, "
        f"{values['training.minutes']} minutes in all, {values['scenes']} scenes evaluated"
    )
    path = args.to / "report_card.json"
    write_json(path, values)
    console.result(str(path))
    return 0


def _begin_recipe(run: TrainingRun, minutes: float | None) -> Recipe:
    """The recipe that the run was begun with; else the full one, or one for `minutes`."""
    path = run.root / "recipe.json"
    if path.exists():
        return _read_recipe(path)
    recipe = Recipe() if minutes is None else _begin_within(minutes)
    write_json(path, dataclasses.asdict(recipe))
    return recipe


def _read_recipe(path: Path) -> Recipe:
    values = read_json(path, [field.name for field in dataclasses.fields(Recipe)])
    try:
        recipe = Recipe(**values)
        given = {name: value for name, value in values.items() if value is not None}
        given["scene_seconds"] += 1e-9  # it may be 0
        wrong = [name for name, value in given.items() if not value > 0]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no recipe ({error}); remove it") from None
    if wrong:
        raise CheckpointError(f"{path}: {', '.join(wrong)} must be above zero; remove the file")
    return recipe


def _begin_within(minutes: float) -> Recipe:
    """A recipe for so many minutes on this machine."""
    render_scenes([0], SIZE)  # the first takes longer
    began = time.monotonic()
    render_scenes(list(range(TRIED)), SIZE)
    scene = (time.monotonic() - began) / TRIED
    scenes = int(SCENES * 60 * minutes / (scene * (1 + ENCODING)))
    return Recipe(scenes=min(Recipe.scenes, max(32, scenes)), minutes=minutes, scene_seconds=scene)


def _few_workers(recipe: Recipe) -> tuple:
    """One process renders a few scenes sooner than several have started."""
    few = recipe.minutes is not None and recipe.scenes * recipe.scene_seconds < 60
    return ("--workers", 1) if few else ()


def _limit(run: TrainingRun, recipe: Recipe, stage: str, seconds: float) -> tuple:
    """The minutes of a training, which it keeps when it is gone on with."""
    if recipe.minutes is None:
        return ()
    name = f"{stage}_minutes"
    if getattr(recipe, name) is None:
        setattr(recipe, name, max(0.02, seconds / 60))
        write_json(run.root / "recipe.json", dataclasses.asdict(recipe))
    return ("--minutes", getattr(recipe, name))


def _evaluate(args, recipe: Recipe, seconds: float) -> dict:
    """All values of the exported model, on as many scenes as the time that is left allows."""
    model, vae = (args.to / NAMES[part] for part in ("transformer", "autoencoder"))
    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    pipeline = JodiPipeline.from_files(model, vae, device=device)
    pipeline.text_encoder = TrainingRun(args.run_folder).text_encoder()
    if recipe.minutes is None:
        return dict(evaluate(pipeline).values)
    return dict(evaluate(pipeline, **_plan_evaluation(recipe, EVALUATION * seconds)).values)


def _plan_evaluation(recipe: Recipe, seconds: float) -> dict[str, Any]:
    """Scenes, control steps and training scenes of an evaluation that takes so long."""
    rendered = seconds / max(recipe.scene_seconds, 1e-4)
    baselines = min(256, max(4, int(BASELINES * rendered)))
    steps = STEPS
    scenes = int((rendered - baselines) / (EVALUATING + CONTROL_STEP * steps))
    if scenes < FEW_SCENES:
        steps = FEW_STEPS
        scenes = int((rendered - baselines) / (EVALUATING + CONTROL_STEP * steps))
    return {
        "scenes": min(512, max(2, scenes)),
        "control_steps": steps,
        "training_scenes": baselines,
    }


def _count_flops(run: TrainingRun, batches: int) -> float:
    """Floating-point operations of both trainings, from those of a few micro-batches."""
    store = run.store()
    vae, _ = load_autoencoder(run.vae, dtype=torch.float32)
    states = [RunFolder(folder).load() or {} for folder in (run.autoencoder, run.transformer)]
    a_picture = RoundTripTask(vae, store, PICTURE_SHARES, 1, torch.float32, (0.0, 0.0))
    first = count_flops(a_picture, 1) * run.autoencoder_record()["batch"] * states[0].get("step", 0)
    model, steps = run.averaged_transformer()
    settings = TrainingSettings(steps=steps)
    latents = run.encode(store, run.vae)
    task = RoleSwitchTask(
        model.requires_grad_(True), latents, store.captions, run.text_encoder(), settings, "cpu"
    )
    return first + count_flops(task, batches) * settings.micro_batches * steps
