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
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from . import distributed
from .state import Ema, RunFolder, learning_rate_factor

Report = Callable[[dict], None]
Watch = Callable[[int, Ema], None]


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


class Mode(Protocol):
    """How processes share a training, and what is kept of it on disk: `Replicas`, or `Shards`."""

    def share(self, count: int) -> range:
        """The micro-batches, of `count` an update has, that this process does a part of."""
        ...

    def losses(
        self, task: Any, settings: LoopSettings, step: int, index: int, progress: float
    ) -> Losses:
        """This process's part of micro-batch `index` of update `step`."""
        ...

    def finish_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the gradients those of the whole update."""
        ...

    def save(self, task: Any, ema: Ema, step: int, seconds: float) -> None:
        """Keep a state that `restore` gives back; a kill leaves an older one or this one."""
        ...

    def restore(self, task: Any, ema: Ema) -> tuple[int, float]:
        """Take over the newest state: its updates and seconds, both 0 where there is none."""
        ...


def run_training(
    task: Any,
    folder: Path,
    settings: LoopSettings,
    report: Report | None = None,
    *,
    mode: Mode | None = None,
    watch: Watch | None = None,
) -> None:
    """Train until `settings.steps` or the end of the time, and leave the averaged weights in the
    task's model. Training resumes from a state in `folder`.

    task: what `mode` knows how to train, a `Task` for the default one. report: called with the row
    of every log line. mode: `Replicas` unless said. watch: called after each update.
    Raises: CheckpointError when the state in `folder` is damaged or of another model.
    """
    run, ema = RunFolder(folder), Ema(task.model, settings.ema)
    mode = mode or Replicas(run)
    step, seconds = mode.restore(task, ema)
    clock = _Clock(seconds)
    curves = Curves()
    with _flushed_denormals():
        while (progress := _progress(settings, step, clock)) < 1:
            for index in mode.share(settings.micro_batches):
                losses = mode.losses(task, settings, step, index, progress)
                (losses.mean / settings.micro_batches).backward()
                curves.add(losses)
            mode.finish_gradients(list(task.model.parameters()))
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
                mode.save(task, ema, step, clock.seconds())
            if watch:
                watch(step, ema)
    if step % settings.save_every:
        mode.save(task, ema, step, clock.seconds())
    ema.copy_to(task.model)


class Replicas:
    """Every process holds the whole model and does whole micro-batches; one file keeps the state.

    Its task is a `Task`.
    """

    def __init__(self, run: RunFolder):
        self.run = run

    def share(self, count: int) -> range:
        return distributed.share(count)

    def losses(self, task: Task, settings: LoopSettings, step: int, index: int, progress: float):
        rng = np.random.default_rng((settings.seed, step, index))
        return task.losses(rng, progress)

    def finish_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        distributed.sum_gradients(parameters)

    def save(self, task: Task, ema: Ema, step: int, seconds: float) -> None:
        if distributed.is_first():
            self.run.save(
                {
                    "step": step,
                    "seconds": seconds,
                    "model": task.model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in task.optimizers],
                    "ema": ema.weights,
                }
            )

    def restore(self, task: Task, ema: Ema) -> tuple[int, float]:
        if distributed.is_first():
            self.run.clear()
        state = self.run.load()
        if state is None:
            return 0, 0.0
        device = next(task.model.parameters()).device
        try:
            task.model.load_state_dict(state["model"])
            for optimizer, saved in zip(task.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            averages = {name: state["ema"][name].to(device) for name in ema.weights}
            for name, average in averages.items():
                ema.weights[name].copy_(average)
            return state["step"], float(state["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.run.path / 'state.pt'} is of another model or program "
                f"({' '.join(str(error).split())[:200]}); use another run folder, or remove it and "
                "train from the start"
            ) from None


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


def _update(task: Task, settings: LoopSettings, step: int, progress: float) -> None:
    torch.nn.utils.clip_grad_norm_(list(task.model.parameters()), settings.clip)
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
