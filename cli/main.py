"""The `jodi` command: what it can do, and how it ends.

Exit status: 0 all went well, 1 something failed, 2 wrong usage, 130 stopped with Ctrl-C, 143 by
SIGTERM.
"""

import contextlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from ..kit.errors import Interrupted, JodiError, KernelError, RoleError
from ..kit.kernel_choices import remember_kernels_in
from . import bench as bench_command
from . import control as control_command
from . import convert, evaluate, extend, generate, info, label, perceive, train, verify, words
from . import demo as demo_command
from .options import Parser, UsageError
from .progress import Console, Terminated, end_on_signals

COMMANDS = (
    demo_command,
    perceive,
    control_command,
    generate,
    words,
    info,
    verify,
    convert,
    evaluate,
    train,
    extend,
    label,
    bench_command,
)
FAILED, USAGE, STOPPED = 1, 2, 130

DESCRIPTION = (
    "One diffusion model for a picture and seven label maps of it, any of them in, any of them "
    "out. Without --model the built-in jodi-nano runs, which knows simple rendered scenes."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    with contextlib.suppress(AttributeError):  # file names may hold what the terminal cannot show
        # A replaced stream may lack it, hence the suppression.
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as end:  # argparse has said why
        return int(end.code or 0)
    if not hasattr(args, "run"):
        build_parser().print_help()
        return USAGE
    console = Console()
    console.quiet = getattr(args, "quiet", False)
    remember_kernels_in(_cache_folder())
    with console.logging(), end_on_signals():
        return _guarded(args, console)


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(prog="jodi", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"jodi {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for module in COMMANDS:
        module.add(commands)
    return parser


def _guarded(args, console: Console) -> int:
    """Every way a command can end, as one line and an exit status."""
    try:
        return args.run(args, console)
    except Terminated as end:
        console.say("asked to end; finished files are whole")
        return 128 + end.number
    except (KeyboardInterrupt, Interrupted):
        console.say("stopped; finished files are whole")
        return STOPPED
    except (UsageError, RoleError) as error:
        _explain(console, args, str(error))
        return USAGE
    except (JodiError, KernelError) as error:
        _explain(console, args, str(error))
    except BrokenPipeError:
        # the reader of our output went away, so nothing more can be written there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        _explain(console, args, _put_in_words(error, args))
    return FAILED


def _put_in_words(error: Exception, args) -> str:
    """What the machine refuses, or a fault of the program."""
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: " if error.filename is not None else ""
        return f"{what}{error.strerror}; check the path, its permissions and the room on its disk"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "not enough memory; ask for less at once, or for a smaller size"
    hint = "" if args.debug else "; this is a fault of the program, --debug shows where"
    return f"unexpected {type(error).__name__}: {error}{hint}"


def _explain(console: Console, args, message: str) -> None:
    if args.debug:
        traceback.print_exc()
    console.say(f"jodi {args.command}: error: {message}")


def _cache_folder() -> Path | None:
    """Where this system keeps what programs can make again; None for a user without a home."""
    place = {"darwin": "Library/Caches", "win32": "AppData/Local"}.get(sys.platform, ".cache")
    try:
        return Path.home() / place / "jodi"
    except RuntimeError:
        return None


def _version() -> str:
    try:
        return importlib.metadata.version("jodi")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
