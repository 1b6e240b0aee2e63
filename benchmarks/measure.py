"""Timing two sides against each other, comparing what they made, and the memory one needs."""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kit.errors import JodiError
from ..kit.memory import measure_peak_memory
from ..kit.vectors import relative_rms
from .cases import AUTOENCODER_KINDS, TASKS, Case
from .subjects import SIDES, Subject

EQUAL = 1e-5  # of one evaluation, or one picture through the autoencoder, in float32
SAMPLED = 1e-4  # of a whole request in float32: `jodi verify` allows as much to a sampling
# Two correct bfloat16 versions differ by about what both err together. These are 3 times the
# largest difference found: 1.5e-2 of a step (the large network, joint, 512 px), 3.8e-2 guided
# (128 px), 1.5e-2 of the autoencoder (f32c32, 256 px), 1.5e-2 of a request (joint, 128 px);
# a guided request, 1.7e-2 of the small network, gets what a guided step gets. Unlike functions
# differ by more: with time rounded on one side alone, a step at high noise by 0.15.
HALF = {
    "step": 0.045,
    "step_guided": 0.12,
    "request": 0.045,
    "request_guided": 0.12,
    "decode": 0.045,
    "encode": 0.045,
}


@dataclass
class Timings:
    """Seconds of each pair, in the order they were taken, and of ours to prepare for a step.

    difference: the largest relative RMS of what ours made to what the baseline made of the same.
    """

    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    prepare: list[float] = field(default_factory=list)
    difference: float = 0.0

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
    Raises: JodiError when the two made different things of the same inputs.
    """
    timings = Timings()
    for side in warm:
        _once(subject, case, side, repetition=0)
    for repetition in range(1, repeat + 1):
        began, made = time.monotonic(), {}
        for side in SIDES if repetition % 2 else SIDES[::-1]:
            prepare, run, made[side] = _once(subject, case, side, repetition)
            getattr(timings, side).append(run)
            if side == "ours":
                timings.prepare.append(prepare)
        apart = compare(case, *(made[side] for side in SIDES))
        timings.difference = max(timings.difference, apart)
        if time.monotonic() + (time.monotonic() - began) > deadline:
            break
    return timings


def _once(subject: Subject, case: Case, side: str, repetition: int) -> tuple[float, float, Tensor]:
    """Seconds to ready one repetition, and to run it; what it made."""
    inputs, ready = subject.inputs(case, repetition), subject.work(case, side)
    made = []
    with torch.inference_mode():
        prepare = seconds(lambda: made.append(ready(inputs)), subject.device)
        run = seconds(lambda: made.append(made[0]()), subject.device)
    return prepare, run, made[1]


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
    with exact_float32():
        subject = Subject("tiny", "fp32", device)
        names = [(kind, task) for kind in ("step", "step_guided") for task in TASKS]
        names += [("request", "perceive1"), ("request_guided", "control1")]
        names += [(kind, "") for kind in AUTOENCODER_KINDS]
        cases = [Case(*name, "tiny", 64, "fp32", device) for name in names]
        return max(difference(subject, case, bound=EQUAL) for case in cases)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Both sides without TF32 on a GPU: float32 means float32, in every operation."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def difference(subject: Subject, case: Case, repetition: int = 0, bound: float = 0.0) -> float:
    """Both sides on the same inputs, compared; see `compare`."""
    inputs = subject.inputs(case, repetition)
    with torch.inference_mode():
        ours, baseline = (subject.work(case, side)(inputs)() for side in SIDES)
    return compare(case, ours, baseline, bound)


def case_bound(case: Case) -> float:
    """How far both sides may be apart in a case, as relative RMS."""
    if case.dtype == "bf16":
        return HALF[case.kind]
    return SAMPLED if case.kind.startswith("request") else EQUAL


def compare(case: Case, ours: Tensor, baseline: Tensor, bound: float = 0.0) -> float:
    """Relative RMS of ours to the baseline over what is generated.

    bound: `case_bound` unless said. Raises: JodiError above it.
    """
    bound = bound or case_bound(case)
    if case.kind.startswith("step"):
        generated = list(TASKS[case.task].generated)
        ours, baseline = ours[:, generated], baseline[:, generated]
    error = relative_rms(ours, baseline)
    if not error <= bound:
        raise JodiError(
            f"{case.key}: ours and the baseline differ by {error:.1e} (relative RMS; at most "
            f"{bound:g} is allowed), so no ratio is measured; run `jodi verify` to see which of "
            "the two is wrong"
        )
    return error


def peak_memory(case: Case, side: str) -> float:
    """GB at the peak of one run of one side alone, weights included.

    On a CPU this is the process's own high-water mark of resident memory: call it in a fresh
    process. On a GPU it is what torch allocated there.
    """
    if case.device == "cpu":
        resident_peak()  # found out now, not after the run
    subject = Subject(case.model, case.dtype, case.device, sides=(side,))
    work = subject.work(case, side)(subject.inputs(case, 0))
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
    with torch.inference_mode():
        work()
    if subject.device.type == "cuda":
        return torch.cuda.max_memory_allocated(subject.device) / 1e9
    return resident_peak()


def resident_peak() -> float:
    """GB at the peak of this process. Raises: JodiError where the system does not tell."""
    peak = measure_peak_memory("cpu")
    if peak is None:
        raise JodiError("peak memory cannot be measured on this system; leave --memory out")
    return peak / 1e3
