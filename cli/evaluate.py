"""`jodi evaluate`: how well a model does on scenes it has never seen."""

import json
import time

from ..ddit_core.embedded import load_embedded_pipeline
from ..ddit_core.evaluation.nano import evaluate_nano
from ..jodi_core.evaluation.evaluate import MORE_PARTS, PARTS, evaluate
from ..jodi_core.evaluation.report import Report
from ..jodi_core.model.facts import PERCEPTION_STEPS, STEPS
from ..kit.files import write_text
from ..kit.reader.reader import load_reader
from ..kit.scenes.render import TRAIN_SEED_END
from ..kit.weights.convert import parse_dtype
from .competitor import load_competitor
from .evaluate_data import add_data_options, run_competitor, run_on_data
from .model import choose_device, load_pipeline
from .options import (
    UsageError,
    add_command,
    add_model_options,
    parse_finite,
    parse_names,
    parse_path,
    parse_pixels,
    parse_positive,
    parse_whole,
)
from .places import check_file, check_folder
from .progress import Console

EXAMPLES = """
jodi evaluate --scenes 64                                 a quick look
jodi evaluate --scenes 512 --json scores.json --report output/report
jodi evaluate --parts perception --steps 20
jodi evaluate --parts joint,reextraction --scenes 32      prompts and labels, read back
jodi evaluate --competitor docs/competitors/heuristic.py --scenes 64
jodi evaluate --data NYU --protocol nyuv2 --samples 5 --json nyu.json
jodi evaluate --ddit --scenes 64 --json scores.json
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
        type=parse_whole,
        default=TRAIN_SEED_END,
        metavar="S",
        help=f"scenes of seeds S, S+1, ...; at least {TRAIN_SEED_END} (2^24), the default",
    )
    parser.add_argument("--json", type=parse_path, metavar="FILE", help="write all values, flat")
    parser.add_argument(
        "--report", type=parse_path, metavar="DIR", help="write a page with pictures"
    )
    parser.add_argument(
        "--parts",
        type=parse_names,
        default=list(PARTS),
        metavar="NAMES",
        help=f"default: {','.join(PARTS)}; also {','.join(MORE_PARTS)}",
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
    add_data_options(parser)
    parser.add_argument(
        "--ddit",
        action="store_true",
        help="measure the built-in ddit-nano instead: answers, captions, pictures from captions",
    )
    parser.add_argument("--quiet", action="store_true", help="only results and errors")
    add_model_options(parser)


def run(args, console: Console) -> int:
    parts = (*PARTS, *MORE_PARTS)
    unknown = [part for part in args.parts if part not in parts]
    if unknown:
        raise UsageError(f"there is no part {', '.join(unknown)}; use {', '.join(parts)}")
    if args.extractor is not None and "reextraction" not in args.parts:
        raise UsageError("--extractor is of the part reextraction; add it to --parts")
    if args.first_seed < TRAIN_SEED_END:
        raise UsageError(
            f"--first-seed {args.first_seed} is a training seed; use {TRAIN_SEED_END} or more"
        )
    if (args.data is None) != (args.protocol is None):
        raise UsageError("--data and --protocol belong together: give both, or neither")
    if args.data is None and (args.samples > 1 or args.together or args.limit):
        raise UsageError("--samples, --together and --limit are of --data; give --data DIR")
    if args.ddit:
        others = ("model", "vae", "text_encoder", "data", "competitor", "report")
        given = [f"--{name.replace('_', '-')}" for name in others if getattr(args, name)]
        if given:
            raise UsageError(f"--ddit measures the built-in ddit-nano; leave out {given[0]}")
    if args.json:
        check_file(args.json, "--json")
    if args.report:
        check_folder(args.report, "--report")
    if args.ddit:
        return _run_ddit(args, console)
    if args.data is not None:
        return run_on_data(args, console)
    if args.competitor is not None:
        return _finish(args, console, run_competitor(args, console))
    return _finish(args, console, _run_on_scenes(args, console))


def _run_on_scenes(args, console: Console) -> Report:
    pipeline = load_pipeline(args)
    title, extractor = load_competitor(args.extractor) if args.extractor else ("reader", None)
    with console.bar("evaluating", "run") as update:
        report = evaluate(
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
            extractor=extractor,
            progress=lambda done, total, what: update(done, total),
        )
    if "reextraction" in args.parts:
        report.values["reextraction.by"] = title
    return report


def _finish(args, console: Console, report: Report) -> int:
    console.result(report.summary())
    console.note(f"{args.scenes} scenes in {report.values['seconds']} s")
    if args.json:
        report.write_json(args.json)
        console.result(str(args.json))
    if args.report:
        console.result(str(report.write(args.report)))
    return 0


def _run_ddit(args, console: Console) -> int:
    """The scores of ddit-nano."""
    began = time.monotonic()
    pipeline = load_embedded_pipeline(str(choose_device(args.device)), parse_dtype(args.dtype))
    with console.bar("evaluating", "part") as update:
        report = evaluate_nano(
            pipeline,
            load_reader().read,
            scenes=args.scenes,
            first_seed=args.first_seed,
            progress=update,
        )
    console.result(report.summary())
    console.note(f"{args.scenes} scenes in {time.monotonic() - began:.1f} s")
    if args.json:
        write_text(args.json, json.dumps(report.values, indent=1) + "\n")
        console.result(str(args.json))
    return 0
