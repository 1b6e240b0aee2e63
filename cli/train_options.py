"""The options of `jodi train`, stage by stage."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..ddit_core.training.task import DualSettings
from ..jodi_core.embedded import ASSETS, SAMPLES
from ..jodi_core.training.export import NANO_GUIDANCE, TITLE
from ..jodi_core.training.transformer import TrainingSettings
from ..kit.reader.reader import WEIGHTS as READER
from .options import (
    add_command,
    add_device_choice,
    parse_above_zero,
    parse_finite,
    parse_names,
    parse_path,
    parse_positive,
    parse_share,
    parse_whole,
)
from .train_shared_options import (
    add_dtype,
    add_minutes,
    add_processes,
    add_seed_and_saves,
    add_start,
    add_steps,
    add_training_dtype,
    add_vae,
)

EXAMPLES = """
jodi train --config my_training.toml
torchrun --nproc-per-node 8 -m comfyui_jodi train --config my_training.toml
jodi train nano        --run runs/nano
jodi train scenes      --run runs/nano --count 20000
jodi train autoencoder --run runs/nano --steps 4000
jodi train latents     --run runs/nano
jodi train transformer --run runs/nano --steps 20000
jodi train export      --run runs/nano --to my_model
jodi train ddit        --run runs/nano --steps 20000
jodi perceive photo.jpg --model my_model/jodi-nano.safetensors \\
    --vae my_model/jodi-nano-vae.safetensors
"""
TEXT = (
    "The stages below render their scenes, so no data is needed. Every stage can be stopped with "
    "Ctrl-C and goes on from its last save when the same command is given again. A GPU is used "
    "where there is one."
)
DEFAULTS = TrainingSettings(steps=1)
DUAL = DualSettings(steps=1)


def add_stages(commands, stages: Mapping[str, Callable], run: Callable) -> None:
    """`jodi train` and its stages, each running its function of `stages`; `run` trains a config."""
    parent = add_command(
        commands,
        "train",
        None,
        "Train a small model of this kind on rendered scenes, or any on pictures of your own.",
        TEXT,
        EXAMPLES,
    )
    parent.set_defaults(
        run=lambda args, console: run(args, console) if args.config else _no_stage(parent)
    )
    parent.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="train on pictures of your own, as a TOML or JSON file says (docs/training.md)",
    )
    parent.add_argument(
        "--check",
        action="store_true",
        help="with --config: read the pictures, say what is wrong with them, and stop",
    )
    parent.add_argument("--quiet", action="store_true", help="only results and errors")
    inner = parent.add_subparsers(metavar="STAGE", title="stages, in their order")
    add = {name: _stage(inner, name, function) for name, function in stages.items()}
    _nano(add["nano"], add)
    _scenes(add["scenes"])
    _pictures(add["pictures"])
    _autoencoder(add["autoencoder"])
    _latents(add["latents"])
    _transformer(add["transformer"])
    _export(add["export"])
    _samples(add["samples"])
    _reader(add["reader"])
    _ddit(add["ddit"])


def _no_stage(parent) -> int:
    parent.print_help()
    return 2


def _stage(inner, name: str, function: Callable):
    parser = add_command(inner, name, function, function.__doc__ or "")
    parser.add_argument("--quiet", action="store_true", help="only results and errors")
    if name not in ("samples", "pictures"):
        parser.add_argument(
            "--run",
            dest="run_folder",
            type=parse_path,
            required=True,
            metavar="DIR",
            help="folder of the training run",
        )
    return parser


def _nano(parser, stages: Mapping[str, argparse.ArgumentParser]) -> None:
    parser.set_defaults(stages=stages)
    parser.add_argument(
        "--minutes",
        type=parse_above_zero,
        metavar="M",
        help="end after about so many minutes (default: as much training as jodi-nano itself)",
    )
    parser.add_argument(
        "--to",
        type=parse_path,
        default=Path("output/nano"),
        metavar="DIR",
        help="where the files go (default: output/nano)",
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    add_processes(parser, os.cpu_count() or 1)
    add_device_choice(parser)


def _scenes(parser) -> None:
    parser.add_argument("--count", type=parse_positive, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--size", type=parse_positive, default=64, metavar="PIXELS", help="default: 64"
    )
    parser.add_argument("--first-seed", type=parse_whole, default=0, metavar="S", help="default: 0")
    parser.add_argument(
        "--workers",
        type=parse_positive,
        default=max(1, os.cpu_count() or 1),
        metavar="N",
        help="processes (default: one for each processor)",
    )


def _pictures(parser) -> None:
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--count", type=parse_positive, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--size", type=parse_positive, default=64, metavar="PIXELS", help="default: 64"
    )
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument(
        "--extra",
        type=parse_names,
        default=[],
        metavar="NAMES",
        help="maps beside the seven labels: shading, roughness",
    )


def _autoencoder(parser) -> None:
    add_steps(parser)
    parser.add_argument("--batch", type=parse_positive, default=16, metavar="N", help="default: 16")
    for name, value, what in (("muon-lr", 0.003, "dense convolutions"), ("lr", 7e-4, "all else")):
        parser.add_argument(
            f"--{name}",
            type=parse_above_zero,
            default=value,
            help=f"learning rate of {what} (default: {value})",
        )
    add_seed_and_saves(parser, 250)
    add_start(parser)
    add_device_choice(parser)
    add_minutes(parser)
    add_training_dtype(parser)


def _latents(parser) -> None:
    add_vae(parser)
    add_device_choice(parser)
    add_dtype(parser, "float32")


def _transformer(parser) -> None:
    add_steps(parser)
    parser.add_argument(
        "--tokens",
        type=parse_positive,
        default=DEFAULTS.tokens,
        help=f"of one micro-batch; its rows follow (default: {DEFAULTS.tokens})",
    )
    parser.add_argument(
        "--micro-batches",
        type=parse_positive,
        default=DEFAULTS.micro_batches,
        metavar="N",
        help=f"before each update (default: {DEFAULTS.micro_batches})",
    )
    for name, what in (("muon_lr", "of matrices"), ("adam_lr", "of all else"), ("ema", "")):
        value = getattr(DEFAULTS, name)
        title = f"learning rate {what}" if what else "decay of the averaged weights"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=parse_above_zero if what else parse_share,
            default=value,
            help=f"{title} (default: {value})",
        )
    parser.add_argument(
        "--full-noise",
        type=parse_share,
        default=DEFAULTS.full_noise,
        metavar="SHARE",
        help="of the rows that make labels, trained to be read in one evaluation "
        f"(default: {DEFAULTS.full_noise})",
    )
    add_processes(parser, 1)
    add_seed_and_saves(parser, DEFAULTS.save_every)
    add_start(parser)
    add_vae(parser)
    add_device_choice(parser)
    add_minutes(parser)
    add_training_dtype(parser)


def _export(parser) -> None:
    parser.add_argument(
        "--to", type=parse_path, required=True, metavar="DIR", help="where to write"
    )
    parser.add_argument(
        "--transformer", type=parse_path, metavar="FILE", help="default: the run's averaged weights"
    )
    add_vae(parser)
    parser.add_argument("--title", default=TITLE, help=f"default: {TITLE}")
    parser.add_argument(
        "--guidance",
        type=parse_finite,
        default=NANO_GUIDANCE,
        help=f"what the model uses unless told otherwise (default: {NANO_GUIDANCE})",
    )
    parser.add_argument(
        "--native-size",
        type=parse_positive,
        metavar="PIXELS",
        help="default: that of the run's scenes",
    )
    add_dtype(parser, "float16")
    parser.add_argument("--force", action="store_true", help="replace existing files")


def _samples(parser) -> None:
    parser.add_argument(
        "--to",
        type=parse_path,
        default=SAMPLES,
        metavar="DIR",
        help=f"default: {SAMPLES.relative_to(ASSETS.parent.parent)}",
    )
    parser.add_argument(
        "--sheet", type=parse_path, metavar="FILE", help="draw them all on one picture"
    )


def _reader(parser) -> None:
    parser.add_argument(
        "--steps", type=parse_positive, default=2000, help="at most (default: 2000)"
    )
    parser.add_argument(
        "--scenes",
        type=parse_positive,
        metavar="N",
        help="of the run that are used, the first ones (default: all)",
    )
    parser.add_argument(
        "--to",
        type=Path,
        default=READER,
        metavar="FILE",
        help="where it goes (default: the file that comes with this program)",
    )
    parser.add_argument(
        "--held-out",
        type=parse_positive,
        default=512,
        metavar="N",
        help="scenes that its own errors are stated on (default: 512)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    add_vae(parser)
    add_minutes(parser)


def _ddit(parser) -> None:
    add_steps(parser)
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="train on these too: dog.png with its captions in dog.txt, its questions in dog.json",
    )
    for name, value, what in (
        ("image", DUAL.pictures, "pictures made from captions"),
        ("caption", DUAL.captions, "captions"),
        ("answer", DUAL.answers, "answers"),
    ):
        parser.add_argument(
            f"--{name}-rows",
            type=int,
            default=value,
            metavar="N",
            help=f"{what} in one update (default: {value})",
        )
    for name, what in (
        ("text_weight", "of the text loss beside the image loss"),
        ("muon_lr", "learning rate of matrices"),
        ("adam_lr", "learning rate of all else"),
        ("ema", "decay of the averaged weights"),
    ):
        value = getattr(DUAL, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=parse_finite,
            default=value,
            help=f"{what} (default: {value})",
        )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="where the files go (default: in the run)"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    add_seed_and_saves(parser, DUAL.save_every)
    add_start(parser)
    add_vae(parser)
    add_device_choice(parser)
    add_minutes(parser)
