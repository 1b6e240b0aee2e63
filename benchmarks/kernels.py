"""Each Triton kernel against plain torch on a GPU: device time, and share of copy bandwidth.

Both sides compute the same on the same inputs, checked before anything is timed. A round of calls
is captured as one CUDA graph, so that the figures are of the device and not of the host; the calls
of a round take inputs in turn that do not fit the cache together. Keys:

    ratio.kernel.NAME.SIZE.DTYPE.cuda      torch's time over ours
    ours.kernel..., baseline.kernel...     seconds of one call
    bandwidth.kernel...                    (bytes that must move / time) / measured copy bandwidth
    tune.kernel....SETTING                 seconds with other tiles, where that was asked
"""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from ..kernels import choices, dispatch, selection, trials
from ..kit.errors import JodiError
from ..kit.vectors import relative_rms

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
WIDTH, HIDDEN, HEAD = 2240, 5600, 32  # of the 1.6B transformer
COLD_BYTES = 400e6  # inputs of a round: several times the largest cache there is
ROUNDS = 15

# Tiles worth trying on a GPU that is new: few, so that a sweep takes seconds. By module.
CANDIDATES: dict[str, list[dict[str, int]]] = {
    "triton_linear_attention": [
        {"KEY_TILE": keys, "QUERY_TILE": queries} for keys in (64, 128) for queries in (64, 128)
    ],
    "triton_layer_norm": [{"ROWS": rows} for rows in (1, 2, 4, 8)],
    "triton_depthwise": [
        {"COLUMNS": columns, "CHANNELS": 64, "WARPS": warps, "STAGES": stages}
        for columns, warps in ((4, 4), (8, 4), (8, 8), (16, 8))
        for stages in (1, 3)
    ],
    "triton_rms_norm": [{"TILE": tile} for tile in (2048, 4096, 8192)],
}


@dataclass(frozen=True)
class KernelCase:
    """One operation at one size.

    inputs: makes a set of arguments from a generator. moved: bytes that any implementation must
    read and write, each tensor once.
    """

    name: str
    size: str
    dtype: torch.dtype
    module: str
    call: Callable[..., Any]
    inputs: Callable[[torch.Generator], tuple]
    moved: int

    @property
    def key(self) -> str:
        label = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        return f"kernel.{self.name}.{self.size}.{label}.cuda"


def run(options: Any = None) -> dict[str, float]:
    """Measure every kernel and return flat figures.

    options: any object; of its attributes these count: dtype, names out of DTYPES (default bf16);
    repeat, rounds of each side; tune, whether to try CANDIDATES; say, told a line for each case.
    Raises: JodiError where there is no CUDA device or no Triton, or when both sides differ.
    """
    if not torch.cuda.is_available():
        raise JodiError(
            "kernels are measured on a CUDA device, and torch sees none here; on a CPU they only "
            "run in Triton's interpreter, whose speed means nothing"
        )
    reason = selection.obstacle("cuda")
    if reason:
        raise JodiError(f"kernels cannot be measured here: {reason}")
    rounds = getattr(options, "repeat", None) or ROUNDS
    say = getattr(options, "say", None) or (lambda line: None)
    copy = copy_bandwidth(rounds)
    say(f"{torch.cuda.get_device_name()}: copies at {copy / 1e9:.0f} GB/s")
    figures = {"copy_gb_per_s.cuda": round(copy / 1e9, 1)}
    choices.forget()
    trials.forget()
    for label in getattr(options, "dtype", None) or ["bf16"]:
        for case in cases(DTYPES[label], "cuda"):
            figures |= _measure(case, copy, rounds, say)
            try_case(case)
            if getattr(options, "tune", False):
                figures |= _tune(case, rounds, say)
    for shape, choice in sorted(choices.table(torch.cuda.current_device()).items()):
        say(f"jobs on this card take: {shape}: {choice.in_words()}")
    return figures


def cases(dtype: torch.dtype, device: str, domains=(2, 8), grid=(32, 32)) -> list[KernelCase]:
    """The operations of a step over 2 and 8 domains at 1024 pixels, and of a decode."""
    made = []
    for count in domains:
        made += _transformer_cases(count, grid, dtype, device)
    edge = grid[0] * 32
    made.append(_rms_norm_case(128, edge, dtype, device))
    made.append(_rms_norm_case(512, edge // 8, dtype, device))
    return made


def check(case: KernelCase) -> float:
    """Relative RMS of the kernel to torch. Raises: JodiError when they are not equal."""
    arguments = case.inputs(torch.Generator().manual_seed(1))
    ours, baseline = (_outputs(case, side, arguments) for side in ("triton", "reference"))
    error = max(relative_rms(a, b) for a, b in zip(ours, baseline, strict=True))
    if not error <= trials.EQUAL[case.dtype]:
        raise JodiError(
            f"{case.key}: the kernel and torch differ by {error:.1e} (relative RMS, at most "
            f"{trials.EQUAL[case.dtype]:g}); nothing is timed. Run the tests in tests/kernels here"
        )
    return error


def try_case(case: KernelCase) -> None:
    """Hold the trial that `auto` would hold in a job, so that its choice is made anew."""
    arguments = case.inputs(torch.Generator().manual_seed(1))
    with torch.inference_mode(), selection.use("auto"):
        case.call(*arguments)
        trials.wait()
        case.call(*arguments)


def copy_bandwidth(rounds: int = ROUNDS) -> float:
    """Bytes a second, read and written together, of a plain copy of 512 MB."""
    source = torch.empty(1 << 28, dtype=torch.int16, device="cuda").zero_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / _device_seconds([lambda: target.copy_(source)], rounds)


def _measure(case: KernelCase, copy: float, rounds: int, say) -> dict[str, float]:
    check(case)
    ours, baseline = (_seconds(case, side, rounds) for side in ("triton", "reference"))
    share = case.moved / ours / copy
    say(
        f"{case.key:58} {baseline / ours:5.2f}x  ours {ours * 1e6:7.1f} us  torch "
        f"{baseline * 1e6:7.1f} us  {share:4.0%} of copy bandwidth"
    )
    return {
        f"ratio.{case.key}": round(baseline / ours, 3),
        f"ours.{case.key}": ours,
        f"baseline.{case.key}": baseline,
        f"bandwidth.{case.key}": round(share, 3),
    }


def _tune(case: KernelCase, rounds: int, say) -> dict[str, float]:
    figures = {}
    for setting in CANDIDATES[case.module]:
        with _tiles(case.module, setting):
            seconds = _seconds(case, "triton", rounds)
        label = "_".join(f"{name.lower()}{value}" for name, value in setting.items())
        say(f"{case.key:58} {label:40} {seconds * 1e6:7.1f} us")
        figures[f"tune.{case.key}.{label}"] = seconds
    return figures


@contextlib.contextmanager
def _tiles(module: str, setting: dict[str, int]) -> Iterator[None]:
    """Other tile sizes for the time of a `with` block, in a module whose kernel has run."""
    target = getattr(kernels, module)
    before = {name: getattr(target, name) for name in setting}
    try:
        for name, value in setting.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


def _seconds(case: KernelCase, side: str, rounds: int) -> float:
    """Device time of one call, the median over rounds."""
    sets = max(2, int(COLD_BYTES // case.moved) + 1)
    arguments = [case.inputs(torch.Generator().manual_seed(seed)) for seed in range(sets)]
    with torch.inference_mode(), selection.use(side):
        return _device_seconds([lambda a=a: case.call(*a) for a in arguments], rounds)


def _device_seconds(calls: list[Callable[[], Any]], rounds: int) -> float:
    """Seconds of one call: the calls in turn as a CUDA graph, replayed."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:  # compile, and let libraries choose, before the capture
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        first.record()
        graph.replay()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last) / 1000 / len(calls))
    return statistics.median(times)


def _outputs(case: KernelCase, side: str, arguments: tuple) -> tuple[Tensor, ...]:
    with torch.inference_mode(), selection.use(side):
        out = case.call(*arguments)
    return out if isinstance(out, tuple) else (out,)


def _transformer_cases(domains, grid, dtype, device) -> list[KernelCase]:
    tokens = grid[0] * grid[1]
    rows = domains * tokens
    size, unit = f"{domains}x{tokens}", rows * WIDTH * dtype.itemsize

    def numbers(g, *shape):
        return torch.randn(*shape, generator=g).to(device, dtype)

    def attention(g):
        parts = numbers(g, 1, rows, 3 * WIDTH).chunk(3, dim=-1)
        return *(part.unflatten(-1, (-1, HEAD)) for part in parts), 1e-8

    def vectors(g):
        return numbers(g, 1, domains, 6, WIDTH).unbind(2)[:3]

    def norm(g):
        shift, scale, _ = vectors(g)
        return numbers(g, 1, domains, tokens, WIDTH), shift, scale, 1e-6

    def residual_norm(g):
        x, shift, scale, eps = norm(g)
        return x, numbers(g, *x.shape), None, shift, scale, eps

    def convolution(g):
        weight, bias = numbers(g, 2 * HIDDEN, 1, 3, 3), numbers(g, 2 * HIDDEN)
        return numbers(g, domains, tokens, 2 * HIDDEN), weight, bias, grid

    def case(name, module, inputs, moved):
        return KernelCase(name, size, dtype, module, getattr(dispatch, name), inputs, moved)

    expanded = 3 * rows * HIDDEN * dtype.itemsize
    return [
        case("relu_linear_attention", "triton_linear_attention", attention, 4 * unit),
        case("layer_norm_modulate", "triton_layer_norm", norm, 2 * unit),
        case("gated_residual_norm_modulate", "triton_layer_norm", residual_norm, 4 * unit),
        case("depthwise_conv3x3_glu", "triton_depthwise", convolution, expanded),
    ]


def _rms_norm_case(channels: int, edge: int, dtype, device) -> KernelCase:
    """With the residual that follows it, as at the end of every block of the autoencoder."""

    def inputs(g):
        def one(*shape):
            x = torch.randn(*shape, generator=g).to(device, dtype)
            return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

        x, residual = one(1, channels, edge, edge), one(1, channels, edge, edge)
        return x, one(channels), one(channels), 1e-5, residual

    name, size = "rms_norm_channels", f"{channels}x{edge}x{edge}"
    moved = 3 * channels * edge * edge * dtype.itemsize
    return KernelCase(name, size, dtype, "triton_rms_norm", getattr(dispatch, name), inputs, moved)
