"""How much memory a process has held."""

import sys

import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None


def measure_peak_memory(device: torch.device | str) -> float | None:
    """MB that this process has held at most: of a CUDA device since torch's last reset of it, of
    the CPU since the process began. None where the system does not tell (Windows)."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)
