"""Prepared texts of the last few prompts, found again by content."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor | None, ...]


class TextCache:
    """Keeps what a model made of a text, for the next job with the same words.

    Bounded in entries; the one unused for longest goes first. An entry is found by the values of
    its inputs, never by their identity. `weights` names the state of the weights that made it: an
    owner that changes weights sets another value, and entries made with the old one are not found.
    """

    def __init__(self, entries: int = 4):
        self.entries = entries
        self.weights: Hashable = None
        self._known: list[tuple[Hashable, Inputs, Any]] = []

    def get(self, inputs: Inputs, make: Callable[[], Any]) -> Any:
        """What `make` made for equal inputs before, or makes now."""
        for i, (weights, known, value) in enumerate(self._known):
            if weights == self.weights and all(map(same_tensor, known, inputs)):
                self._known.append(self._known.pop(i))
                return value
        value = make()
        self._known = [*self._known, (self.weights, inputs, value)][-self.entries :]
        return value


def same_tensor(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors agree in shape, type, place and every value. Missing ones agree."""
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return a is b or torch.equal(a, b)


def state_of_weights(module: nn.Module) -> Hashable:
    """Another value whenever a parameter or buffer was exchanged or written to.

    Tensors made in inference mode do not count writes to them; nothing here writes to those.
    """
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
