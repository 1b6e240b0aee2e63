"""What a sampling run carries besides tensors: contexts prepared once, and how many domains count.

Shapes: B rows, L domains, z latent channels, h w latent grid, S text tokens.
"""

import comfy.conds
import torch
from torch import Tensor

CONTEXTS_KEPT = 4  # guidance in two calls needs 2; regional prompts a few more

Inputs = tuple[Tensor | None, ...]


class RunContexts:
    """Prepared contexts of one sampling run, told apart by content.

    The host concatenates and casts its tensors anew at every step, so identity says nothing. The
    object is made by `extra_conds` and lives in the conditioning of one run only: weights that are
    patched between runs never meet an old context. While hooks change weights inside a run,
    nothing is kept.
    """

    def __init__(self, host):
        self._host = host
        self._entries: list[tuple[tuple, Inputs, object]] = []

    def get(self, like: Tensor, inputs: Inputs, make):
        """The context for these inputs and latents like `like`, made when it is not known."""
        patcher = self._host.current_patcher
        if patcher is not None and patcher.current_hooks is not None:
            return make()
        kind = (like.shape, like.dtype, like.device)
        for known_kind, known, context in self._entries:
            if known_kind == kind and all(map(_same, known, inputs)):
                return context
        context = make()
        self._entries = [*self._entries[1 - CONTEXTS_KEPT :], (kind, inputs, context)]
        return context


class RunCond(comfy.conds.CONDRegular):
    """Carries `RunContexts` through the host's conditioning; its size is (1, active domains)."""

    def __init__(self, cond: RunContexts, active: int):
        super().__init__(cond)
        self.active = active

    def _copy_with(self, cond):
        return self.__class__(cond, self.active)

    def process_cond(self, batch_size, **_):
        return self

    def can_concat(self, other) -> bool:
        return isinstance(other, RunCond)

    def concat(self, others):
        return self.cond

    def size(self) -> list[int]:
        return [1, self.active]


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return a is b or torch.equal(a, b)
