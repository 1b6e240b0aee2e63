"""`jodi caption`, `jodi ask` and `jodi imagine`: words from pictures, and pictures from words."""

from pathlib import Path

import torch

from ..ddit_core.embedded import load_embedded_pipeline
from ..ddit_core.evaluation.nano import ANSWER_OPTIONS, CAPTION_OPTIONS
from ..ddit_core.pipeline import DDiTPipeline
from ..kit.errors import JodiError
from ..kit.files import write_text
from ..kit.pictures.files import load_image, save_png
from ..kit.weights.convert import DTYPES
from .inputs import find_pictures, make_slug
from .jobs import report_problems
from .model import choose_device
from .options import (
    UsageError,
    add_command,
    parse_count,
    parse_finite,
    parse_path,
    parse_steps,
    parse_whole,
)
from .places import check_folder
from .progress import Console, stop_on_interrupt

NANO = (
    "The built-in ddit-nano runs, which knows simple rendered scenes and the words of one small "
    "grammar. Released D-DiT weights run in ComfyUI: Load D-DiT, D-DiT Caption and D-DiT Ask."
)
CAPTION_EXAMPLES = """
jodi caption picture.png
jodi caption pictures/ --txt           picture.txt beside every picture, as trainers expect
"""
ASK_EXAMPLES = """
jodi ask picture.png "what color is the sofa"
jodi ask picture.png "is there a dog" "how many trees are there"
"""
IMAGINE_EXAMPLES = """
jodi imagine "a red car on a road under a blue sky"
jodi imagine "a white sofa in a room" --count 4 --seed 7
"""


def add_caption(commands) -> None:
    parser = add_command(
        commands,
        "caption",
        caption,
        "Describe pictures in words, one line for each.",
        NANO,
        CAPTION_EXAMPLES,
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        type=parse_path,
        metavar="PICTURE|DIR",
        help="picture files or folders",
    )
    parser.add_argument(
        "--txt",
        action="store_true",
        help="also write each caption into PICTURE.txt beside its picture, which replaces one "
        "that is there",
    )
    _common(parser)


def add_ask(commands) -> None:
    parser = add_command(
        commands,
        "ask",
        ask,
        "Answer questions about a picture, one line for each.",
        f"{NANO}\n\nIt was trained on: what color is the X; how many X are there; is there a X; is "
        "the X left of the Y; what is beside the X; what is on the wall.",
        ASK_EXAMPLES,
    )
    parser.add_argument("picture", type=parse_path, metavar="PICTURE")
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    _common(parser)


def add_imagine(commands) -> None:
    parser = add_command(
        commands,
        "imagine",
        imagine,
        "Make a picture from words, by the network that captions pictures.",
        NANO,
        IMAGINE_EXAMPLES,
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT")
    parser.add_argument(
        "--seed", type=parse_whole, default=0, help="same seed, same result (default: 0)"
    )
    parser.add_argument(
        "--count",
        type=parse_count,
        default=1,
        metavar="N",
        help="variants, of seeds SEED, SEED+1, ...",
    )
    parser.add_argument("--steps", type=parse_steps, help="network evaluations (default: 28)")
    parser.add_argument(
        "--guidance",
        type=parse_finite,
        help="how strictly to follow the prompt (default: the model's)",
    )
    parser.add_argument(
        "--out",
        type=parse_path,
        default=Path("output/imagine"),
        metavar="DIR",
        help="folder for results (default: output/imagine)",
    )
    _common(parser)


def add(commands) -> None:
    """The commands of D-DiT."""
    for add_one in (add_caption, add_ask, add_imagine):
        add_one(commands)


def caption(args, console: Console) -> int:
    files, problems = find_pictures(args.pictures)
    pipeline = _pipeline(args) if files else None
    with stop_on_interrupt(console) as stop:
        for path in files:
            if stop.asked:
                break
            assert pipeline is not None
            try:
                picture = load_image(path)[0]
                (text,) = pipeline.caption(picture, options=CAPTION_OPTIONS).texts
                if args.txt:
                    write_text(path.with_suffix(".txt"), text + "\n")
            except (JodiError, OSError) as error:
                problems.append((str(path), str(error)))
                continue
            console.result(text)
    return report_problems(problems, console)


def ask(args, console: Console) -> int:
    picture = load_image(args.picture)[0]
    pipeline = _pipeline(args)
    for answer in pipeline.ask(picture, args.questions, options=ANSWER_OPTIONS).texts:
        console.result(answer)
    return 0


def imagine(args, console: Console) -> int:
    check_folder(args.out)
    if not all(prompt.strip() for prompt in args.prompts):
        raise UsageError('a prompt is empty; write one, as in "a red car on a road"')
    pipeline = _pipeline(args)
    args.out.mkdir(parents=True, exist_ok=True)
    for prompt in args.prompts:
        with stop_on_interrupt(console) as stop, console.bar(prompt) as update:

            def after_step(info, stop=stop, update=update) -> bool:
                update(info.step, info.steps)
                return not stop.asked

            made = pipeline.generate(
                prompt,
                batch=args.count,
                seed=args.seed,
                steps=args.steps,
                guidance=args.guidance,
                callback=after_step,
            )
        for number, picture in enumerate(made):
            path = args.out / f"{make_slug(prompt)}_seed{args.seed + number}.png"
            save_png(path, picture)
            console.result(str(path))
    return 0


def _pipeline(args) -> DDiTPipeline:
    if args.model is not None:
        raise UsageError(
            "these commands run the built-in ddit-nano; released D-DiT weights run in ComfyUI, "
            "with the nodes Load D-DiT, D-DiT Caption and D-DiT Ask"
        )
    dtype = torch.float32 if args.dtype is None else DTYPES[args.dtype]
    return load_embedded_pipeline(str(choose_device(args.device)), dtype)


def _common(parser) -> None:
    parser.add_argument("--model", metavar="FILE", help="not here: see above")
    parser.add_argument("--quiet", action="store_true", help="only results and errors")
    parser.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, mps; auto takes cuda where there is one",
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        metavar="DTYPE",
        help="float32, bfloat16 or float16 (default: float32)",
    )
