"""The one training loop: resuming, seeds, clipping, rates, averages, the log and the saves.

What is trained is a `Task`: a model, its optimizers, and the losses of one micro-batch. The same
seed gives the same data in every run, however often it was stopped and in however many processes
it runs: each micro-batch draws from a generator of its own.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from . import distributed
from .state import Ema, RunFolder, learning_rate_factor

Report = Callable[[dict], None]


@dataclass(frozen=True)
class LoopSettings:
    """steps may differ between a run and its continuation: the rate then decays to the new end.

    micro_batches: parts of one update, whose gradients are averaged; several processes share them.
    clip: largest norm of all gradients. ema: decay of the averaged weights. save_every: updates
    that a kill can lose at most. seconds: ends the training when its runs together took so long;
    the rate then follows the time.
    """

    steps: int
    micro_batches: int = 1
    seed: int = 0
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.999
    save_every: int = 200
    log_every: int = 50
    seconds: float | None = None


@dataclass(frozen=True)
class Losses:
    """The losses of one micro-batch.

    mean: the scalar to differentiate. rows: how many samples it had. curves: (name, mean loss,
    weight) of what is logged by name.
    """

    mean: Tensor
    rows: int
    curves: Sequence[tuple[str, float, float]]


class Task(Protocol):
    """What the loop trains. rates: the highest learning rate of each optimizer."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]: ...
    @property
    def rates(self) -> Sequence[float]: ...

    def losses(self, rng: np.random.Generator, progress: float) -> Losses:
        """Losses of one micro-batch drawn from `rng`; gradients flow to the model's parameters.

        progress: share of the training that is done, from 0 up to 1.
        """
        ...


def run_training(
    task: Task, folder: Path, settings: LoopSettings, report: Report | None = None
) -> None:
    """Train until `settings.steps` or the end of the time, and leave the averaged weights in the
    task's model. Training resumes from a state in `folder`.

    report: called with the row of every log line.
    Raises: ValueError from torch when the state in `folder` is of another model.
    """
    run, ema = RunFolder(folder), Ema(task.model, settings.ema)
    step, clock = _resume(task, ema, run)
    curves = Curves()
    with _flushed_denormals():
        while (progress := _progress(settings, step, clock)) < 1:
            for index in distributed.share(settings.micro_batches):
                rng = np.random.default_rng((settings.seed, step, index))
                losses = task.losses(rng, progress)
                (losses.mean / settings.micro_batches).backward()
                curves.add(losses)
            _update(task, settings, step, progress)
            ema.update(task.model, step)
            step += 1
            if step % settings.log_every == 0:
                row = {"step": step, **curves.row()}
                if distributed.is_first():
                    run.log(**row)
                    if report:
                        report(row)
            if step % settings.save_every == 0:
                _save(task, ema, run, step, clock)
    if step % settings.save_every:
        _save(task, ema, run, step, clock)
    ema.copy_to(task.model)


class _Clock:
    """Seconds spent on a training, all its runs together."""

    def __init__(self, before: float = 0.0):
        self._begun = time.monotonic() - before

    def seconds(self) -> float:
        return time.monotonic() - self._begun


def _progress(settings: LoopSettings, step: int, clock: _Clock) -> float:
    """Share of the training that is done; the same in every process."""
    done = step / settings.steps
    if settings.seconds is not None:
        done = max(done, clock.seconds() / settings.seconds)
    return max(distributed.gather(done))


def _resume(task: Task, ema: Ema, run: RunFolder) -> tuple[int, _Clock]:
    """Take over a saved state; the number of updates it has seen, and their time."""
    state = run.load()
    if state is None:
        return 0, _Clock()
    task.model.load_state_dict(state["model"])
    for optimizer, saved in zip(task.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    device = next(task.model.parameters()).device
    ema.weights = {name: average.to(device) for name, average in state["ema"].items()}
    return state["step"], _Clock(state["seconds"])


def _save(task: Task, ema: Ema, run: RunFolder, step: int, clock: _Clock) -> None:
    if not distributed.is_first():
        return
    run.save(
        {
            "step": step,
            "seconds": clock.seconds(),
            "model": task.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in task.optimizers],
            "ema": ema.weights,
        }
    )


def _update(task: Task, settings: LoopSettings, step: int, progress: float) -> None:
    parameters = list(task.model.parameters())
    distributed.sum_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
    factor = learning_rate_factor(step, progress, settings.warmup)
    for optimizer, rate in zip(task.optimizers, task.rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@contextlib.contextmanager
def _flushed_denormals():
    """Denormal numbers count as zero in this block, and in threads that start in it.

    Weights that training switches off leave them behind, and a processor computes several times
    slower on them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Curves:
    """Mean losses by name since the last row, and samples per second."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self._rows, self._started = 0, time.time()

    def add(self, losses: Losses) -> None:
        """Add one micro-batch."""
        for name, value, weight in losses.curves:
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += value * weight
            entry[1] += weight
        self._rows += losses.rows

    def row(self) -> dict[str, float]:
        """The means of all processes, by name; starts over."""
        parts = distributed.gather((self._sums, self._rows))
        totals: dict[str, list[float]] = {}
        for sums, _ in parts:
            for name, (total, weight) in sums.items():
                entry = totals.setdefault(name, [0.0, 0.0])
                entry[0] += total
                entry[1] += weight
        row = {name: round(total / weight, 4) for name, (total, weight) in sorted(totals.items())}
        seconds = time.time() - self._started
        row["samples_per_s"] = round(sum(rows for _, rows in parts) / seconds, 1)
        self._sums, self._rows, self._started = {}, 0, time.time()
        return row
