"""What is wrong with a set of tensors, and what that pattern usually means."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError, shorten


@dataclass(frozen=True)
class KeyFaults:
    """How the tensors found differ from those expected. Misshaped: name, expected, found."""

    expected: Mapping[str, tuple[int, ...]]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshaped: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def text(self) -> str:
        parts = []
        if self.missing:
            parts.append(
                f"missing {len(self.missing)} of {len(self.expected)}: {shorten(self.missing)}"
            )
        if self.misshaped:
            shapes = [f"{n} (expected {e}, came {c})" for n, e, c in self.misshaped]
            parts.append(f"misshaped {len(shapes)}: {shorten(shapes)}")
        if self.unexpected:
            parts.append(f"unexpected {len(self.unexpected)}: {shorten(self.unexpected)}")
        return "; ".join(parts)


def find_key_faults(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> KeyFaults:
    """How the tensors differ from the expected names and shapes, in the order of either."""
    return KeyFaults(
        expected=expected,
        missing=[name for name in expected if name not in state],
        unexpected=[name for name in state if name not in expected],
        misshaped=[
            (name, shape, tuple(state[name].shape))
            for name, shape in expected.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    )


def require_keys(faults: KeyFaults, model: str, meaning: str):
    """Pass when there are no faults.

    model: describes the expected network. meaning: what these faults usually mean, and what to do.
    Raises: CheckpointError with the first few faults of each sort, their number, what they mean.
    """
    if faults:
        raise CheckpointError(f"the tensors are not those of {model}: {faults.text()}. {meaning}")


def explain_common(faults: KeyFaults) -> str | None:
    """What these faults mean for a model of any kind; None when they say nothing."""
    scales = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale", ".comfy_quant")
    if any(name.endswith(scales) for name in faults.unexpected):
        return "It is quantised (scales beside the weights). Use a file that was not quantised."
    if len(faults.missing) > len(faults.expected) // 2 and not faults.unexpected:
        return (
            "More than half is missing: one part of a model split into several files, or a save "
            "that stopped early. Use the complete file."
        )
    return None


def has_lost_all(faults: KeyFaults, prefix: str) -> bool:
    """Whether every tensor under `prefix` is missing."""
    missing = set(faults.missing)
    return all(name in missing for name in faults.expected if name.startswith(prefix))


def find_lost(faults: KeyFaults, pattern: str) -> list[int]:
    """Indices whose expected tensors are all missing."""
    regex = re.compile(pattern)
    missing = set(faults.missing)
    kept, seen = set(), set()
    for name in faults.expected:
        if match := regex.match(name):
            seen.add(int(match.group(1)))
            if name not in missing:
                kept.add(int(match.group(1)))
    return sorted(seen - kept)


def join_ranges(numbers: Iterable[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
