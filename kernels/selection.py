"""Who answers a call: plain torch or a Triton kernel.

Three choices, made by `choose`, `use` or the environment variable JODI_KERNELS:

    auto       a kernel where it was measured faster than torch on that device, else torch
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

MODES = ("auto", "reference", "triton")
ENVIRONMENT = "JODI_KERNELS"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

# (operation, name of the device as CUDA gives it) -> the fewest rows from which the kernel was
# measured faster than torch. `jodi bench kernels` gives the figures; kernels/README.md keeps them.
# Empty: no GPU has been measured yet, so `auto` stays with torch everywhere.
MEASURED: dict[tuple[str, str], int] = {}

# The most channels (of a head, a row, a pixel) that fit the registers of one program.
WIDEST = {
    "relu_linear_attention": 128,
    "layer_norm_modulate": 16384,
    "gated_residual_norm_modulate": 16384,
    "rms_norm_channels": 16384,
}

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


def kernel_answers(operation: str, channels: int, *tensors: Tensor | None) -> bool:
    """Whether a kernel is to answer this call. Asks the device nothing, so it never waits for one.

    channels: of a row of the first operand. tensors: the operands; None for one left out.
    Raises: KernelError when `triton` is chosen and no kernel can answer, with the reason.
    """
    mode = chosen()
    if mode == "reference" or (mode == "auto" and not MEASURED):
        return False
    operands = [t for t in tensors if t is not None]
    if torch.is_grad_enabled() and any(t.requires_grad for t in operands):
        return False
    reason = _obstacle(operation, channels, operands)
    if mode == "triton":
        if reason:
            raise KernelError(
                f"{operation}: kernels are set to triton, but {reason}; "
                f"set {ENVIRONMENT}=auto (or reference) to let torch compute it"
            )
        return True
    if reason or operands[0].device.type != "cuda":
        return False
    fewest = MEASURED.get((operation, _device_name(operands[0].device.index)))
    return fewest is not None and operands[0].numel() >= fewest * channels


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
_names: dict[int | None, str] = {}
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


def _device_name(index: int | None) -> str:
    if index not in _names:
        _names[index] = torch.cuda.get_device_name(index)
    return _names[index]
