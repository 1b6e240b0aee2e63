"""The most memory that a process has held."""

import subprocess
import sys

import pytest
import torch
from jodi_pack.kit.memory import measure_peak_memory

if sys.platform == "win32":
    pytest.skip("the system does not tell", allow_module_level=True)

ASK = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("memory", sys.argv[1])
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)
print(memory.measure_peak_memory("cpu"))
"""


def test_what_was_held_once_is_counted():
    before = measure_peak_memory("cpu")
    held = torch.ones(int(before + 200) * 250_000)  # 4 bytes each: 200 MB above the peak so far
    assert measure_peak_memory("cpu") > before + 190
    del held
    assert measure_peak_memory("cpu") > before + 190


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells them apart")
def test_a_process_does_not_count_what_its_parent_held():
    held = torch.ones(500_000_000)  # 2 GB
    line = [sys.executable, "-c", ASK, sys.modules[measure_peak_memory.__module__].__file__]
    told = float(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    assert told < held.nbytes / 1e6 < measure_peak_memory("cpu")
