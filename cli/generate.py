"""`jodi generate`: a prompt to a picture, alone or together with labels."""

from .inputs import Job, make_slug
from .jobs import run_jobs
from .model import load_pipeline, read_text_features, require_text, take_text
from .options import (
    DOMAIN_HELP,
    UsageError,
    add_command,
    add_model_options,
    add_output_options,
    add_sampling_options,
    parse_names,
)
from .places import check_folder
from .progress import Console

EXAMPLES = """
jodi generate --prompt "a red car on a road under a blue sky"
jodi generate --prompt "two trees beside a lake" --labels depth,segmentation --count 4
jodi generate --prompt "a blue sofa in a room" --size 96x64 --seed 7
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "generate",
        run,
        "Make a picture from a prompt, with labels of it if wanted.",
        "The built-in model knows the words of one small grammar and says which ones it left out. "
        "Released weights take prompts as stored features (--text-features).",
        EXAMPLES,
    )
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="may be given several times"
    )
    parser.add_argument(
        "--labels",
        type=parse_names,
        default=[],
        metavar="NAMES",
        help=f"made together with the picture; `all` for all; {DOMAIN_HELP}",
    )
    add_model_options(parser)
    add_sampling_options(parser, text=True)
    add_output_options(parser, "generate", restored=False)


def run(args, console: Console) -> int:
    check_folder(args.out)
    if not args.prompt and not args.text_features:
        raise UsageError('there is no prompt; give one, as in --prompt "a red car on a road"')
    pipeline = load_pipeline(args)
    labels = pipeline.names[1:] if args.labels == ["all"] else args.labels
    plan = pipeline.plan(["image", *labels])
    channels = pipeline.transformer.config.caption_channels
    text = read_text_features(args.text_features, channels)
    negative = read_text_features(args.negative_features, channels)
    if text is not None and args.prompt:
        raise UsageError("--prompt and --text-features say the same thing twice; give one of them")
    require_text(pipeline, args.prompt or [], text, args)
    prompts = args.prompt if text is None else [args.text_features.stem] * len(text.mask)
    jobs = []
    for number, prompt in enumerate(prompts):
        for seed in range(args.seed, args.seed + args.count):
            jobs.append(
                Job(
                    f"{make_slug(prompt)}_seed{seed}",
                    prompt="" if text is not None else prompt,
                    seed=seed,
                    text=take_text(text, number, len(prompts), "prompts"),
                    negative_text=take_text(negative, number, len(prompts), "prompts"),
                )
            )
    return run_jobs(pipeline, plan, jobs, args, console)
