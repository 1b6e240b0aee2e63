"""The trial of a kernel against torch, on the card and at the shapes of the job that runs.

A shape class that is met for the first time is compiled by a thread in the background, while torch
answers. The first call after that is the trial: both are run on the call's own operands, compared,
and timed in turns; it takes a few milliseconds. A kernel that fails, or differs from torch by more
than rounding, is never used for this shape class, and the log says so.
"""

import queue
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .choices import KERNEL, TORCH, Choice
from .implementations import kernel, plain

# Relative RMS between two right answers: about one step of each dtype's precision.
EQUAL = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 2e-6}
ROUNDS = 7
CALLS = 3  # of each side in a round, so that launching overlaps with running, as in a job
PIECE = 1 << 22  # numbers that are compared at a time
CLEAR = 0.97  # of torch's time: within the noise of a few rounds, torch keeps the call

COMPILING, READY = "compiling", "ready"

_states: dict[tuple[int, str], str | Choice] = {}
_waiting: queue.Queue = queue.Queue()
_worker: threading.Thread | None = None
_lock = threading.Lock()


def advance(index: int, shape: str, operation: str, arguments: tuple) -> Choice | None:
    """The outcome of this shape class's trial, or None while its kernel is being compiled.

    index: of the CUDA device, -1 for a CPU. arguments: of the operation, as the job calls it.
    The first call starts the compilation and returns at once; the first after that has ended runs
    the trial. Never raises what a kernel raises: that is an outcome.
    """
    state = _states.get((index, shape))
    if state is None:
        _start(index, shape, operation, arguments)
        return None
    if state == COMPILING:
        return None
    with _lock:  # two threads may sample at once: one trial is enough
        state = _states[index, shape]
        if not isinstance(state, Choice):
            state = _states[index, shape] = judge(operation, arguments)
    return state


def judge(operation: str, arguments: tuple) -> Choice:
    """Run both on the same arguments, compare them, and time them in turns."""
    ours, torchs = kernel(operation), plain(operation)
    first = next(a for a in arguments if isinstance(a, Tensor))
    try:
        with torch.no_grad():
            error = _difference(ours(*arguments), torchs(*arguments))
            if not error <= EQUAL[first.dtype]:
                reason = (
                    f"the kernel and torch differ by {error:.1e}, at most {EQUAL[first.dtype]:g}"
                )
                return Choice(TORCH, reason=reason)
            rounds = [
                (_seconds(ours, arguments, first), _seconds(torchs, arguments, first))
                for _ in range(ROUNDS)
            ]
    except Exception as error:
        return Choice(TORCH, reason=_in_short(error))
    kernel_us, torch_us = (1e6 * statistics.median(side) for side in zip(*rounds, strict=True))
    winner = KERNEL if kernel_us < CLEAR * torch_us else TORCH
    return Choice(winner, round(kernel_us, 2), round(torch_us, 2))


def forget() -> None:
    """Try again whatever is met from now on."""
    with _lock:
        _states.clear()


def wait() -> None:
    """Return when every compilation that was asked for has ended."""
    _waiting.join()


def _start(index: int, shape: str, operation: str, arguments: tuple) -> None:
    global _worker
    with _lock:
        if (index, shape) in _states:
            return
        _states[index, shape] = COMPILING
        if _worker is None or not _worker.is_alive():
            _worker = threading.Thread(target=_compile_all, name="jodi-kernels", daemon=True)
            _worker.start()
    # Only what tells operands apart travels to the thread, so that it keeps no tensor alive.
    _waiting.put((index, shape, operation, [_outline(a) for a in arguments]))


def _compile_all() -> None:
    while True:
        index, shape, operation, outlines = _waiting.get()
        try:
            _compile(index, operation, outlines)
            state: str | Choice = READY
        except Exception as error:
            state = Choice(TORCH, reason=_in_short(error))
        with _lock:
            if (index, shape) in _states:
                _states[index, shape] = state
        _waiting.task_done()


def _compile(index: int, operation: str, outlines: list) -> None:
    """Run the kernel on numbers of the same shapes and strides: Triton compiles at the first run.
    On a stream of its own, so that the job does not wait."""
    call = kernel(operation)
    with torch.no_grad():
        if index < 0:
            call(*(_filled(outline) for outline in outlines))
            return
        with torch.cuda.device(index), torch.cuda.stream(torch.cuda.Stream(index)):
            call(*(_filled(outline) for outline in outlines))
            torch.cuda.current_stream().synchronize()


def _outline(argument: Any) -> Any:
    if not isinstance(argument, Tensor):
        return argument
    return _Outline(argument)


class _Outline:
    """Shape, strides, dtype and device of a tensor, without its numbers."""

    def __init__(self, tensor: Tensor):
        self.shape, self.strides = tuple(tensor.shape), tensor.stride()
        self.dtype, self.device = tensor.dtype, tensor.device


def _filled(outline: Any) -> Any:
    if not isinstance(outline, _Outline):
        return outline
    pairs = zip(outline.shape, outline.strides, strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in pairs)
    flat = torch.ones(max(extent, 1), dtype=outline.dtype, device=outline.device)
    return flat.as_strided(outline.shape, outline.strides)


def _difference(ours: Any, torchs: Any) -> float:
    """Largest relative RMS between two outputs, each a tensor or a tuple of tensors."""
    pairs = [(ours, torchs)] if isinstance(ours, Tensor) else list(zip(ours, torchs, strict=True))
    errors = [_relative_rms(a.reshape(-1), b.reshape(-1)) for a, b in pairs]
    return max(errors, key=lambda error: error if error == error else float("inf"))


def _relative_rms(a: Tensor, b: Tensor) -> float:
    """In pieces: a decoder's maps have no room for float32 copies beside them."""
    off, size = (torch.zeros((), dtype=torch.float64, device=b.device) for _ in range(2))
    for x, y in zip(a.split(PIECE), b.split(PIECE), strict=True):
        off += (x.float() - y.float()).square().sum()
        size += y.float().square().sum()
    # Answers that are zero throughout are equal only to zero.
    return float((off / size.clamp(min=1e-60)).sqrt())


def _seconds(call: Callable, arguments: tuple, on: Tensor) -> float:
    """Seconds of one call."""
    if on.device.type != "cuda":
        begun = time.perf_counter()
        for _ in range(CALLS):
            call(*arguments)
        return (time.perf_counter() - begun) / CALLS
    with torch.cuda.device(on.device):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        for _ in range(CALLS):
            call(*arguments)
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1000 / CALLS


def _in_short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"
