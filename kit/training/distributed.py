"""Several processes that train one model; in a single process each function does the plain thing.

The processes are those of `torch.distributed`, if someone started it. Every process holds the whole
model and does its share of an update's micro-batches.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..errors import JodiError

T = TypeVar("T")


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process is the one that writes files and reports."""
    return place()[0] == 0


def wait() -> None:
    """Wait until every process has come here."""
    if place()[1] > 1:
        dist.barrier()


def leave() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share(count: int) -> range:
    """The indices below `count` that this process does."""
    rank, world = place()
    return range(rank, count, world)


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum the gradients of all processes, in place; a parameter without a gradient in any process
    keeps none.

    Gradients travel as one vector: one message costs far less than hundreds.
    """
    if place()[1] == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    # Optimizers leave a parameter without a gradient alone, but move one whose gradient is zero.
    there = torch.tensor([float(p.grad is not None) for p in parameters])
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([there.to(parts[0]), *(part.flatten() for part in parts)])
    dist.all_reduce(flat)
    there, *sums = flat.split([len(parameters), *(p.numel() for p in parameters)])
    for p, count, part in zip(parameters, there.tolist(), sums, strict=True):
        p.grad = part.view(p.shape).to(p.dtype) if count else None


def gather(value: T) -> Sequence[T]:
    """The value of every process, in their order."""
    world = place()[1]
    if world == 1:
        return [value]
    values: list = [None] * world
    dist.all_gather_object(values, value)
    return values


def run_processes(count: int, work: Callable[..., T], *arguments) -> T:
    """Call `work` in `count` processes of one thread each that train together; what it gave here.

    Small operations lose more by waiting for a second thread than by having one, so on a CPU
    processes share the work better than threads do. work: a function that other processes can
    import, as `multiprocessing` wants it. arguments: for the call in this process alone, the first.
    Raises: whatever `work` raises here; JodiError when another process failed.
    """
    if count == 1:
        return work(*arguments)
    threads = torch.get_num_threads()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        others = [
            context.Process(target=_join, args=(meeting, rank, count, work), daemon=True)
            for rank in range(1, count)
        ]
        for process in others:
            process.start()
        try:
            return _join(meeting, 0, count, work, *arguments)
        except RuntimeError as error:
            dead = [p.exitcode for p in others if p.exitcode]
            if not dead:
                raise
            raise JodiError(
                f"another process of this training ended with status {dead[0]}; its own message "
                "stands above. The same command goes on from the last save"
            ) from error
        finally:
            for process in others:
                process.join(timeout=10)
                process.kill()
            torch.set_num_threads(threads)


def _join(meeting: str, rank: int, count: int, work: Callable[..., T], *arguments) -> T:
    torch.set_num_threads(1)
    address = Path(meeting).as_uri()
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=count)
    try:
        return work(*arguments)
    finally:
        dist.destroy_process_group()
