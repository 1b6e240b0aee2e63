"""`jodi train nano`: from random weights to the files of jodi-nano, with a report card.

It runs the other stages one after the other, each with its own options, so that what it does can be
done by hand too.
"""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Recipe:
    """The numbers of scenes and steps; by default those that made jodi-nano itself.

    Minutes end a training earlier than its steps do; None takes all steps.
    """

    scenes: int = 20_000
    autoencoder_steps: int = 8_000
    autoencoder_minutes: float | None = None
    transformer_steps: int = 40_000
    transformer_minutes: float | None = None
    evaluation_scenes: int = 512


# Shares of a time budget. The rest is for starting, loading and writing.
SCENES, AUTOENCODER, TRANSFORMER, EVALUATION = 0.2, 0.27, 0.35, 0.08
TRIED = 32  # scenes that are rendered to see how long one takes
ENCODING, EVALUATING = 1.0, 120.0  # what a scene costs there, as a multiple of its rendering


def nano(args, console: Console) -> int:
    """Make jodi-nano from nothing: scenes, autoencoder, latents, transformer, export, report card.

    The same command goes on where an earlier one was stopped.
    """
    begun = time.monotonic()
    run = TrainingRun(args.run_folder)
    recipe = _recipe(run, args.minutes)
    where = ["--run", run.root]

    def stage(name: str, *words) -> None:
        console.note(f"{name}, after {(time.monotonic() - begun) / 60:.1f} min")
        chosen = args.stages[name].parse_args([str(word) for word in (*where, *words)])
        chosen.run(chosen, console)

    stage("scenes", "--count", recipe.scenes, "--size", SIZE)
    if not run.vae.exists():
        stage(
            "autoencoder",
            *("--steps", recipe.autoencoder_steps),
            *_limit(recipe.autoencoder_minutes),
            *("--device", args.device),
        )
    stage("latents", "--device", args.device)
    if not run.model.exists():
        stage(
            "transformer",
            *("--steps", recipe.transformer_steps),
            *_limit(recipe.transformer_minutes),
            *("--device", args.device, "--processes", args.processes),
        )
    stage("export", "--to", args.to, *(["--force"] if args.force else []))
    console.note("evaluating")
    values = _evaluate(args, recipe)
    values["training.flops"] = _count_flops(run)
    values["training.minutes"] = round((time.monotonic() - begun) / 60, 2)
    for line in write_report_card(values):
        console.result(line)
    console.result(
        f"{values['training.flops']:.2e} floating-point operations of training, "
        f"{values['training.minutes']} minutes in all, {recipe.evaluation_scenes} scenes evaluated"
    )
    path = args.to / "report_card.json"
    write_json(path, values)
    console.result(str(path))
    return 0


def _recipe(run: TrainingRun, minutes: float | None) -> Recipe:
    """The recipe that the run was begun with; else the full one, or one for `minutes`."""
    path = run.root / "recipe.json"
    if path.exists():
        return _read_recipe(path)
    recipe = Recipe() if minutes is None else _recipe_within(60 * minutes)
    write_json(path, dataclasses.asdict(recipe))
    return recipe


def _read_recipe(path: Path) -> Recipe:
    values = read_json(path, [field.name for field in dataclasses.fields(Recipe)])
    try:
        recipe = Recipe(**values)
        wrong = [name for name, value in values.items() if value is not None and not value > 0]
    except TypeError as error:
        raise CheckpointError(f"{path} is no recipe ({error}); remove it") from None
    if wrong:
        raise CheckpointError(f"{path}: {', '.join(wrong)} must be above zero; remove the file")
    return recipe


def _recipe_within(seconds: float) -> Recipe:
    """The recipe that uses about so many seconds on this machine."""
    began = time.monotonic()
    render_scenes(list(range(TRIED)), SIZE)
    scene = (time.monotonic() - began) / TRIED
    prepared = scene * (1 / (os.cpu_count() or 1) + ENCODING)
    return Recipe(
        scenes=min(Recipe.scenes, max(64, int(SCENES * seconds / prepared))),
        autoencoder_minutes=AUTOENCODER * seconds / 60,
        transformer_minutes=TRANSFORMER * seconds / 60,
        evaluation_scenes=min(512, max(8, int(EVALUATION * seconds / (EVALUATING * scene)))),
    )


def _limit(minutes: float | None) -> tuple:
    return () if minutes is None else ("--minutes", minutes)


def _evaluate(args, recipe: Recipe) -> dict:
    """All values of the exported model."""
    model, vae = (args.to / NAMES[part] for part in ("transformer", "autoencoder"))
    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    pipeline = JodiPipeline.from_files(model, vae, device=device)
    pipeline.text_encoder = TrainingRun(args.run_folder).text_encoder()
    return dict(evaluate(pipeline, scenes=recipe.evaluation_scenes).values)


def _count_flops(run: TrainingRun) -> float:
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
    return first + count_flops(task, 16) * settings.micro_batches * steps
