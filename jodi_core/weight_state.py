"""Whether a network's weights are still those of the last look."""

import weakref

from torch import nn


class WeightState:
    """Notices exchanged and written parameters and buffers, for owners of what they once made."""

    def __init__(self):
        self._seen: list[tuple[int, int, int]] = []
        self._alive: list[weakref.ref] = []

    def unchanged(self, network: nn.Module) -> bool | None:
        """Whether this network has the weights it had at the last call.

        None where writes could not be seen: tensors made in inference mode do not count them.
        Writes through `.data` count nowhere.
        """
        tensors = [*network.parameters(), *network.buffers()]
        countable = not any(t.is_inference() for t in tensors)
        seen = [(id(t), t.data_ptr(), t._version) for t in tensors] if countable else []
        # An id says something only while its tensor lives: a later one may get the same.
        same = seen == self._seen and all(ref() is not None for ref in self._alive)
        self._seen, self._alive = seen, [weakref.ref(t) for t in tensors]
        return same if countable else None
