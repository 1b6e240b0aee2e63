"""`jodi bench`: how fast this implementation is, beside a plain baseline in the same run."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from ..kit.config import parse_json
from ..kit.errors import JodiError, shorten
from ..kit.weights.write import replace_weights_file
from .model import choose_device
from .options import UsageError, add_command, parse_finite, parse_path, parse_positive
from .places import check_file
from .progress import Console

try:  # the archive for ComfyUI leaves the folder out
    from ..benchmarks import cases, gpu_check, kernels, runner, table
except ModuleNotFoundError as error:
    if not (error.name or "").endswith(".benchmarks"):
        raise
    cases = gpu_check = kernels = runner = table = None

EXAMPLES = """
jodi bench                                       the standard set, within 45 minutes
jodi bench --json figures.json                   the same, and keep the figures
jodi bench --case 'step.*' --size tiny           some cases only
jodi bench --case step.perceive1 --size 512 --dtype bf16 --repeat 5
jodi bench kernels                               each Triton kernel against torch, on a GPU
jodi bench kernels --tune                        the same, and the kernels with other tiles
jodi bench gpu-check --budget 4                  a GPU in four minutes: tests, kernels, requests
jodi bench --table figures.json                  figures as the tables of docs/performance.md
"""
SIZES, DTYPES = ("tiny", "512", "1024"), ("bf16", "fp32")
MEMORY = ("step.joint", "step.perceive1")


def add(commands) -> None:
    parser = add_command(
        commands,
        "bench",
        run,
        "Measure ours against a plain baseline: the same random weights, in turns, as ratios.",
        "The baseline computes all eight domains in loops, masks what is ignored, reads the text "
        "anew at every step and decodes everything, as the published code does. Both are checked "
        "to be equal before anything is timed, and what they make while timed is compared too.",
        EXAMPLES,
    )
    parser.add_argument(
        "what", nargs="?", choices=["kernels", "gpu-check"], help="measure these instead"
    )
    parser.add_argument(
        "--case",
        action="append",
        metavar="NAME",
        help="step, step_guided, request or request_guided with .perceive1, .perceive7, .control1 "
        "or .joint; decode; encode; * stands for anything. Without it the standard set runs",
    )
    parser.add_argument("--size", action="append", choices=SIZES, help="with --case; default: 512")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="with --case; bf16")
    parser.add_argument("--device", default="auto", help="cpu or cuda; auto takes cuda if there")
    parser.add_argument(
        "--repeat", type=parse_positive, metavar="N", help="pairs of each case, at most"
    )
    parser.add_argument(
        "--budget",
        type=parse_finite,
        metavar="MIN",
        help="minutes in all (default: 45; of gpu-check 4)",
    )
    parser.add_argument(
        "--memory", action="store_true", help="with --case: peak memory too, in processes apart"
    )
    parser.add_argument(
        "--tune", action="store_true", help="with kernels: time the other tile sizes too"
    )
    parser.add_argument(
        "--table",
        type=parse_path,
        nargs="+",
        metavar="FILE",
        help="print the figures of files together",
    )
    parser.add_argument(
        "--json", type=parse_path, metavar="FILE", help="write the figures there, after every case"
    )


def run(args, console: Console) -> int:
    if runner is None or gpu_check is None or kernels is None:
        raise JodiError(
            "the benchmarks are not in this install; run them from a checkout of the project"
        )
    if args.table:
        console.result(_draw_table(args.table))
        return 0
    if args.tune and args.what != "kernels":
        raise UsageError("--tune tries other tiles of the kernels: jodi bench kernels --tune")
    device = choose_device(args.device).type
    with _kept(args.json, console) as keep:
        if args.what == "kernels":
            keep(kernels.run(_kernel_options(args, console)))
            return 0
        if args.what == "gpu-check":
            budget = gpu_check.BUDGET if args.budget is None else 60 * args.budget
            gpu_check.run(budget=budget, say=console.result, keep=keep)
            return 0
        chosen, memory = _choose(args, device)
        runner.run(
            chosen,
            minutes=45.0 if args.budget is None else args.budget,
            repeat=args.repeat,
            memory=memory,
            accuracy=not args.case,
            say=console.result,
            keep=keep,
        )
    return 0


@contextlib.contextmanager
def _kept(path: Path | None, console: Console) -> Iterator[Callable[[dict], None]]:
    """What puts figures in the file, whole each time; until the first, an older file stays."""
    if path is None:
        yield lambda figures: None
        return
    check_file(path, "--json")  # found out now, not after 45 minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    written = False

    def keep(figures: dict) -> None:
        nonlocal written
        with replace_weights_file(path, force=True) as file:
            file.write((json.dumps(figures, indent=1) + "\n").encode())
        written = True

    try:
        yield keep
    finally:
        if written:
            console.note(f"figures written to {path}")


def _choose(args, device: str) -> tuple[list, list]:
    """The cases to time, and those whose memory is taken. Raises: UsageError, JodiError."""
    assert cases is not None  # `run` has looked
    if args.case:
        sizes, dtypes = args.size or ["512"], args.dtype or ["bf16"]
        chosen = cases.choose_cases(args.case, sizes, dtypes, device)
        return chosen, chosen if args.memory else []
    if args.size or args.dtype or args.memory:
        raise UsageError("--size, --dtype and --memory choose among cases; name some (--case)")
    chosen = cases.standard_cases(device)
    return chosen, [c for c in chosen if c.name in MEMORY and c.model == "1600m" and c.size == 512]


def _kernel_options(args, console: Console) -> SimpleNamespace:
    """What the kernels' benchmark reads; what was not asked is left to it."""
    asked = {"dtype": args.dtype, "repeat": args.repeat, "say": console.result, "tune": args.tune}
    return SimpleNamespace(**{name: value for name, value in asked.items() if value is not None})


def _draw_table(paths: list[Path]) -> str:
    """The figures of the files together. Raises: JodiError for files that hold other things."""
    assert table is not None  # `run` has looked
    figures = {}
    for path in paths:
        figures |= _read(path)
    try:
        return table.markdown(figures)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise JodiError(
            f"{shorten(paths)}: the figures are not whole ({type(error).__name__}: {error}); "
            "measure again, with --json"
        ) from None


def _read(path: Path) -> dict:
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("it is no file")
        figures = parse_json(path.read_text(encoding="utf-8"), "the file")
        if not any(key.startswith("ratio.") for key in figures):
            raise ValueError("it has no ratios")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise JodiError(f"{path} holds no figures of `jodi bench --json`: {error}") from None
    return figures
