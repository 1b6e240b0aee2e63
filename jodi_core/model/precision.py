"""Which precision the released model runs in on a CPU."""

import torch

from ...kit.precision import measure_bfloat16_gain
from .config import JODI_1600M, TransformerConfig

WORTH_IT = 1.3  # a smaller gain is not worth eight digits less


def choose_cpu_dtype(config: TransformerConfig) -> torch.dtype:
    """bfloat16, as published, for the released sizes where this CPU gains by it; else float32."""
    pays = config == JODI_1600M and measure_bfloat16_gain() >= WORTH_IT
    return torch.bfloat16 if pays else torch.float32
