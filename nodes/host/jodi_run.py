"""What a sampling run carries besides tensors: contexts prepared once, and how many domains count.

The host concatenates and casts its tensors anew at every step, so their identity says nothing, and
comparing their values would make a GPU wait at every step. So each CONDITIONING entry carries an
object of its own through the run, and a batch is known by the objects that make it up.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.conds
import torch
from torch import Tensor

from ...jodi_core.model.context import PreparedContext
from ...jodi_core.model.text_cache import TextCache

CONTEXTS_KEPT = 4  # guidance in two calls needs 2; regional prompts a few more


@dataclass
class Prepared:
    """A context, and whether one evaluation serves both halves of the guidance."""

    context: PreparedContext
    both: bool


@dataclass(eq=False)
class RunEntry:
    """One CONDITIONING entry in one run. Compared by identity.

    Made by `extra_conds` anew for each run, so that weights patched between runs never meet an old
    context. While hooks change weights inside a run, nothing is kept.
    """

    host: object
    known: list[tuple[tuple, Prepared]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What a batch is made of: entries in order, the area that each looks at, rows of each."""

    entries: tuple[RunEntry, ...]
    areas: tuple[object, ...]
    rows: int

    def whole(self, batch: Tensor) -> bool:
        """Whether a batch holds just these rows. Wrappers of the host's model may split it up."""
        return len(batch) == self.rows * len(self.entries)

    def pair(self, batch: Tensor) -> bool:
        """Whether a batch is two entries that look at the same picture."""
        return len(self.entries) == 2 and self.areas[0] == self.areas[1] and self.whole(batch)


def prepared(run: Run, like: Tensor, make: Callable[[TextCache | None], Prepared]) -> Prepared:
    """What `make` made for this batch of entries and latents like `like`, or makes now.

    make: called with a cache of prepared texts that outlives the run, or with None where the
    weights change under way.
    """
    owner = run.entries[0]
    patcher = owner.host.current_patcher
    if patcher is not None and patcher.current_hooks is not None:
        return make(None)
    if not run.whole(like):
        return make(_text_cache(owner.host))
    # The others by weak reference: entries that hold each other would outlive the run.
    others = tuple(map(weakref.ref, run.entries[1:]))
    kind = (others, run.areas, run.rows, like.shape, like.dtype, like.device)
    for known, value in owner.known:
        if known == kind:
            return value
    value = make(_text_cache(owner.host))
    owner.known = [*owner.known[1 - CONTEXTS_KEPT :], (kind, value)]
    return value


class RunCond(comfy.conds.CONDRegular):
    """Carries a `RunEntry` through the host's batches; its size is (1, active domains)."""

    def __init__(self, cond: RunEntry, active: int, area=None, rows: int = 1):
        super().__init__(cond)
        self.active, self.area, self.rows = active, area, rows

    def _copy_with(self, cond):
        return self.__class__(cond, self.active, self.area, self.rows)

    def process_cond(self, batch_size, area=None, **_):
        area = tuple(area) if isinstance(area, list | tuple) else area
        return self.__class__(self.cond, self.active, area, batch_size)

    def can_concat(self, other) -> bool:
        return isinstance(other, RunCond) and other.rows == self.rows

    def concat(self, others) -> Run:
        conds = (self, *others)
        return Run(tuple(c.cond for c in conds), tuple(c.area for c in conds), self.rows)

    def size(self) -> list[int]:
        return [1, self.active]


def _text_cache(host) -> TextCache | None:
    """The host model's cache, for the weights and patches that are loaded now.

    None where layers are changed in a way that the name of the loaded patches does not tell:
    injections (LoRA that is added on the way) and exchanged objects of the network.
    """
    loaded = getattr(host, "current_weight_patches_uuid", None)
    patcher = host.current_patcher
    if patcher is not None:
        network = [key for key in patcher.object_patches if key.startswith("diffusion_model.")]
        if network or patcher.injections:
            loaded = None
    host.text_cache.made_with(loaded)
    return None if loaded is None else host.text_cache


def repeats(copies: int, *tensors: Tensor | None) -> bool:
    """Whether every tensor is one block of rows, `copies` times over."""
    for tensor in tensors:
        if tensor is None:
            continue
        first, *others = tensor.chunk(copies)
        if not all(other.shape == first.shape and torch.equal(other, first) for other in others):
            return False
    return True
