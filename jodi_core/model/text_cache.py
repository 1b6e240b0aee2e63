"""Prepared texts of the last few prompts, found again by content."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from .attention import TextKeys, TwoKeys

Inputs = tuple[Tensor | None, ...]
Prepared = Sequence[TextKeys | TwoKeys]  # of every block

TEXT_BYTES = 256 << 20  # a full text window of the released model has 54 MB in half precision


class TextCache:
    """Keeps what a model made of a text, for the next job with the same words.

    A text is found by the values of its inputs, never by their identity. Above `entries` texts or
    `limit` bytes, the text that was not used for the longest time goes first.
    """

    def __init__(self, entries: int = 4, limit: int = TEXT_BYTES):
        self.entries = entries
        self.limit = limit
        self._weights: Hashable = None
        self._known: list[tuple[Inputs, Prepared]] = []

    def get(self, inputs: Inputs, make: Callable[[], Prepared]) -> Prepared:
        """The prepared text of these inputs, from the cache or else from `make`."""
        for i, (known, value) in enumerate(self._known):
            if all(map(are_equal_tensors, known, inputs)):
                self._known.append(self._known.pop(i))
                return value
        value = make()
        self._known = [*self._known, (inputs, value)][-self.entries :]
        while self.nbytes > self.limit:
            self._known.pop(0)
        return value

    def made_with(self, weights: Hashable) -> None:
        """Tell which weights are in use. Texts that other weights prepared are dropped."""
        if weights != self._weights:
            self.clear()
        self._weights = weights

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(text.nbytes for _, value in self._known for text in value)


def are_equal_tensors(a: Tensor | None, b: Tensor | None) -> bool:
    """Whether two tensors agree in shape, dtype, device and every value; None agrees with None."""
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return a is b or torch.equal(a, b)
