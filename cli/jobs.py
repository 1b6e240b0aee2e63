"""Running jobs: read, fit, run, save. A job that fails is reported at the end; the others go on."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..jodi_core.domains import find_named_domain
from ..jodi_core.job.given import Given, prepare
from ..jodi_core.job.size import resolve_size
from ..jodi_core.pipeline import JodiPipeline, Result
from ..jodi_core.roles import RolePlan
from ..jodi_core.text import TextFeatures
from ..kit.errors import JodiError
from ..kit.pictures.contact_sheet import Cell, draw_contact_sheet, draw_thumbnail
from ..kit.pictures.files import save_png
from ..kit.pictures.frame import Frame
from .formats import list_format_endings, save_formatted
from .inputs import SHEET, Job, Problem, name_apart
from .pictures import Maps, explain_doubt, list_endings, read_picture, save_result
from .progress import Console, Stop, stop_on_interrupt

logger = logging.getLogger("jodi")

SHEET_ROWS, SHEET_SIDE = 40, 192


@dataclass(frozen=True)
class Ready:
    """A job with its pictures at the model's size; frame is the way back to the original."""

    job: Job
    pictures: dict[str, Tensor]
    size: tuple[int, int]
    frame: Frame | None


@dataclass
class Outcome:
    """What has been made so far, and what went wrong."""

    done: int = 0
    problems: list[Problem] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    doubted: set[str] = field(default_factory=set)


def run_jobs(
    pipeline: JodiPipeline,
    plan: RolePlan,
    jobs: Sequence[Job],
    args,
    console: Console,
    problems: Sequence[Problem] = (),
) -> int:
    """Run every job, write results and a contact sheet, and return the exit status.

    args: the options of `options`. problems: what has failed before. Ctrl-C ends the work after the
    step or the files in progress; the contact sheet of what is done is written all the same.
    Raises: Interrupted or KeyboardInterrupt after Ctrl-C.
    """
    console.note(plan.summary(pipeline.trained_roles))
    outcome, started = Outcome(problems=list(problems)), time.monotonic()
    inputs = [path for job in jobs for path in job.pictures.values()]
    one_file = list_format_endings(args) if hasattr(args, "format") else None
    endings = one_file or list_endings(plan.generated_names)
    stems = name_apart([job.stem for job in jobs], endings, args.out, inputs)
    starts = {id(job): args.out / stem for job, stem in zip(jobs, stems, strict=True)}
    with stop_on_interrupt(console) as stop:
        try:
            for group in _groups(pipeline, jobs, args, outcome):
                if stop.asked:
                    break
                title = _title(group, outcome, len(jobs))
                try:
                    result = _run_group(pipeline, plan, group, args, console, title, stop)
                except (JodiError, RuntimeError, MemoryError) as error:
                    message = _group_problem(error)
                    outcome.problems += [(_name(ready.job), message) for ready in group]
                    continue
                for row, ready in enumerate(group):
                    start = starts[id(ready.job)]
                    try:
                        _save_row(pipeline, result, row, ready, start, args, console)
                    except JodiError as error:
                        outcome.problems.append((_name(ready.job), str(error)))
                        continue
                    _remember(result, row, ready, start.name, outcome)
                    outcome.done += 1
        finally:
            _save_sheet(outcome, args.out, inputs, console)
    seconds = time.monotonic() - started
    console.note(
        f"{outcome.done} of {outcome.done + len(outcome.problems)} done in {seconds:.1f} s"
    )
    return report_problems(outcome.problems, console)


def report_problems(problems: Sequence[Problem], console: Console) -> int:
    """Name every failure, one line each; 0 when there is none, else 1."""
    if problems:
        console.say(f"{len(problems)} failed:")
    for what, why in problems:
        console.say(f"  {why}" if why.startswith(what) else f"  {what}: {why}")
    return 1 if problems else 0


def _groups(pipeline, jobs: Sequence[Job], args, outcome: Outcome) -> Iterator[list[Ready]]:
    """Jobs that can be computed at once: of one size, at most `args.batch` of them."""
    group: list[Ready] = []
    for job in jobs:
        try:
            ready = _prepare(pipeline, job, args, outcome)
        except JodiError as error:
            outcome.problems.append((_name(job), str(error)))
            continue
        if group and (group[0].size != ready.size or len(group) >= args.batch):
            yield group
            group = []
        group.append(ready)
    if group:
        yield group


def _title(group: list[Ready], outcome: Outcome, total: int) -> str:
    first = group[0].job.stem
    if total == 1:
        return first
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{first}{more} ({outcome.done + len(outcome.problems) + 1} of {total})"


def _name(job: Job) -> str:
    paths = list(job.pictures.values())
    return str(paths[0]) if len(paths) == 1 else job.stem


def _prepare(pipeline: JodiPipeline, job: Job, args, outcome: Outcome) -> Ready:
    maps = Maps.of(args)
    pictures = {name: read_picture(name, path, maps) for name, path in job.pictures.items()}
    given = _fitted(pipeline, pictures, args)
    for doubt in given.doubts:
        line = f"{job.pictures[doubt.name]}: {explain_doubt(doubt)}"
        if line not in outcome.doubted:  # several seeds may share the pictures
            outcome.doubted.add(line)
            logger.warning("%s", line)
    fitted = {name: given.fitted(name) for name in given.pictures}
    return Ready(
        job, fitted, given.size, None if getattr(args, "model_size", False) else given.frame
    )


def _fitted(pipeline: JodiPipeline, pictures: dict[str, Tensor], args) -> Given:
    """The pictures at the size that the options choose."""
    choice, native, explicit = resolve_size(args.size, pipeline.native_size)
    return prepare(
        pictures,
        choice,
        factor=pipeline.factor,
        native=native,
        explicit=explicit,
        mode=getattr(args, "fit", "crop"),
        names=pipeline.names,
    )


def _run_group(
    pipeline: JodiPipeline,
    plan: RolePlan,
    group: list[Ready],
    args,
    console: Console,
    title: str,
    stop: Stop,
) -> Result:
    with console.bar(title) as update:

        def after_step(info) -> bool:
            update(info.step, info.steps)
            return not stop.asked

        return pipeline.run(
            plan,
            conditions={
                name: torch.cat([ready.pictures[name] for ready in group])
                for name in plan.condition_names
            },
            prompt=[ready.job.prompt for ready in group],
            negative=getattr(args, "negative", ""),
            text=_stack([ready.job.text for ready in group]),
            negative_text=_stack([ready.job.negative_text for ready in group]),
            size=group[0].size,
            batch=len(group),
            steps=args.steps,
            guidance=getattr(args, "guidance", None),
            seed=[ready.job.seed for ready in group],
            sampler=args.sampler,
            tile=args.tile,
            callback=after_step,
        )


def _stack(features: list[TextFeatures | None]) -> TextFeatures | None:
    if features[0] is None:
        return None
    given = [f for f in features if f is not None]
    return TextFeatures(torch.cat([f.caption for f in given]), torch.cat([f.mask for f in given]))


def _save_row(pipeline, result: Result, row: int, ready: Ready, start: Path, args, console) -> None:
    job = ready.job
    if getattr(args, "format", "png") != "png":
        raw = {name: x[row : row + 1] for name, x in result.raw.items()}
        given = job.pictures["image"] if ready.frame is not None else ready.pictures["image"]
        console.result(str(save_formatted(raw, given, ready.frame, start, args)))
        return
    settings = {
        **{
            k: result.settings[k]
            for k in ("model", "dtype", "task", "roles", "steps", "guidance", "sampler")
        },
        "seed": job.seed,
        "prompt": job.prompt,
        "negative": getattr(args, "negative", ""),
        "width": ready.size[1],
        "height": ready.size[0],
        # names only: paths on somebody's disk are private
        "given": {name: path.name for name, path in job.pictures.items()},
        "device": str(pipeline.device),
        "near": args.near,
        "normals": args.normals,
    }
    if job.text is not None:
        settings["text_features"] = args.text_features.name
    maps = Maps.of(args)
    for name, raw in result.raw.items():
        one = raw[row : row + 1]
        for path in save_result(name, one, ready.frame, start, settings, maps):
            console.result(str(path))


def _remember(result: Result, row: int, ready: Ready, stem: str, outcome: Outcome) -> None:
    """Keep small copies for the contact sheet, so that many results need little memory."""
    if len(outcome.rows) >= SHEET_ROWS:
        return
    cells = []
    for name in result.plan.active_names:
        given = " (given)" if name in ready.job.pictures else ""
        small = draw_thumbnail(result.pictures[name][row], SHEET_SIDE)
        cells.append((f"{find_named_domain(name).title}{given}", small))
    outcome.rows.append(cells)
    prompt = f": {ready.job.prompt}" if ready.job.prompt and result.plan.uses_text else ""
    outcome.headings.append(f"{stem}{prompt}")


def _save_sheet(outcome: Outcome, folder: Path, inputs: list[Path], console: Console) -> None:
    if not outcome.rows:
        return
    (stem,) = name_apart([SHEET], [".png"], folder, inputs)
    path = folder / f"{stem}.png"
    try:
        save_png(path, draw_contact_sheet(outcome.rows, headings=outcome.headings))
    except JodiError as error:  # on a full disk the files before it failed too: all are named
        outcome.problems.append((str(path), str(error)))
        return
    shown = f" (the first {SHEET_ROWS})" if outcome.done > SHEET_ROWS else ""
    console.note(f"to look at{shown}: {path}")


def _group_problem(error: BaseException) -> str:
    """Why a group failed, in words; anything but bad input and full memory is raised again."""
    if isinstance(error, JodiError):
        return str(error)
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return "not enough memory; try --batch 1, a smaller --size, or --tile 512"
    raise error
