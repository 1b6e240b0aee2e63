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
    peak = _read_high_water()
    if peak is None:  # bytes on macOS, KiB elsewhere
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return round(peak / 1e6, 1)


def _read_high_water() -> int | None:
    """Bytes that Linux counted since this program began; None elsewhere.

    Linux hands the figure that getrusage gives down from parent to child, so that a small child of
    a large process would look large; VmHWM begins anew with the program.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kib is None else int(kib) * 1024
