"""`jodi perceive`: pictures to labels."""

from .formats import add_format_options, check_format
from .inputs import Job, find_pictures
from .jobs import report_problems, run_jobs
from .model import load_pipeline
from .options import (
    DOMAIN_HELP,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    parse_names,
    parse_path,
)
from .places import check_folder
from .progress import Console

EXAMPLES = """
jodi perceive photo.jpg                               all seven labels
jodi perceive photos/ --labels depth,normal           every picture of a folder
jodi perceive photo.jpg --normals opengl --out maps   for programs that expect OpenGL normals
jodi perceive photo.jpg --format exr                  all layers in one file for Nuke or Blender
jodi perceive photo.jpg --labels depth --format ply   a cloud of points
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "perceive",
        run,
        "Make labels of pictures: depth, normals, albedo, segmentation and more.",
        "Each result lies over its picture, at the picture's own size: PICTURE_depth.png (16 bit), "
        "PICTURE_normal.png, ...; segmentation comes in colours and, as "
        "PICTURE_segmentation_index.png, in class numbers. A prompt is not needed and has no "
        "effect.",
        EXAMPLES,
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        type=parse_path,
        metavar="PICTURE|DIR",
        help="picture files or folders",
    )
    parser.add_argument(
        "--labels", type=parse_names, metavar="NAMES", help=f"default: all; {DOMAIN_HELP}"
    )
    add_model_options(parser)
    add_sampling_options(parser, text=False)
    add_output_options(parser, "perceive", restored=True)
    add_format_options(parser)


def run(args, console: Console) -> int:
    check_folder(args.out)
    files, problems = find_pictures(args.pictures)
    if not files:
        return report_problems(problems, console)
    pipeline = load_pipeline(args)
    labels = pipeline.names[1:] if args.labels in (None, ["all"]) else args.labels
    check_format(args, labels)
    plan = pipeline.plan(labels, ["image"])
    jobs = [Job(path.stem, {"image": path}, seed=args.seed) for path in files]
    return run_jobs(pipeline, plan, jobs, args, console, problems)
