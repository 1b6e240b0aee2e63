"""Options that several commands share, and how their values are read."""

import argparse
import math
import re
import textwrap
from pathlib import Path

from ..jodi_core.domains import DOMAINS
from ..jodi_core.job.size import DEFAULT_SIZE, SIZE_CHOICES
from ..jodi_core.labels.segmentation import SEGMENTATION_DRAWINGS
from ..kit.sampling import SAMPLERS
from ..kit.weights.convert import DTYPES

Size = int | tuple[int, int] | str
"""--size: a side, (height, width), or a choice by name (`SIZE_CHOICES`)."""

MOST_STEPS, MOST_RESULTS = 10_000, 100_000
"""Beyond these a slip of the finger would fill the memory before anything runs."""

EMBEDDED = "embedded"
DOMAIN_HELP = "domains: " + "; ".join(f"{d.name} ({d.description})" for d in DOMAINS)


class UsageError(Exception):
    """The command line asks for something impossible; exit status 2."""


class Parser(argparse.ArgumentParser):
    """argparse with whole option names only, and errors of one line."""

    def __init__(self, **options):
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str):
        message = cut(" ".join(message.split()), 400)  # it quotes what came
        self.exit(2, f"{self.prog}: error: {message}; `{self.prog} --help` explains the options\n")


def add_command(commands, name: str, run, summary: str, text: str = "", examples: str = ""):
    """A sub-command with a description, examples and --debug; run(args, console) -> exit status."""
    description = "\n\n".join(textwrap.fill(p, 90) for p in [summary, *text.split("\n\n")] if p)
    examples = textwrap.dedent(examples).strip()
    epilog = f"examples:\n{textwrap.indent(examples, '  ')}" if examples else None
    parser = commands.add_parser(name, help=summary, description=description, epilog=epilog)
    parser.set_defaults(run=run, command=parser.prog.removeprefix("jodi "))
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    return parser


def add_model_options(parser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", metavar="FILE", help="Jodi weights (default: the built-in jodi-nano)"
    )
    group.add_argument(
        "--vae",
        metavar="FILE",
        help="DC-AE weights, of the same release as the model; the word `embedded` for the "
        "built-in ones",
    )
    group.add_argument(
        "--text-encoder",
        type=parse_path,
        metavar="FILE",
        help="text encoder of a model made by `jodi train export`",
    )
    add_device_options(group)


def add_device_options(group) -> None:
    group.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, mps; auto takes cuda where there is one",
    )
    group.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        metavar="DTYPE",
        help="float32, bfloat16 or float16 (default: bfloat16; on a CPU only for the released "
        "model and where it is faster, else float32)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network: slower at first, for many runs of one kind on a GPU",
    )


def add_device_choice(parser) -> None:
    """--device of commands that train."""
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: cuda if there)")


def add_sampling_options(parser, *, text: bool) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--seed", type=parse_whole, default=0, help="same seed, same result (default: 0)"
    )
    group.add_argument(
        "--steps",
        type=parse_steps,
        help="network evaluations (default: 10 with a picture, else 20); 2 with a picture is "
        "a quick look, see docs/few_steps.md",
    )
    group.add_argument("--sampler", choices=sorted(SAMPLERS), default="dpmpp_2m")
    group.add_argument(
        "--size",
        type=parse_size,
        default=DEFAULT_SIZE,
        metavar="SIZE",
        help="picture-ratio (the default): the picture's own proportions at the model's usual "
        "number of pixels; trained-shape: the nearest shape the model was trained at; "
        "picture-size: the picture's own size; WIDTHxHEIGHT; or one side: about that many pixels "
        "squared, in the picture's own proportions. Sides become multiples of what the model needs",
    )
    group.add_argument(
        "--batch",
        type=parse_positive,
        default=1,
        metavar="N",
        help="results computed at once: faster on a GPU, needs memory, changes nothing else",
    )
    group.add_argument(
        "--tile",
        type=parse_positive,
        metavar="PIXELS",
        help="encode and decode in tiles of this side, for sizes too large for memory",
    )
    if text:
        add_text_options(parser, group)


def add_text_options(parser, sampling) -> None:
    sampling.add_argument(
        "--guidance",
        type=parse_finite,
        help="how strictly to follow the prompt (default: the model's)",
    )
    sampling.add_argument(
        "--count",
        type=parse_count,
        default=1,
        metavar="N",
        help="variants, of seeds SEED, SEED+1, ...",
    )
    group = parser.add_argument_group("text")
    group.add_argument("--negative", default="", metavar="TEXT", help="what should not be there")
    group.add_argument(
        "--text-features",
        type=parse_path,
        metavar="FILE",
        help="prompt of a model that brings no text encoder: a safetensors file with `caption` "
        "(B, 1, S, channels), the text encoder's output, and `mask` (B, S), 1 for tokens to read; "
        "B is 1, or one for each result",
    )
    group.add_argument(
        "--negative-features",
        type=parse_path,
        metavar="FILE",
        help="the same for the negative prompt",
    )


def add_output_options(parser, command: str, *, restored: bool) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=parse_path,
        default=Path("output") / command,
        metavar="DIR",
        help=f"folder for results (default: output/{command})",
    )
    if restored:
        group.add_argument(
            "--model-size",
            action="store_true",
            help="leave results at the size the model worked at, instead of laying them back over "
            "the given picture",
        )
        group.add_argument(
            "--fit",
            choices=("crop", "pad"),
            default="crop",
            help="how a picture of other proportions meets the model's size: crop cuts what juts "
            "out (a few pixels, filled up again at the end), pad keeps all",
        )
    group.add_argument(
        "--normals",
        choices=("model", "opengl", "directx"),
        default="model",
        help="axes of normal maps, made and (unless said by --normal-source) given: model has red "
        "facing left, opengl red facing right, directx also green facing down",
    )
    group.add_argument(
        "--near",
        choices=("white", "black"),
        default="white",
        help="shade of what is near in depth maps, made and (unless said by --depth-source) given",
    )
    group.add_argument("--quiet", action="store_true", help="only results and errors")


def add_source_options(parser) -> None:
    """How given map files are drawn, where they come from other programs."""
    group = parser.add_argument_group("how given maps are drawn")
    group.add_argument(
        "--depth-source",
        choices=("near-white", "near-black", "metres", "millimetres"),
        help="what depth files hold: tones (near-white: Depth Anything, MiDaS; near-black), or "
        "distances, where 0, NaN and infinity are missing and count as farthest. Depth is "
        "stretched to its range in any case (default: as --near)",
    )
    group.add_argument(
        "--normal-source",
        choices=("model", "opengl", "directx"),
        help="axes of normal files (default: as --normals)",
    )
    group.add_argument(
        "--segmentation-source",
        choices=SEGMENTATION_DRAWINGS,
        default="jodi",
        help="classes of segmentation files, in colours or as numbers (255: ignore): the model's "
        "12, or ADE20K's 150",
    )
    group.add_argument(
        "--invert",
        dest="inverted",
        type=parse_names,
        default=[],
        metavar="NAMES",
        help="lineart or edge files with their tones the other way round",
    )


def parse_size(text: str) -> Size:
    """Read "trained-shape" as that choice, and anything else as `parse_pixels`."""
    name = re.sub(r"[\s_-]+", " ", text.strip().lower())
    if name in SIZE_CHOICES and name != "width and height":
        return name
    try:
        return parse_pixels(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{error}; or picture-ratio, trained-shape, picture-size"
        ) from None


def parse_pixels(text: str) -> int | tuple[int, int]:
    """Read "512" as a side and "768x512" (width x height) as (512, 768)."""
    found = re.fullmatch(r"(\d{1,6})(?:\s*[xX*]\s*(\d{1,6}))?", text.strip())
    sides = [int(n) for n in found.groups() if n] if found else []
    if not sides or min(sides) < 1 or max(sides) > 16384:
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT or one side in pixels (1 to 16384), got {cut(text)!r}"
        )
    return sides[0] if len(sides) == 1 else (sides[1], sides[0])


def parse_filled(text: str) -> str:
    """The text, unless it is empty: a variable of the shell that is not set must choose nothing."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            "it is empty (an unset variable of the shell?); give a name, or leave it out"
        )
    return text


def parse_path(text: str) -> Path:
    """A path that is not empty."""
    return Path(parse_filled(text))


def parse_steps(text: str) -> int:
    """A whole number of network evaluations."""
    return _at_most(MOST_STEPS, parse_positive(text))


def parse_count(text: str) -> int:
    """A whole number of results."""
    return _at_most(MOST_RESULTS, parse_positive(text))


def _at_most(most: int, number: int) -> int:
    if number > most:
        raise argparse.ArgumentTypeError(f"expected at most {most}, got {number}")
    return number


def parse_positive(text: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"\s*0*[1-9][0-9]{0,11}\s*", text, re.ASCII):
        most = " (and at most 12 digits)" if len(text) > 12 else ""
        raise argparse.ArgumentTypeError(
            f"expected a whole number of at least 1, got {cut(text)!r}{most}"
        )
    return int(text)


def parse_whole(text: str) -> int:
    """A whole number of either sign, as seeds are."""
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,100}\s*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"expected a whole number, got {cut(text)!r}")
    return int(text)


def cut(text: str, length: int = 60) -> str:
    """The beginning of a text that may be of any length, for messages."""
    return text if len(text) <= length else f"{text[:length]}..."


def parse_finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    try:
        value = math.nan if "_" in text else float(text)  # Python takes 4_5 for 45
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {cut(text)!r}")
    return value


def parse_above_zero(text: str) -> float:
    """A parse_finite number above zero."""
    value = parse_finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above zero, got {text!r}")
    return value


def parse_share(text: str) -> float:
    """A number from 0 to 1."""
    value = parse_finite(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def parse_named_file(text: str) -> tuple[str, Path]:
    """Read NAME=FILE."""
    name, equals, path = text.partition("=")
    if not (name.strip() and equals and path.strip()):
        raise argparse.ArgumentTypeError(f"expected NAME=FILE, got {text!r}")
    return name.strip(), Path(path.strip())


def parse_names(text: str) -> list[str]:
    """Comma-separated names; the model checks them, as it knows its own."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected names, as in depth,normal")
    return names
