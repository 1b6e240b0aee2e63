"""How much memory a piece of tensor code needs at its peak."""

import weakref

import torch
from torch.overrides import TorchFunctionMode


class LiveBytes(TorchFunctionMode):
    """Highest sum of the storages alive at once among those made inside, so without `given`."""

    def __init__(self, given):
        super().__init__()
        # never let go of: a view of it costs nothing
        self.owners = {given.untyped_storage().data_ptr(): 1}
        self.live = self.peak = 0

    def _drop(self, pointer, size):
        self.owners[pointer] -= 1
        if not self.owners[pointer]:
            self.live -= size

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else (out,):
            if isinstance(t, torch.Tensor):
                storage = t.untyped_storage()
                pointer, size = storage.data_ptr(), storage.nbytes()
                if not self.owners.get(pointer):
                    self.owners[pointer] = 0
                    self.live += size
                    self.peak = max(self.peak, self.live)
                self.owners[pointer] += 1
                weakref.finalize(t, self._drop, pointer, size)
        return out
