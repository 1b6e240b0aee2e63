"""`jodi evaluate`: how well a model does on scenes it has never seen."""

from pathlib import Path

from ..jodi_core.evaluation.evaluate import PARTS, evaluate
from ..jodi_core.model.facts import PERCEPTION_STEPS, STEPS
from ..kit.scenes.render import TRAIN_SEED_END
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
    parser.add_argument("--quiet", action="store_true", help="only results and errors")
    add_model_options(parser)


def run(args, console: Console) -> int:
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        raise UsageError(f"there is no part {', '.join(unknown)}; use {', '.join(PARTS)}")
    if args.first_seed < TRAIN_SEED_END:
        raise UsageError(
            f"--first-seed {args.first_seed} is a training seed; use {TRAIN_SEED_END} or more"
        )
    pipeline = load_pipeline(args)
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
            progress=lambda done, total, what: update(done, total),
        )
    console.result(report.summary())
    console.note(f"{args.scenes} scenes in {report.values['seconds']} s")
    if args.json:
        report.write_json(args.json)
        console.result(str(args.json))
    if args.report:
        console.result(str(report.write(args.report)))
    return 0
