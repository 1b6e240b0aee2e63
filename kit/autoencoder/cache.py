"""Latents of recent pictures, found again by what the pictures hold."""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

ENCODING_BYTES = 64 << 20  # of latents; one 1024x1024 picture has 128 kB


class EncodeCache:
    """Keeps results by the content of their input. Bounded in bytes; the longest unused goes first.

    An entry is found by shape, dtype and every byte of its input and by `about`, the settings that
    shape the result; never by identity. Results are handed out as copies.
    """

    def __init__(self, limit: int = ENCODING_BYTES):
        self.limit = limit
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._weights = WeightState()

    def get(self, x: Tensor, about: tuple, make: Callable[[], Tensor]) -> Tensor:
        """What `make` made for the same content and settings before, or makes now.

        about: plain values whose `repr` tells every difference.
        """
        key = _key(x, about)
        known = self._known.pop(key, None)
        if known is None:
            known = make()
        self._known[key] = known
        while self.nbytes > self.limit:
            self._known.popitem(last=False)
        return known.clone()

    def made_by(self, network: nn.Module) -> bool:
        """Say which network makes the results; another one, or other weights, empties the cache.

        Returns False, and keeps nothing, where changes could not be seen: weights made in inference
        mode count no writes. Writes through `.data` count nowhere: `clear` after them.
        """
        unchanged = self._weights.unchanged(network)
        if not unchanged:
            self.clear()
        return unchanged is not None

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of all latents that are kept."""
        return sum(latent.nbytes for latent in self._known.values())


def _key(x: Tensor, about: tuple) -> bytes:
    digest = hashlib.blake2b(repr((tuple(x.shape), x.dtype, *about)).encode(), digest_size=32)
    digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


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
