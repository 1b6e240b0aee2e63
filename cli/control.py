"""`jodi control`: from labels, and from the picture too where it is given, to any other domains."""

import logging

from ..jodi_core.domains import DOMAIN_NAMES, DOMAINS
from .inputs import Job, pair_maps
from .jobs import report_problems, run_jobs
from .model import load_pipeline, read_text_features, require_text, take_text
from .options import (
    UsageError,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    add_source_options,
    parse_named_file,
    parse_names,
    parse_path,
)
from .pictures import INVERTIBLE
from .places import check_folder
from .progress import Console

logger = logging.getLogger("jodi")

EXAMPLES = """
jodi control --depth depth.png --normal normal.png --prompt "a house by a lake"
jodi control --depth depth.png --generate image,segmentation --prompt "a street with trees"
jodi control --depth output/perceive --normal output/perceive --prompt "a red car" --count 4
jodi control --image photo.jpg --segmentation classes.png --generate depth
jodi control --depth scan.tif --depth-source metres --normal bake.png --normal-source directx
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "control",
        run,
        "Make a picture, or any other domains, from given labels and a prompt.",
        "Every given map is a file, several files, or a folder. One file goes with every set; "
        "files of one name in several folders belong together, whether they are called street.png "
        "or street_depth.png. Results lie over the first given map, at its own size.",
        EXAMPLES,
    )
    given = parser.add_argument_group("given (at least one)")
    for of in DOMAINS:
        given.add_argument(
            f"--{of.name}", nargs="+", type=parse_path, metavar="FILE", help=of.description
        )
    given.add_argument(
        "--extra",
        action="append",
        type=parse_named_file,
        default=[],
        metavar="NAME=FILE",
        help="a domain that only this model has; may be given several times",
    )
    parser.add_argument(
        "--generate",
        type=parse_names,
        default=["image"],
        metavar="NAMES",
        help=f"what to make (default: image): {', '.join(DOMAIN_NAMES)}",
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what the picture shows")
    add_model_options(parser)
    add_source_options(parser)
    add_sampling_options(parser, text=True)
    add_output_options(parser, "control", restored=True)


def run(args, console: Console) -> int:
    check_folder(args.out)
    given = {name: getattr(args, name) for name in DOMAIN_NAMES if getattr(args, name)}
    for name, path in args.extra:
        given.setdefault(name, []).append(path)
    if not given:
        raise UsageError(
            "nothing is given; name at least one map, as in --depth FILE (for a prompt alone, use "
            "`jodi generate`)"
        )
    sets, problems = pair_maps(given)
    if not sets:
        return report_problems(problems, console)
    pipeline = load_pipeline(args)
    unknown = [name for name in args.inverted if name not in INVERTIBLE]
    if unknown:
        raise UsageError(
            f"--invert {','.join(unknown)}: only {' and '.join(INVERTIBLE)} are turned around so; "
            "--depth-source and --normal-source say how the others are drawn"
        )
    plan = pipeline.plan(args.generate, list(given))
    if args.prompt and not plan.uses_text:
        logger.warning("the prompt has no effect when the image is given")
    channels = pipeline.transformer.config.caption_channels
    text = read_text_features(args.text_features, channels)
    negative = read_text_features(args.negative_features, channels)
    if plan.uses_text:
        require_text(pipeline, [args.prompt], text, args)
    jobs = []
    for number, (stem, maps) in enumerate(sets):
        for seed in range(args.seed, args.seed + args.count):
            jobs.append(
                Job(
                    stem if args.count == 1 else f"{stem}_seed{seed}",
                    maps,
                    args.prompt,
                    seed,
                    take_text(text, number, len(sets), "sets of maps"),
                    take_text(negative, number, len(sets), "sets of maps"),
                )
            )
    return run_jobs(pipeline, plan, jobs, args, console, problems)
