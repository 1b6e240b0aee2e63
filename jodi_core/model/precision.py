"""Which precision the released model runs in on a CPU."""

import functools
import statistics
import time

import torch
import torch.nn.functional as F

from .config import JODI_1600M, TransformerConfig

WORTH_IT = 1.3  # a smaller gain is not worth eight digits less


def cpu_dtype(config: TransformerConfig) -> torch.dtype:
    """bfloat16, as published, for the released sizes where this CPU gains by it; else float32."""
    pays = config == JODI_1600M and bfloat16_gain() >= WORTH_IT
    return torch.bfloat16 if pays else torch.float32


@functools.cache
def bfloat16_gain() -> float:
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
