"""`jodi demo`: all tasks on scenes the model has never seen, and how close the results are."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..ddit_core.embedded import load_embedded_pipeline
from ..ddit_core.evaluation.nano import ANSWER_OPTIONS, CAPTION_OPTIONS
from ..jodi_core.domains import DOMAIN_NAMES, find_domain
from ..jodi_core.embedded import Sample, read_samples, stack_samples
from ..jodi_core.evaluation.baselines import (
    BaselineBoard,
    TrainingStatistics,
    average_training_scenes,
)
from ..jodi_core.evaluation.report import HEADLINES
from ..jodi_core.evaluation.scores import make_tally
from ..jodi_core.pipeline import JodiPipeline, Result
from ..kit.pictures.contact_sheet import Cell, draw_contact_sheet
from ..kit.pictures.files import save_png
from ..kit.scenes.render import SceneBatch, render_scenes
from .model import load_pipeline
from .options import add_command, add_model_options, parse_path, parse_whole
from .places import check_folder
from .progress import Console, stop_on_interrupt

EXAMPLES = """
jodi demo
jodi demo --seed 7 --out output/another
"""
LABELS = DOMAIN_NAMES[1:]
CONTROLLED, TOGETHER, FREE = slice(0, 4), slice(2, 4), slice(0, 6)
"""Which samples the tasks after the first take: a few, so that the demo stays short."""

WORDS = slice(0, 2)
QUESTIONS = ("is there a person", "how many trees are there")
BASELINE_SCENES = 64

MEASURES = tuple(row for row in HEADLINES if row[0] not in ("depth.delta1", "normal.median_deg"))


@dataclass
class Demo:
    """One demonstration: the samples, their exact truth, and what has been made."""

    pipeline: JodiPipeline
    samples: list[Sample]
    truth: list[SceneBatch]
    statistics: TrainingStatistics
    seed: int
    console: Console
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.samples[0].pictures["image"].shape[-2:]
        return height, width

    def prompts(self, part: slice) -> list[str]:
        """Captions, as far as the model can read."""
        readable = self.pipeline.text_encoder is not None
        return [sample.caption if readable else "" for sample in self.samples[part]]


def add(commands) -> None:
    parser = add_command(
        commands,
        "demo",
        run,
        "Run every task on bundled scenes and compare the results with their exact labels.",
        "Picture to labels, labels to picture, prompt to picture and labels together, and depth "
        "and normals to picture and segmentation; then D-DiT: a caption, two answers, and "
        "a picture made from the caption. Nothing is downloaded; the models have never seen these "
        "scenes.",
        EXAMPLES,
    )
    parser.add_argument(
        "--out",
        type=parse_path,
        default=Path("output/demo"),
        metavar="DIR",
        help="default: output/demo",
    )
    parser.add_argument("--seed", type=parse_whole, default=0, help="default: 0")
    parser.add_argument("--quiet", action="store_true", help="only results and errors")
    add_model_options(parser)


def run(args, console: Console) -> int:
    check_folder(args.out)
    started = time.monotonic()
    pipeline, samples = load_pipeline(args), read_samples()
    height, width = samples[0].pictures["image"].shape[-2:]
    size = (height, width)
    demo = Demo(
        pipeline,
        samples,
        [render_scenes([sample.seed], size) for sample in samples],
        average_training_scenes(size, BASELINE_SCENES),
        args.seed,
        console,
    )
    title = pipeline.facts.title
    console.note(f"{title} on {len(samples)} scenes it has never seen, {demo.size[0]} px")
    for step in (_picture_to_labels, _labels_to_picture, _prompt_to_both, _maps_to_both):
        step(demo)
    _words(demo)
    for line in _table(demo):
        console.result(line)
    path = args.out / "contact_sheet.png"
    headings, rows = zip(*demo.rows, strict=True)
    save_png(path, draw_contact_sheet(rows, headings=headings))
    console.note(f"all done in {time.monotonic() - started:.0f} s; open this picture:")
    console.result(str(path))
    return 0


def _picture_to_labels(demo: Demo) -> None:
    image = stack_samples(demo.samples, "image")
    result = _timed(demo, "1/4 picture to labels", "perceive", image, LABELS)
    for name in LABELS:
        _score(demo, name, result.pictures[name], slice(None))
    for row, sample in enumerate(demo.samples[:2]):
        _show(demo, "picture to labels", result, row)
        exact = [
            (f"{find_domain(name).title}, exact", sample.pictures[name]) for name in DOMAIN_NAMES
        ]
        demo.rows.append(("the exact labels", exact))


def _labels_to_picture(demo: Demo) -> None:
    given = {name: stack_samples(demo.samples[CONTROLLED], name) for name in LABELS}
    prompts = demo.prompts(CONTROLLED)
    result = _timed(demo, "2/4 labels to picture", "control", given, prompts)
    _score(demo, "image", result.pictures["image"], CONTROLLED)
    for row in range(2):
        _show(demo, f"labels and a prompt to a picture: {prompts[row]}", result, row)


def _prompt_to_both(demo: Demo) -> None:
    if demo.pipeline.text_encoder is None:
        demo.console.note("3/4 prompt to picture and labels: left out, no text encoder")
        return
    prompts = demo.prompts(TOGETHER)
    title = "3/4 prompt to picture and labels"
    result = _timed(demo, title, "generate", prompts, LABELS, size=demo.size)
    for row, prompt in enumerate(prompts):
        _show(demo, f"a prompt to picture and labels: {prompt}", result, row)


def _maps_to_both(demo: Demo) -> None:
    given = {name: stack_samples(demo.samples[FREE], name) for name in ("depth", "normal")}
    prompts = demo.prompts(FREE)
    title = "4/4 depth and normals to picture and segmentation"
    result = _timed(demo, title, "control", given, prompts, ("image", "segmentation"))
    _score(demo, "segmentation", result.pictures["segmentation"], FREE, "free")
    for row in range(2):
        _show(demo, f"depth, normals and a prompt to the rest: {prompts[row]}", result, row)


def _words(demo: Demo) -> None:
    """A picture, its caption, two answers, and a picture made from that caption, by ddit-nano."""
    started, dual = time.monotonic(), load_embedded_pipeline()
    pictures = stack_samples(demo.samples[WORDS], "image")
    captions = dual.caption(pictures, options=CAPTION_OPTIONS).texts
    answers = [dual.ask(pictures, q, options=ANSWER_OPTIONS).texts for q in QUESTIONS]
    made = dual.generate(captions, seed=demo.seed)
    for row, caption in enumerate(captions):
        said = "; ".join(f"{q}? {a[row]}" for q, a in zip(QUESTIONS, answers, strict=True))
        cells = [("Image, given", pictures[row]), ("Made from the caption", made[row])]
        demo.rows.append((f"D-DiT: {caption} ({said})", cells))
    demo.console.note(f"words and back, D-DiT: {time.monotonic() - started:.1f} s")


def _timed(demo: Demo, title: str, task: str, *given, **options) -> Result:
    """Run one task of the pipeline, stopping at Ctrl-C, and say how long it took."""
    started = time.monotonic()
    with stop_on_interrupt(demo.console) as stop, demo.console.bar(title) as update:

        def after_step(info) -> bool:
            update(info.step, info.steps)
            return not stop.asked

        run_task = getattr(demo.pipeline, task)
        result = run_task(*given, seed=demo.seed, callback=after_step, **options)
    demo.console.note(f"{title}: {time.monotonic() - started:.1f} s")
    return result


def _score(demo: Demo, name: str, pictures: Tensor, part: slice, prefix: str = "") -> None:
    """Measure results against exact labels of the same scenes, and the best blind guess too."""
    tally, board = make_tally(name), BaselineBoard(name, demo.statistics)
    for picture, truth in zip(pictures, demo.truth[part], strict=True):
        tally.add(picture[None], truth)
        board.add(truth)
    key = f"{prefix}.{name}" if prefix else "control" if name == "image" else name
    demo.scores[key] = tally.values()
    demo.scores[f"{key}.baseline"] = board.values()["baseline"]


def _show(demo: Demo, heading: str, result: Result, row: int) -> None:
    given = result.plan.condition_names
    cells = [
        (
            f"{find_domain(name).title}{', given' if name in given else ''}",
            result.pictures[name][row],
        )
        for name in result.plan.active_names
    ]
    demo.rows.append((heading, cells))


def _table(demo: Demo) -> list[str]:
    rows = [(key, title) for key, title, _ in MEASURES]
    rows.append(("free.segmentation.miou", "Segmentation from depth and normals, mean IoU"))
    better = {key: higher for key, _, higher in MEASURES}
    width = max(len(title) for _, title in rows)
    lines = [f"{'against the exact labels':{width}} {'model':>9} {'no model':>9}  better is"]
    for key, title in rows:
        what, _, measure = key.rpartition(".")
        model, baseline = (demo.scores[k][measure] for k in (what, f"{what}.baseline"))
        side = "higher" if better.get(key, True) else "lower"
        lines.append(f"{title:{width}} {model:9.3g} {baseline:9.3g}  {side}")
    return lines
