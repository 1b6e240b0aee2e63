"""Which of the two implementations is faster, as measured on this machine and as remembered.

A choice holds for one card, driver, torch, Triton and state of the kernels' source: `MadeBy`. What
was measured under another is not read. Where choices are kept between processes is the caller's
affair: `keep_in` takes a `Memory`, and without one they last as long as the process.
"""

import hashlib
import importlib.metadata
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

KERNEL, TORCH = "kernel", "torch"

_logger = logging.getLogger("jodi")


@dataclass(frozen=True)
class Choice:
    """winner: KERNEL or TORCH. kernel_us, torch_us: microseconds of one call where both were timed.
    reason: why the kernel was refused, where it was."""

    winner: str
    kernel_us: float | None = None
    torch_us: float | None = None
    reason: str | None = None

    def in_words(self) -> str:
        if self.reason:
            return f"{self.winner} ({self.reason})"
        return f"{self.winner} (kernel {self.kernel_us:.1f} us, torch {self.torch_us:.1f} us)"


class Memory(Protocol):
    """Keeps choices between processes. Both methods may fail with OSError or ValueError."""

    def load(self) -> dict: ...
    def save(self, content: dict) -> None: ...


# Plain dicts of plain keys, which torch.compile can look through: device -> shape class -> choice.
_decided: dict[int, dict[str, Choice]] = {}
_memory: Memory | None = None
_read: set[int] = set()


def keep_in(memory: Memory | None) -> None:
    """Where choices are kept from now on; None: nowhere. What is kept there is read when needed."""
    global _memory
    _memory = memory
    _read.clear()


def forget() -> None:
    """Make every choice anew, as after a change of version. What a memory keeps is not read again
    and stays until new choices replace it."""
    _decided.clear()
    _read.update((-1, *range(torch.cuda.device_count())))


def shape_class(operation: str, channels: int, operands: tuple[Tensor | None, ...]) -> str:
    """What a choice holds for: operation, dtype, channels, rows up to a power of two, and which
    operands are there. "layer_norm_modulate bfloat16 2240 16384 111"."""
    first = operands[0]
    assert first is not None
    rows = 1
    while rows * channels < first.numel():
        rows *= 2
    dtype = str(first.dtype).removeprefix("torch.")
    present = "".join("0" if operand is None else "1" for operand in operands)
    return f"{operation} {dtype} {channels} {rows} {present}"


def decided(index: int, shape: str) -> Choice | None:
    """The choice for a shape class on the device of this index (-1 for a CPU), if there is one."""
    if _memory is not None and index not in _read and not torch.compiler.is_compiling():
        _recall(index)
    return _decided.get(index, {}).get(shape)


def decide(index: int, shape: str, choice: Choice) -> None:
    """Note a choice, tell the log, and keep it where there is a memory."""
    _decided.setdefault(index, {})[shape] = choice
    level = logging.WARNING if choice.reason and "differ" in choice.reason else logging.INFO
    _logger.log(level, "kernels: %s on %s: %s", shape, card(index), choice.in_words())
    if _memory is not None:
        try:
            _keep(_memory, index)
        except (OSError, ValueError) as error:
            _logger.warning("kernels: what was measured cannot be kept: %s", error)


def table(index: int) -> dict[str, Choice]:
    """Every choice for a device, by shape class."""
    if _memory is not None and index not in _read:
        _recall(index)
    return dict(_decided.get(index, {}))


def card(index: int) -> str:
    """The name of a device, as CUDA gives it."""
    return "CPU" if index < 0 else torch.cuda.get_device_name(index)


def made_by(index: int) -> str:
    """Card, driver, torch, Triton and the kernels' source, in one line."""
    driver = "none"
    if index >= 0:
        version = getattr(torch._C, "_cuda_getDriverVersion", None)
        driver = str(version()) if version else "unknown"
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "unknown"
    parts = (card(index), f"driver {driver}", f"torch {torch.__version__}", f"triton {triton}")
    return ", ".join((*parts, f"kernels {_source()}"))


def _source() -> str:
    """What tells one state of the kernels' code from another."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _recall(index: int) -> None:
    """Take over what the memory holds for this device. What cannot be read is measured again."""
    _read.add(index)
    assert _memory is not None
    try:
        kept = _memory.load().get(made_by(index), {})
        choices = {shape: Choice(**fields) for shape, fields in kept.items()}
        if any(choice.winner not in (KERNEL, TORCH) for choice in choices.values()):
            raise ValueError("a winner is neither kernel nor torch")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _logger.warning("kernels: kept choices cannot be read (%s); measuring again", error)
        return
    _decided[index] = {**choices, **_decided.get(index, {})}


def _keep(memory: Memory, index: int) -> None:
    """Write all choices for this device, beside those of other cards: another process may have
    added some since. Those of this card under other versions are dropped."""
    try:
        content = memory.load()
        content = {k: v for k, v in content.items() if isinstance(v, dict)}
    except (OSError, ValueError, AttributeError):
        content = {}
    name = made_by(index)
    ours = {shape: asdict(choice) for shape, choice in _decided.get(index, {}).items()}
    others = {k: v for k, v in content.items() if not k.startswith(f"{card(index)}, ")}
    memory.save({**others, name: {**content.get(name, {}), **ours}})
