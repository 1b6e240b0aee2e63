"""Dask distributed behind `jodi label`: the only file that knows it.

A worker gets one function by value (its code, not its name), which finds this package where it lies
on the disk; so workers that the user started need nothing of ours installed. One batch at a time is
computed in a worker, and what a worker that died was doing is done again by another.
"""

import contextlib
import importlib.util
import itertools
import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from multiprocessing import resource_tracker
from typing import cast

import cloudpickle
import dask.config
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from ..jodi_core.labelling.fingerprint import ROOT, digest_code
from ..kit.errors import JodiError
from .label_worker import BATCH

LOOK = 0.5
"""Seconds between two looks at the cluster and at Ctrl-C."""

AHEAD = 2
"""Batches given to each worker: the one it computes, and the next, so that it never waits."""

FAILURES = 10
"""Times that a batch may be running in a worker that dies before it is given up."""

PATIENCE = "20s"
"""How long a scheduler is looked for, at the start and when its connection broke."""

DASHBOARD = "127.0.0.1:8787"

Say = Callable[[str], None]


class EngineError(JodiError):
    """The cluster cannot be reached, or is gone."""


class Engine:
    """Answers of `label_worker.answer` from the workers of a cluster.

    threads: of torch in each worker; 0 takes as many as the worker was started with. where: the
    cluster, in words. say: for what the user should know.
    """

    def __init__(self, client: Client, threads: int, where: str, say: Say):
        self._client, self._threads, self._where, self._say = client, threads, where, say
        self._package = f"jodi_of_{digest_code()}"
        self._answer = _ByValue(_answer_on_worker)

    def ask(
        self, job: Mapping, requests: Iterable[Mapping | None], goes_on: Callable[[], bool]
    ) -> Iterator[dict]:
        """Answers in the order in which they come; no more of them once `goes_on()` is False.

        Raises: EngineError when the cluster is lost.
        """
        todo, waiting = iter(requests), {}
        with _naming_loss(self._where):
            while goes_on():
                room = AHEAD * max(1, self._count_workers()) - len(waiting)
                for request in itertools.islice(todo, max(0, room)):
                    waiting[self._submit(job, request)] = request
                if not waiting:
                    return
                with contextlib.suppress(TimeoutError):
                    wait(list(waiting), timeout=LOOK, return_when="FIRST_COMPLETED")
                for future in [future for future in waiting if future.done()]:
                    yield self._result(future, waiting.pop(future))

    def _count_workers(self) -> int:
        count = len(cast(dict, self._client.nthreads()))
        if not count:
            self._say(f"{self._where} has no worker; waiting for one")
        return count

    def _submit(self, job: Mapping, request: Mapping | None) -> Future:
        # not pure: the same request may be asked again, after files of it were removed
        parts = str(ROOT), self._package, dict(job), request, self._threads
        return self._client.submit(self._answer, *parts, pure=False)

    def _result(self, future: Future, request: Mapping | None) -> dict:
        failed = future.status == "error"
        error = cast(BaseException, future.exception()) if failed else None
        if error is None:
            return future.result()
        if isinstance(error, KilledWorker) and request is not None:
            told = "its workers died, one after the other; is there enough memory for --batch?"
            return {"number": request["number"], "error": told, "ends": BATCH}
        if isinstance(error, KilledWorker):
            raise EngineError(f"workers of {self._where} die while they open the model")
        if isinstance(error, (ImportError, FileNotFoundError)):
            raise EngineError(
                f"a worker of {self._where} cannot run this package ({error}); it needs the folder "
                f"{ROOT} and the packages of its requirements.txt"
            )
        raise error


def _answer_on_worker(root: str, package: str, job: dict, request, threads: int) -> dict:
    """Runs in a worker, where only this function's own code is: this package is loaded by its path.

    Its name there holds the code's digest, so that a cluster that outlives a change of the code
    loads the new one.
    """
    worker = get_worker()
    with vars(worker).setdefault("jodi_lock", threading.Lock()):

        def load(name: str, **options):
            if name not in sys.modules:
                spec = importlib.util.find_spec(name) if not options else None
                if options:
                    place = f"{root}/__init__.py"
                    spec = importlib.util.spec_from_file_location(name, place, **options)
                assert spec is not None and spec.loader is not None
                sys.modules[name] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[name])
            return sys.modules[name]

        load(package, submodule_search_locations=[root])
        module = load(f"{package}.cli.label_worker")
        return module.answer(job, request, threads=threads or worker.state.nthreads)


class _ByValue:
    """A function of this file that travels as its code, as its module is not known elsewhere."""

    def __init__(self, function: Callable):
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        self._function, self._code = function, cloudpickle.dumps(function)
        self.__name__ = function.__name__

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __reduce__(self):
        return cloudpickle.loads, (self._code,)


@contextlib.contextmanager
def open_local_engine(count: int, threads: int, say: Say) -> Iterator[Engine]:
    """An engine of `count` processes on this machine, each with `threads` threads of torch."""
    _quieten()
    shown = importlib.util.find_spec("bokeh") is not None
    settings = {"distributed.scheduler.allowed-failures": FAILURES}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of a port for the dashboard that is taken
        with _ctrl_c_blocked():
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=cast(str, DASHBOARD if shown else None),  # None: no server for it
                # the limit counts weights that are mapped from a file, and would kill for them
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        client = stack.enter_context(Client(stack.enter_context(cluster)))
        if shown:
            say(f"dashboard: {client.dashboard_link}")
        yield Engine(client, threads, "the cluster of this machine", say)


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Inside, threads are started that never hear of Ctrl-C, nor do processes which these start.

    A terminal sends it to all processes at once, and it is for this one to end the others.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Python's own helper process comes with the first that a thread starts, and whoever starts it
    # then unblocks Ctrl-C in that thread.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def open_remote_engine(address: str, say: Say) -> Iterator[Engine]:
    """An engine of the workers of a scheduler that the user started. Raises: EngineError."""
    where = f"the scheduler at {address}"
    settings = {"distributed.comm.timeouts.connect": PATIENCE}
    _quieten()
    with dask.config.set(settings):
        try:
            client = Client(address, timeout=PATIENCE)
        except (OSError, ValueError) as error:
            raise EngineError(f"{where} cannot be reached ({error}); is it running?") from error
        try:
            yield Engine(client, 0, where, say)
        finally:
            with contextlib.suppress(Exception):  # of a scheduler that is gone
                client.close(timeout=5)


@contextlib.contextmanager
def _naming_loss(where: str) -> Iterator[None]:
    try:
        yield
    except (OSError, CancelledError) as error:
        reason = str(error).split("\n")[0].split(": ")[-1] or type(error).__name__
        raise EngineError(
            f"{where} is lost ({reason}); as soon as there is one, the same line goes on"
        ) from error


def _quieten() -> None:
    """Dask's own messages are of no use to those who did not write this: errors are told here."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
