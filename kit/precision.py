"""How fast bfloat16 is on this machine, and which precision a training computes in."""

import functools
import statistics
import time

import torch
import torch.nn.functional as F


def choose_training_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 on a GPU and on CPUs that multiply it faster, float32 elsewhere.

    A CPU without instructions for bfloat16 is five times slower with it than with float32.
    """
    fast = torch.device(device).type != "cpu" or measure_bfloat16_gain() > 1
    return torch.bfloat16 if fast else torch.float32


@functools.cache
def measure_bfloat16_gain() -> float:
    """How many times as fast as float32 this CPU multiplies bfloat16 matrices; takes 0.1 s.

    Flags do not tell: AMX gives 6, AVX-512 BF16 about 2.4, and without either it is a loss.
    """
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.float32] / seconds[torch.bfloat16]


@torch.inference_mode()
def _seconds(dtype: torch.dtype) -> float:
    x, weight = torch.ones(256, 1024, dtype=dtype), torch.ones(2048, 1024, dtype=dtype)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        F.linear(x, weight)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])  # the first one prepares
