"""Who answers a call: plain torch or a Triton kernel.

Three choices, made by `choose`, `use` or the environment variable JODI_KERNELS:

    auto       on a CUDA device whichever is faster there (see `trials`), elsewhere torch
    reference  always torch
    triton     always a kernel, or an error that says why not

Kernels have no backward pass: while autograd records a call, torch answers it whatever is chosen.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from . import choices, trials

MODES = ("auto", "reference", "triton")
ENVIRONMENT = "JODI_KERNELS"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# The most channels (of a head, a row, a pixel) that fit the registers of one program.
WIDEST = {
    "relu_linear_attention": 128,
    "layer_norm_modulate": 16384,
    "gated_residual_norm_modulate": 16384,
    "rms_norm_channels": 16384,
}

TRIED_ON = ("cuda",)  # kinds of device on which `auto` tries kernels
OLDEST_CARD = (8, 0)  # the first with bfloat16
OLDEST_TRITON = (3, 2)  # that of torch 2.6; older ones refuse masks that these kernels load by

_mode: str | None = None


class KernelError(RuntimeError):
    """A kernel was asked for that cannot run here or cannot take these tensors."""


def choose(mode: str | None) -> None:
    """Set the choice for this process; None returns to what the environment says.

    Raises: KernelError when `mode` is none of MODES.
    """
    global _mode
    _mode = None if mode is None else _checked(mode, "the choice of kernels")


def chosen() -> str:
    """The choice in force, one of MODES.

    Raises: KernelError when $JODI_KERNELS is none of MODES.
    """
    global _mode
    if _mode is None:
        _mode = _checked(_variable(ENVIRONMENT) or "auto", f"${ENVIRONMENT}")
    return _mode


@contextlib.contextmanager
def use(mode: str) -> Iterator[None]:
    """A choice for the time of a `with` block, in all threads of the process."""
    global _mode
    before = _mode
    choose(mode)
    try:
        yield
    finally:
        _mode = before


def kernel_answers(
    operation: str, channels: int, operands: tuple[Tensor | None, ...], arguments: tuple
) -> bool:
    """Whether a kernel is to answer this call.

    channels: of a row of the first operand. operands: the tensors that a kernel reads as numbers;
    None for one left out. arguments: of the whole call. With `auto`, the first calls of a kind on a
    CUDA device lead to its trial; else the device is asked nothing, so that nobody waits for it.
    Raises: KernelError when `triton` is chosen and no kernel can answer, with the reason.
    """
    mode, first = chosen(), operands[0]
    assert first is not None
    if mode == "reference" or (mode == "auto" and first.device.type not in TRIED_ON):
        return False
    given = [t for t in operands if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return False
    reason = _obstacle(operation, channels, given)
    if mode == "triton":
        if reason:
            raise KernelError(
                f"{operation}: kernels are set to triton, but {reason}; "
                f"set {ENVIRONMENT}=auto (or reference) to let torch compute it"
            )
        return True
    return not reason and _is_faster(operation, channels, operands, arguments)


def _is_faster(operation: str, channels: int, operands, arguments: tuple) -> bool:
    """Whether the kernel won its trial. A compiler and a graph capture only look it up: they
    record one answer and must not meet a measurement."""
    index = _index(operands[0].device)
    shape = choices.shape_class(operation, channels, operands)
    choice = choices.decided(index, shape)
    if choice is None and not torch.compiler.is_compiling() and not _is_capturing(index):
        choice = trials.advance(index, shape, operation, arguments)
        if choice is not None:
            choices.decide(index, shape, choice)
    return choice is not None and choice.winner == choices.KERNEL


def obstacle(device: torch.device | str) -> str | None:
    """Why no kernel can run on a device, or None when one can."""
    device = torch.device(device)
    if missing := triton_missing():
        return missing
    if device.type == "cuda":
        if torch.version.hip is not None:
            return "the kernels are written for CUDA, and this torch is built for ROCm"
        if _capability(device) < OLDEST_CARD:
            return "the kernels need a CUDA card of compute capability 8.0 or above"
        return None
    if device.type == "cpu" and _variable("TRITON_INTERPRET") == "1":
        return None
    return (
        f"the tensors are on {device.type} and kernels run on CUDA devices (elsewhere only in "
        "Triton's interpreter: TRITON_INTERPRET=1, set before the first use, for tests)"
    )


def _variable(name: str) -> str | None:
    """Whoever starts ComfyUI has no other place to say it: the one read of the environment here."""
    return os.getenv(name)


def _obstacle(operation: str, channels: int, operands: list[Tensor]) -> str | None:
    first = operands[0]
    widest = WIDEST.get(operation, channels)
    if channels > widest:
        return f"its kernel takes rows of at most {widest} channels, and these have {channels}"
    if first.dtype not in DTYPES:
        return f"there are kernels for float16, bfloat16 and float32, not for {first.dtype}"
    for other in operands[1:]:
        if other.dtype != first.dtype or other.device != first.device:
            return (
                f"operands must share dtype and device: got {first.dtype} on {first.device} and "
                f"{other.dtype} on {other.device}"
            )
    return obstacle(first.device)


def _checked(mode: str, what: str) -> str:
    if mode not in MODES:
        raise KernelError(f"{what} must be one of {', '.join(MODES)}; got {mode!r}")
    return mode


# Plain dicts: torch.compile looks through functools.cache and would ask anew.
_missing: dict[str, str | None] = {}
_capabilities: dict[int | None, tuple[int, int]] = {}


def triton_missing() -> str | None:
    """Why Triton cannot be used, or None."""
    if "triton" not in _missing:
        _missing["triton"] = _find_triton()
    return _missing["triton"]


def _find_triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton; Linux only)"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None  # under another name, as some builds for Windows are
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST_TRITON:
        return f"they need Triton 3.2, which comes with torch 2.6, or newer; this is {version}"
    return None


def _capability(device: torch.device) -> tuple[int, int]:
    if device.index not in _capabilities:
        _capabilities[device.index] = torch.cuda.get_device_capability(device)
    return _capabilities[device.index]


def _index(device: torch.device) -> int:
    """A CUDA device's number; -1 for a CPU."""
    if device.type != "cuda":
        return -1
    return torch.cuda.current_device() if device.index is None else device.index


def _is_capturing(index: int) -> bool:
    return index >= 0 and torch.cuda.is_current_stream_capturing()
