"""A figure that needs a process of its own: the memory one side takes."""

import subprocess
import sys
from pathlib import Path

from ..kit.errors import JodiError
from .cases import Case
from .measure import peak_memory
from .subjects import SIDES

ROOT = Path(__file__).resolve().parent.parent

# The child loads the package by path, under the name that it has here.
START = """
import importlib, importlib.util, sys
root, name, key, side = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    name, root + "/__init__.py", submodule_search_locations=[root])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
importlib.import_module(name + ".benchmarks.child").report(key, side)
"""


def measure_memory(case: Case, side: str) -> float:
    """GB at the peak of one run of one side, in a fresh process. Raises: JodiError if it fails."""
    name = __name__.split(".")[0]
    command = [sys.executable, "-c", START, str(ROOT), name, case.key, side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = " / ".join(done.stderr.strip().splitlines()[-3:])[-400:] or "it said nothing"
        how = f"ended with status {done.returncode}"
        if done.returncode < 0:  # on Linux 9 is what takes a process when memory runs out
            how = f"was killed by signal {-done.returncode}, perhaps for want of memory"
        raise JodiError(f"the process that measures it {how}: {tail}")
    return float(done.stdout.split()[-1])


def report(key: str, side: str) -> None:
    """What the child does: print the peak in GB."""
    assert side in SIDES
    sys.stdout.write(f"{peak_memory(Case.parse(key), side)}\n")
