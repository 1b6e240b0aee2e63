"""Options that several stages of `jodi train` share."""

from ..kit.weights.convert import DTYPES
from .options import EMBEDDED, parse_above_zero, parse_filled, parse_positive, parse_whole


def add_processes(parser, default: int) -> None:
    parser.add_argument(
        "--processes",
        type=parse_positive,
        default=default,
        metavar="N",
        help="that share an update of the transformer on a CPU, one thread each "
        f"(default: {default}{', with all threads' if default == 1 else ''})",
    )


def add_minutes(parser) -> None:
    parser.add_argument(
        "--minutes",
        type=parse_above_zero,
        metavar="M",
        help="of training, after which it ends in any case",
    )


def add_steps(parser) -> None:
    parser.add_argument(
        "--steps",
        type=parse_positive,
        required=True,
        help="in all; the rate decays towards the end",
    )


def add_seed_and_saves(parser, save_every: int) -> None:
    parser.add_argument("--seed", type=parse_whole, default=0, help="default: 0")
    parser.add_argument(
        "--save-every",
        type=parse_positive,
        default=save_every,
        metavar="N",
        help=f"steps that a kill can lose at most (default: {save_every})",
    )


def add_start(parser) -> None:
    parser.add_argument(
        "--continue-from",
        type=parse_filled,
        metavar="FILE",
        help=f"weights to begin with, or `{EMBEDDED}` (default: fresh ones)",
    )


def add_vae(parser) -> None:
    parser.add_argument(
        "--vae",
        type=parse_filled,
        metavar="FILE",
        help=f"autoencoder, or `{EMBEDDED}` (default: the run's own)",
    )


def add_training_dtype(parser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("auto", *sorted(DTYPES)),
        default="auto",
        metavar="DTYPE",
        help="of the arithmetic (default: bfloat16 where this machine is faster with it)",
    )


def add_dtype(parser, default: str) -> None:
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        default=default,
        metavar="DTYPE",
        help=f"default: {default}",
    )
