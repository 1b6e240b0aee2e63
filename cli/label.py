"""`jodi label`: a folder of pictures to a data set of pictures, labels and captions."""

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..jodi_core.labelling.layout import METADATA
from ..jodi_core.labelling.plan import (
    QUARANTINE,
    Plan,
    Source,
    Standing,
    extend_plan,
    look,
    merge,
    read_plan,
    remove_partial,
    require_same,
    write_plan,
)
from ..kit.errors import Interrupted, JodiError, shorten
from .inputs import Problem
from .jobs import report_problems
from .label_files import hold_lock, list_pictures, name_sources
from .label_worker import STOP, answer, pack_job
from .options import (
    DOMAIN_HELP,
    UsageError,
    add_command,
    add_model_options,
    add_sampling_options,
    parse_names,
    parse_positive,
)
from .places import check_folder
from .progress import Console, Stop, stop_on_interrupt

EXAMPLES = """
jodi label photos --out data                                all seven labels, in one process
jodi label photos --out data --labels depth,normal --workers 2
jodi label photos --out data --scheduler tcp://node1:8786   on a cluster of Dask
"""

INSTALL = "pip install distributed"
BATCH_SIZE = 4

Ask = Callable[[Mapping, Iterable[Mapping | None]], Iterator[dict]]
"""Answers of workers to requests about a job, see `label_worker.answer`."""


def add(commands) -> None:
    parser = add_command(
        commands,
        "label",
        run,
        "Label a folder of pictures: a data set to train on, in the layout of Joint-1.6M.",
        "Pictures in folders below FOLDER count too. Whatever stops the work (Ctrl-C, a crash, a "
        "full disk, a machine that is switched off), the same line goes on where it was, and the "
        "result is the same. Pictures that cannot be read are listed in DIR/quarantine.jsonl.\n\n"
        "docs/label.md explains clusters and what is in DIR.",
        EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data set")
    parser.add_argument(
        "--labels", type=parse_names, metavar="NAMES", help=f"default: all; {DOMAIN_HELP}"
    )
    parser.add_argument("--captions", action="store_true", help="write a caption of each picture")
    where = parser.add_argument_group("processes").add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=parse_positive,
        default=1,
        metavar="N",
        help=f"processes on this machine, each with the model (needs Dask: {INSTALL})",
    )
    where.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask cluster that you started: tcp://HOST:PORT"
    )
    add_model_options(parser)
    add_sampling_options(parser, text=False)
    parser.set_defaults(batch=BATCH_SIZE)
    parser.add_argument(
        "--fit",
        choices=("crop", "pad"),
        default="crop",
        help="how a picture of other proportions meets the model's size: crop cuts what juts out "
        "(a few pixels, filled up again at the end), pad keeps all",
    )
    parser.add_argument("--quiet", action="store_true", help="only errors")


def run(args, console: Console) -> int:
    """Label what is not labelled yet; 0 when each picture has its line, or its reason why not."""
    check_folder(args.out)
    folder, root = args.folder.absolute(), args.out.absolute()
    found, problems = list_pictures(folder, root)
    begun = read_plan(root)
    if not found and begun is None:
        return report_problems(problems or [(str(folder), "holds no pictures")], console)
    job = pack_job(args, folder, root, begun.fingerprint if begun else {})
    with stop_on_interrupt(console) as stop, hold_lock(root), _engine(args, console, stop) as ask:
        job["fingerprint"] = {**_fingerprint(job, ask), "batch": args.batch}
        job["threads"] = job["fingerprint"]["threads"]
        plan = _plan(root, begun, job["fingerprint"], name_sources(found, begun), console)
        there = {file for file, _ in found}
        standing = look(root, plan, there)
        problems += _compute(job, plan, standing, ask, console)
        if stop.asked:
            raise Interrupted("stopped")
        standing = merge(root, plan, there)
    return _report(root, standing, problems, console)


def _fingerprint(job: Mapping, ask: Ask) -> Mapping:
    """What the workers compute with. Raises: UsageError, JodiError where that cannot be."""
    told = next(ask(job, [None]), None)
    if told is None:
        raise Interrupted("stopped before the model was open")
    if "error" in told:
        raise (UsageError if told.get("usage") else JodiError)(told["error"])
    return told["fingerprint"]


def _plan(
    root: Path, begun: Plan | None, now: Mapping, found: Sequence[Source], console: Console
) -> Plan:
    """The plan of the data set, begun or taken up again, as it is on the disk from now on."""
    if begun is not None:
        require_same(root, begun.fingerprint, now)
        remove_partial(root)
    old = Plan(now, ()) if begun is None else begun
    plan, changed = extend_plan(root, old, found, now["batch"])
    if changed:
        console.note(f"changed; their batches are labelled again: {shorten(changed)}")
    if plan != begun:
        write_plan(root, plan)
    return plan


def _compute(
    job: Mapping, plan: Plan, standing: Standing, ask: Ask, console: Console
) -> list[Problem]:
    """Have the batches computed that are to be; what went wrong with some of them.

    Raises: JodiError for what ends all work, with how to go on.
    """
    problems: list[Problem] = []
    if standing.lines and standing.todo:
        console.note(f"{len(standing.lines):,} of {len(plan.sources):,} pictures are done already")
    requests = (
        {"number": number, "sources": [asdict(source) for source in plan.batches[number]]}
        for number in standing.todo
    )
    total, done = sum(len(plan.batches[number]) for number in standing.todo), 0
    with console.bar("labelling", unit="picture", rate=True) as update:
        for told in ask(job, requests):
            batch = plan.batches[told["number"]]
            if told.get("ends") == STOP:
                raise JodiError(
                    f"{told['error']}. {len(standing.lines) + done:,} of {len(plan.sources):,} "
                    "pictures are done; the same line goes on from there"
                )
            if "error" in told:
                problems.append((shorten([source.file for source in batch]), told["error"]))
            problems += [
                (file, f"could not be opened ({why}); it is labelled when it is back")
                for file, why in told.get("unread", {}).items()
            ]
            done += len(batch)
            update(done, total)
    return problems


def _report(root: Path, standing: Standing, problems: list[Problem], console: Console) -> int:
    refused = [line for line in standing.lines.values() if "reason" in line]
    labelled = len(standing.lines) - len(refused)
    console.note(f"{labelled:,} pictures are labelled: {root / METADATA}")
    if refused:
        console.say(f"{len(refused):,} cannot be labelled, see {root / QUARANTINE}:")
        console.say(f"  {shorten([line['file'] for line in refused])}")
    known = {what for what, _ in problems}
    problems = problems + [
        (file, "is gone, and not labelled; it is labelled when it is back")
        for file in standing.missing
        if file not in known
    ]
    return report_problems(problems, console)


@contextlib.contextmanager
def _engine(args, console: Console, stop: Stop) -> Iterator[Ask]:
    """What computes: this process, or a cluster. Raises: UsageError, `label_dask.EngineError`."""
    if args.scheduler is None and args.workers == 1:
        yield _alone(stop)
        return
    if importlib.util.find_spec("distributed") is None:
        if args.scheduler is not None:
            raise UsageError(f"--scheduler needs Dask: {INSTALL}")
        console.say(f"one process does the work; for --workers {args.workers}: {INSTALL}")
        yield _alone(stop)
        return
    from . import label_dask  # noqa: PLC0415  (an optional package)

    if args.scheduler is not None:
        engine = label_dask.open_remote_engine(args.scheduler, console.note)
    else:
        threads = max(1, (os.cpu_count() or 1) // args.workers)
        engine = label_dask.open_local_engine(args.workers, threads, console.note)
    with engine as cluster:
        yield functools.partial(cluster.ask, goes_on=lambda: not stop.asked)


def _alone(stop: Stop) -> Ask:
    def ask(job: Mapping, requests: Iterable[Mapping | None]) -> Iterator[dict]:
        for request in requests:
            if stop.asked:
                return
            yield answer(job, request, goes_on=lambda: not stop.asked)

    return ask
