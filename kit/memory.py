"""How much memory a process has held."""

import sys
from pathlib import Path

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
    peak = _read_high_water() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def _read_high_water() -> int | None:
    """KiB that Linux counted since this program began; getrusage also counts the process that
    started it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
