"""Timing two sides against each other, and the memory one of them needs."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..jodi_core.errors import JodiError
from ..jodi_core.verify import relative_rms
from .cases import AUTOENCODER_KINDS, TASKS, Case
from .subjects import SIDES, Subject

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

EQUAL = 1e-5


@dataclass
class Timings:
    """Seconds of each pair, in the order they were taken, and of ours to prepare for a step."""

    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    prepare: list[float] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        return len(self.baseline)

    @property
    def medians(self) -> tuple[float, float]:
        return statistics.median(self.ours), statistics.median(self.baseline)

    @property
    def ratios(self) -> list[float]:
        return [b / o for o, b in zip(self.ours, self.baseline, strict=True)]


def time_pairs(
    subject: Subject, case: Case, *, repeat: int, warm: Sequence[str], deadline: float
) -> Timings:
    """Ours and the baseline in turns, each pair on new inputs, the side that begins alternating.

    warm: sides that run once before anything counts. deadline: of time.monotonic(); no pair is
    begun that would probably end behind it, except the first.
    """
    timings = Timings()
    for side in warm:
        _once(subject, case, side, seed=0)
    for seed in range(1, repeat + 1):
        began = time.monotonic()
        for side in SIDES if seed % 2 else SIDES[::-1]:
            prepare, run = _once(subject, case, side, seed)
            getattr(timings, side).append(run)
            if side == "ours":
                timings.prepare.append(prepare)
        if time.monotonic() + (time.monotonic() - began) > deadline:
            break
    return timings


def _once(subject: Subject, case: Case, side: str, seed: int) -> tuple[float, float]:
    """Seconds to ready one repetition, and to run it."""
    inputs, ready = subject.inputs(case, seed), subject.work(case, side)
    made = []
    with torch.inference_mode():
        prepare = seconds(lambda: made.append(ready(inputs)), subject.device)
        return prepare, seconds(made[0], subject.device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long one call takes; by events on a GPU."""
    gc.collect()
    if device.type != "cuda":
        began = time.perf_counter()
        work()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000


def check_equal(device: str) -> float:
    """The largest relative RMS difference of the two sides, at a small size in float32.

    Every task's step, guided or not, two requests, and the autoencoder.
    Raises: JodiError above 1e-5: a ratio would compare different functions.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        subject = Subject("tiny", "fp32", device)
        names = [(kind, task) for kind in ("step", "step_guided") for task in TASKS]
        names += [("request", "perceive1"), ("request_guided", "control1")]
        names += [(kind, "") for kind in AUTOENCODER_KINDS]
        cases = [Case(*name, "tiny", 64, "fp32", device) for name in names]
        return max(difference(subject, case) for case in cases)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def difference(subject: Subject, case: Case, seed: int = 0) -> float:
    """Relative RMS of ours to the baseline over what is generated. Raises: JodiError over 1e-5."""
    inputs = subject.inputs(case, seed)
    with torch.inference_mode():
        ours, baseline = (subject.work(case, side)(inputs)() for side in SIDES)
    if case.kind.startswith("step"):
        generated = list(TASKS[case.task].generated)
        ours, baseline = ours[:, generated], baseline[:, generated]
    error = relative_rms(ours, baseline)
    if not error <= EQUAL:
        raise JodiError(
            f"{case.key}: ours and the baseline differ by {error:.1e} (relative RMS; at most "
            f"{EQUAL:g} is allowed), so no ratio is measured; run `jodi verify` to see which of "
            "the two is wrong"
        )
    return error


def peak_memory(case: Case, side: str) -> float:
    """GB at the peak of one run of one side alone, weights included.

    On a CPU this is the process's own high-water mark of resident memory: call it in a fresh
    process. On a GPU it is what torch allocated there.
    """
    if resource is None and case.device == "cpu":
        raise JodiError("peak memory cannot be measured on this system; leave --memory out")
    subject = Subject(case.model, case.dtype, case.device, sides=(side,))
    work = subject.work(case, side)(subject.inputs(case, 0))
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
    with torch.inference_mode():
        work()
    if subject.device.type == "cuda":
        return torch.cuda.max_memory_allocated(subject.device) / 1e9
    assert resource is not None  # or it had raised
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
