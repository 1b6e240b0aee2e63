"""Threads that wait without getting in each other's way, on a CPU.

An operation of a small model is over in microseconds. Between two of them the second thread of
torch's team waits by spinning, 300 000 rounds by GCC's OpenMP library, which is milliseconds. On
cores that others want too, the thread that spins takes the place of the thread that it waits for.
The library spins 1 000 rounds only as soon as the process has more OpenMP threads than cores
(libgomp, team.c and config/linux/wait.h: `gomp_managed_threads`, `gomp_throttled_spin_count_var`).
So one more team is made, which sleeps, while others want the cores: on idle ones spinning is a
little faster. Numbers do not change: operations are cut as before.
"""

import contextlib
import ctypes
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

NAME = "jodi-sleeping-team"
LINGER = 2.0  # seconds that the team stays after its last user: a sampler comes back every step

_lock = threading.Lock()
_users = 0
_left = threading.Event()  # set when nobody uses the team
_thread: threading.Thread | None = None


@contextlib.contextmanager
def short_waits(device: torch.device | str) -> Iterator[None]:
    """Let torch's threads sleep soon where they have nothing to do, for the time of a block.

    Does nothing where cores are left over as the block begins, for other devices than the CPU, and
    where torch does not use GCC's OpenMP library (on Windows and macOS). A block is best one step
    of a sampler, so that it is asked often. May be nested, and used by several threads at once.
    """
    global _users
    if torch.device(device).type != "cpu" or _library() is None or not _cores_are_wanted():
        yield
        return
    with _lock:
        _users += 1
        _left.clear()
        _park()
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _left.set()


def _cores_are_wanted() -> bool:
    """Whether more threads are ready to run at this moment than there are cores, with torch's."""
    library = _library()
    assert library is not None
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return True
    return running - 1 + torch.get_num_threads() > library.omp_get_num_procs()


def _park() -> None:
    """Start the thread that owns the sleeping team, if it does not run."""
    global _thread
    if _thread is not None:
        return
    ready = threading.Event()
    _thread = threading.Thread(target=_own_team, args=(ready,), name=NAME, daemon=True)
    _thread.start()
    ready.wait()


def _own_team(ready: threading.Event) -> None:
    global _thread
    try:
        _make_team()
    finally:
        ready.set()
    while True:
        _left.wait()
        time.sleep(LINGER)
        with _lock:
            if not _users:
                _thread = None  # the team ends with its thread
                return


def _make_team() -> None:
    """Compute something in parallel on one thread more than there are cores."""
    library = _library()
    assert library is not None
    with torch.inference_mode():
        work = torch.zeros(1 << 20)
        work.add_(1)  # torch sets up this thread; only now does it keep the number of threads
        library.omp_set_num_threads(library.omp_get_num_procs() + 1)
        work.add_(1)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """GCC's OpenMP library as torch uses it; None where there is none."""
    torch.zeros(1)
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/libgomp" in line}
    torchs = [path for path in paths if "/torch" in path] or sorted(paths)
    try:
        return ctypes.CDLL(torchs[0]) if torchs else None
    except OSError:
        return None
