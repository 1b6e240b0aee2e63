"""Where kernels run in tests: on a GPU where there is one, else in Triton's interpreter.

JODI_REQUIRE=triton turns a missing Triton into a failure, JODI_REQUIRE=gpu a missing GPU. No test
falls back to torch by itself: kernels are called by their own names, or with `triton` chosen, which
is an error where no kernel can answer.
"""

import importlib
import os
from pathlib import Path

import pytest
import torch
from jodi_pack.kernels.selection import triton_missing

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # Triton settles this when it is imported: conftests are read before any test runs.
    os.environ["TRITON_INTERPRET"] = "1"

GUARD = 256  # numbers before and behind every new tensor that no kernel may touch
SENTINEL = 77.0
_empty = torch.empty


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what calls kernels where they run in the interpreter, which is slow."""
    if ON_GPU:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and "device" in getattr(item, "fixturenames", ()):
            item.add_marker("interpreted")


def missing(kind: str, reason: str):
    if kind in os.environ.get("JODI_REQUIRE", "").split(","):
        pytest.fail(f"JODI_REQUIRE asks for {kind}: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def gpu() -> str:
    """The device's name, or a skip that says what went unchecked."""
    if not ON_GPU:
        missing("gpu", "no CUDA device here: kernels ran in the interpreter, not on a GPU")
    return "cuda"


@pytest.fixture(scope="session")
def device() -> str:
    """Where kernels take their tensors."""
    if reason := triton_missing():
        missing("triton", f"no kernel was checked: {reason}")
    if ON_GPU:
        return "cuda"
    common = importlib.import_module("jodi_pack.kernels.triton_common")
    assert common.INTERPRETED, "Triton was imported before TRITON_INTERPRET=1 was set"
    return "cpu"


@pytest.fixture
def poison(monkeypatch):
    """New memory holds NaN, so that what a kernel leaves unwritten shows, and lies between guards,
    so that what it writes elsewhere shows too."""
    buffers = []

    def empty(*size, dtype=None, device=None, **kwargs):
        size = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        count = torch.Size(size).numel()
        buffer = _empty(count + 2 * GUARD, dtype=dtype, device=device, **kwargs).fill_(SENTINEL)
        buffers.append(buffer)
        return buffer[GUARD : GUARD + count].fill_(float("nan")).view(size)

    def empty_like(x, **kwargs):
        return empty(*x.shape, dtype=x.dtype, device=x.device, **kwargs)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "empty_like", empty_like)
    yield buffers
    monkeypatch.undo()
    assert buffers, "nothing was allocated through torch.empty: the poison checks nothing"
    for buffer in buffers:
        for side in (buffer[:GUARD], buffer[-GUARD:]):
            assert (side == SENTINEL).all(), "a kernel wrote outside its output"


@pytest.fixture
def far_rows(device):
    """Makes rows of bfloat16 that lie 2^30 numbers apart: three need 32-bit-proof offsets.

    The memory between them is never touched, so that it costs addresses only (on a GPU, 4 GB).
    """

    def make(rows: int, channels: int) -> torch.Tensor:
        pitch = 1 << 30
        try:
            flat = _empty((rows - 1) * pitch + channels, dtype=torch.bfloat16, device=device)
        except (RuntimeError, MemoryError) as error:
            pytest.skip(f"no {2 * rows} GB of addresses to be had: {error}")
        view = flat.as_strided((rows, channels), (pitch, 1))
        numbers = torch.arange(rows * channels, dtype=torch.float32).view(rows, channels)
        view.copy_(numbers % 7 - 2)
        return view

    return make
