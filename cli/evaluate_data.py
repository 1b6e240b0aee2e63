"""`jodi evaluate` on real pictures with true labels, and of programs that are no Jodi."""

import time
from pathlib import Path

from ..jodi_core.evaluation.competitor import evaluate_maps
from ..jodi_core.evaluation.datasets import PROTOCOLS
from ..jodi_core.evaluation.folder_report import FolderReport
from ..jodi_core.evaluation.perceiver import make_perceiver
from ..jodi_core.evaluation.real import Infer, evaluate_folder
from ..jodi_core.evaluation.report import Report
from ..kit.memory import measure_peak_memory
from .competitor import load_competitor
from .model import choose_device, load_pipeline
from .options import UsageError, parse_positive
from .progress import Console


def add_data_options(parser) -> None:
    """Options of `run_on_data` and `run_competitor`."""
    group = parser.add_argument_group("other data, other programs (docs/evaluation.md)")
    group.add_argument(
        "--competitor",
        type=Path,
        metavar="FILE",
        help="measure the Python file's load() and infer(image) instead of a Jodi; it is run",
    )
    group.add_argument(
        "--extractor",
        type=Path,
        metavar="FILE",
        help="such a file that reads labels back from pictures, in the part reextraction "
        "(default: the built-in reader)",
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


def run_competitor(args, console: Console) -> Report:
    """Scores of a competitor on rendered scenes."""
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


def run_on_data(args, console: Console) -> int:
    """Scores on a folder of real pictures, of a Jodi or a competitor."""
    title, infer, settings = _choose_maker(args)
    begun = time.perf_counter()
    with console.bar("evaluating", "picture") as update:
        values, each = evaluate_folder(
            args.data, args.protocol, infer, limit=args.limit, progress=update
        )
    seconds = time.perf_counter() - begun
    facts = {"model": title, **settings, "seconds": round(seconds, 1)}
    facts["seconds_per_picture"] = round(seconds / len(each), 4)
    facts["peak_memory_mb"] = measure_peak_memory(choose_device(args.device))
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
