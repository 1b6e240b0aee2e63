"""`jodi evaluate`: how well a model does on scenes it has never seen."""

import time
from pathlib import Path

from ..jodi_core.evaluation.competitor import evaluate_maps
from ..jodi_core.evaluation.datasets import PROTOCOLS
from ..jodi_core.evaluation.evaluate import PARTS, evaluate
from ..jodi_core.evaluation.folder_report import FolderReport
from ..jodi_core.evaluation.perceiver import make_perceiver
from ..jodi_core.evaluation.real import Infer, evaluate_folder
from ..jodi_core.evaluation.report import Report
from ..jodi_core.model.facts import PERCEPTION_STEPS, STEPS
from ..kit.memory import measure_peak_memory
from ..kit.scenes.render import TRAIN_SEED_END
from .competitor import load_competitor
from .model import load_pipeline
from .options import (
    UsageError,
    add_command,
    add_model_options,
    parse_finite,
    parse_names,
    parse_pixels,
    parse_positive,
)
from .progress import Console

EXAMPLES = """
jodi evaluate --scenes 64                                 a quick look
jodi evaluate --scenes 512 --json scores.json --report output/report
jodi evaluate --parts perception --steps 20
jodi evaluate --competitor docs/competitors/heuristic.py --scenes 64
jodi evaluate --data NYU --protocol nyuv2 --samples 5 --json nyu.json
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "evaluate",
        run,
        "Measure a model on rendered scenes with exact labels, which training never uses.",
        "Each label is perceived alone, once, without averaging; the picture is made from all "
        "labels; labels from labels; and whole sets of maps at once. Every figure stands beside a "
        "baseline that needs no model and the most that the autoencoder lets through.",
        EXAMPLES,
    )
    parser.add_argument(
        "--scenes", type=parse_positive, default=512, metavar="N", help="default: 512"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=TRAIN_SEED_END,
        metavar="S",
        help=f"scenes of seeds S, S+1, ...; at least {TRAIN_SEED_END} (2^24), the default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values, flat")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a page with pictures")
    parser.add_argument(
        "--parts",
        type=parse_names,
        default=list(PARTS),
        metavar="NAMES",
        help=f"default: {','.join(PARTS)}",
    )
    parser.add_argument(
        "--steps",
        type=parse_positive,
        help=f"of perception (default: the model's own, {PERCEPTION_STEPS} where it has none)",
    )
    parser.add_argument(
        "--control-steps",
        type=parse_positive,
        default=STEPS,
        metavar="STEPS",
        help=f"where text or labels are given (default: {STEPS})",
    )
    parser.add_argument("--guidance", type=parse_finite, help="default: the model's own")
    parser.add_argument("--size", type=parse_pixels, help="WIDTHxHEIGHT or one side")
    parser.add_argument(
        "--batch",
        type=parse_positive,
        default=32,
        metavar="N",
        help="scenes at a time (default: 32)",
    )
    parser.add_argument(
        "--baseline-scenes",
        type=parse_positive,
        default=256,
        metavar="N",
        help="training scenes that the baselines are averaged over (default: 256)",
    )
    _add_data_options(parser)
    parser.add_argument("--quiet", action="store_true", help="only results and errors")
    add_model_options(parser)


def _add_data_options(parser) -> None:
    group = parser.add_argument_group("other data, other programs (docs/evaluation.md)")
    group.add_argument(
        "--competitor",
        type=Path,
        metavar="FILE",
        help="measure the Python file's load() and infer(image) instead of a Jodi; it is run",
    )
    group.add_argument(
        "--data", type=Path, metavar="DIR", help="real pictures with true labels, not scenes"
    )
    group.add_argument("--protocol", choices=sorted(PROTOCOLS), help="layout and rules of --data")
    group.add_argument(
        "--samples",
        type=parse_positive,
        default=1,
        metavar="N",
        help="with --data: maps combined from N samples (default: 1)",
    )
    group.add_argument(
        "--together", action="store_true", help="with --data: all labels of a picture in one run"
    )
    group.add_argument(
        "--limit", type=parse_positive, metavar="N", help="with --data: the first N pictures"
    )


def run(args, console: Console) -> int:
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        raise UsageError(f"there is no part {', '.join(unknown)}; use {', '.join(PARTS)}")
    if args.first_seed < TRAIN_SEED_END:
        raise UsageError(
            f"--first-seed {args.first_seed} is a training seed; use {TRAIN_SEED_END} or more"
        )
    if (args.data is None) != (args.protocol is None):
        raise UsageError("--data and --protocol belong together: give both, or neither")
    if args.data is None and (args.samples > 1 or args.together or args.limit):
        raise UsageError("--samples, --together and --limit are of --data; give --data DIR")
    if args.data is not None:
        return _run_on_data(args, console)
    if args.competitor is not None:
        return _finish(args, console, _run_competitor(args, console))
    return _finish(args, console, _run_on_scenes(args, console))


def _run_on_scenes(args, console: Console) -> Report:
    pipeline = load_pipeline(args)
    with console.bar("evaluating", "run") as update:
        return evaluate(
            pipeline,
            scenes=args.scenes,
            first_seed=args.first_seed,
            size=args.size,
            steps=args.steps,
            control_steps=args.control_steps,
            guidance=args.guidance,
            batch=args.batch,
            parts=args.parts,
            training_scenes=args.baseline_scenes,
            progress=lambda done, total, what: update(done, total),
        )


def _run_competitor(args, console: Console) -> Report:
    title, infer = load_competitor(args.competitor)
    with console.bar("evaluating", "scene") as update:
        return evaluate_maps(
            infer,
            title,
            scenes=args.scenes,
            first_seed=args.first_seed,
            size=args.size or 64,
            batch=args.batch,
            training_scenes=args.baseline_scenes,
            progress=update,
        )


def _finish(args, console: Console, report: Report) -> int:
    console.result(report.summary())
    console.note(f"{args.scenes} scenes in {report.values['seconds']} s")
    if args.json:
        report.write_json(args.json)
        console.result(str(args.json))
    if args.report:
        console.result(str(report.write(args.report)))
    return 0


def _run_on_data(args, console: Console) -> int:
    title, infer, settings = _choose_maker(args)
    begun = time.perf_counter()
    with console.bar("evaluating", "picture") as update:
        values, each = evaluate_folder(
            args.data, args.protocol, infer, limit=args.limit, progress=update
        )
    seconds = time.perf_counter() - begun
    facts = {"model": title, **settings, "seconds": round(seconds, 1)}
    facts["seconds_per_picture"] = round(seconds / len(each), 4)
    facts["peak_memory_mb"] = measure_peak_memory(args.device if "cuda" in args.device else "cpu")
    report = FolderReport({**values, **facts}, each, args.data, PROTOCOLS[args.protocol], infer)
    console.result(report.summary())
    if args.json:
        report.write_json(args.json)
        console.result(str(args.json))
    if args.report:
        console.result(str(report.write(args.report)))
    return 0


def _choose_maker(args) -> tuple[str, Infer, dict]:
    """Whose maps are scored: title, maker, settings."""
    if args.competitor is not None:
        if args.samples > 1 or args.together:
            raise UsageError("--samples and --together are of a Jodi, not of a competitor")
        return *load_competitor(args.competitor), {}
    pipeline = load_pipeline(args)
    steps = args.steps or pipeline.facts.perception_steps
    infer = make_perceiver(pipeline, steps=steps, samples=args.samples, together=args.together)
    settings = {"steps": steps, "samples": args.samples, "together": args.together}
    return pipeline.facts.title, infer, settings
