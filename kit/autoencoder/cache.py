"""Latents of recent pictures, found again by what the pictures hold."""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

ENCODING_BYTES = 64 << 20  # of latents; one 1024x1024 picture has 128 kB


class EncodeCache:
    """Keeps the latents of recent pictures, so that a picture met again is not encoded again.

    A latent is found by shape, dtype and every byte of its picture and by `about`, the settings of
    the encoding; never by identity. When the limit in bytes is passed, the latent that was not used
    for the longest time goes first. Latents are handed out as copies.
    """

    def __init__(self, limit: int = ENCODING_BYTES):
        self.limit = limit
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._weights = WeightState()

    def get(self, x: Tensor, about: tuple, make: Callable[[], Tensor]) -> Tensor:
        """The latent of x, from the cache or else from `make`, whose result is kept.

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
        """Whether latents of this network can be kept. Another network, or changed weights, empty
        the cache.

        False for weights that were made in inference mode: torch does not count writes to them, so
        a change could not be seen. Writes through `.data` are never counted: call `clear` after
        them.
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
    """Notices when a network's parameters or buffers are replaced or written to.

    For caches of the network's results.
    """

    def __init__(self):
        self._seen: list[tuple[int, int, int]] = []
        self._alive: list[weakref.ref] = []

    def unchanged(self, network: nn.Module) -> bool | None:
        """Whether this network has the weights it had at the last call.

        None for tensors that were made in inference mode: torch does not count writes to them.
        Writes through `.data` are never counted.
        """
        tensors = [*network.parameters(), *network.buffers()]
        countable = not any(t.is_inference() for t in tensors)
        seen = [(id(t), t.data_ptr(), t._version) for t in tensors] if countable else []
        # An id is unique only while its tensor lives: a later tensor may get the same id.
        same = seen == self._seen and all(ref() is not None for ref in self._alive)
        self._seen, self._alive = seen, [weakref.ref(t) for t in tensors]
        return same if countable else None
