"""What a sampling run carries besides tensors: contexts prepared once, and how many domains count.

Each CONDITIONING entry carries an object through its run that keeps contexts. A context is found
again by the values of all its inputs, because the host and other nodes cut rows and areas out of an
entry's tensors (context windows do), exchange them or join them, and keep the entry.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import comfy.conds
import torch
from torch import Tensor

from ...jodi_core.model.context import PreparedContext
from ...jodi_core.model.text_cache import TextCache
from ...kit.errors import ShapeError

log = logging.getLogger("jodi")

CONTEXTS_KEPT = 4  # guidance in two calls needs 2; regional prompts a few more


@dataclass
class Prepared:
    """A context, and whether one evaluation serves both halves of the guidance."""

    context: PreparedContext
    both: bool


Inputs = Sequence[Tensor | None]


@dataclass(eq=False)
class RunEntry:
    """One CONDITIONING entry in one run. Compared by identity.

    Made by `extra_conds` anew for each run, so that weights patched between runs never meet an old
    context. While hooks or training change weights inside a run, nothing is kept.
    """

    host: object
    known: list[tuple[tuple, Inputs, Prepared]] = field(default_factory=list)
    told: bool = False  # that a node exchanges attention layers in this run


@dataclass(frozen=True)
class SamplingRun:
    """The entries that a batch is made of, in order."""

    entries: tuple[RunEntry, ...]


def prepare_once(
    run: SamplingRun, kind: tuple, inputs: Inputs, make: Callable[[TextCache | None], Prepared]
) -> Prepared:
    """The context for these inputs: made by `make` earlier in this run for equal inputs, or now.

    kind: everything else that the context depends on. make: called with a cache of prepared texts
    that outlives the run, or with None where the weights change under way.
    """
    owner = run.entries[0]
    patcher = owner.host.current_patcher
    if patcher is not None and patcher.current_hooks is not None:
        return make(None)
    if torch.is_grad_enabled():  # in training weights change, and results are computed again
        return make(None)
    for index, (known, values, value) in enumerate(owner.known):
        if known == kind and all_equal(*zip(values, inputs, strict=True)):
            owner.known.append(owner.known.pop(index))
            return value
    value = make(_text_cache(owner.host))
    owner.known = [*owner.known[1 - CONTEXTS_KEPT :], (kind, tuple(inputs), value)]
    return value


def note_exchanged_layers(run: SamplingRun, transformer_options: dict) -> None:
    """Log one line in a run where a node exchanges attention layers, which Jodi does not have.

    Perturbed Attention Guidance and Skip Layer Guidance put them into the options while they
    sample, so that nothing on the MODEL tells of them before.
    """
    owner = run.entries[0]
    if owner.told or not any(transformer_options.get("patches_replace", {}).values()):
        return
    owner.told = True
    log.warning(
        "a node on the MODEL exchanges attention layers while sampling (Perturbed Attention "
        "Guidance and Skip Layer Guidance do so); Jodi has no such layers, so it changes nothing "
        "and takes time. Take it away from the MODEL"
    )


class RunCond(comfy.conds.CONDRegular):
    """Carries a `RunEntry` through the host's batches; its size is (1, active domains)."""

    def __init__(self, cond: RunEntry, active: int):
        super().__init__(cond)
        self.active = active

    def _copy_with(self, cond):
        return self.__class__(cond, self.active)

    def process_cond(self, batch_size, **_):
        return self

    def can_concat(self, other) -> bool:
        return isinstance(other, RunCond)

    def concat(self, others) -> SamplingRun:
        return SamplingRun(tuple(cond.cond for cond in (self, *others)))

    def size(self) -> list[int]:
        return [1, self.active]


class RowsCond(comfy.conds.CONDRegular):
    """A tensor with one row for each row of the batch, or one for all."""

    def process_cond(self, batch_size, **_):
        if len(self.cond) not in (1, batch_size):
            raise ShapeError(
                f"a node between cut {len(self.cond)} rows out of the CONDITIONING for "
                f"{batch_size} rows of the LATENT; let context windows run over the batch (dim 0)"
            )
        return super().process_cond(batch_size)


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


def all_equal(*pairs: tuple[Tensor | None, Tensor | None]) -> bool:
    """Whether the tensors of each pair agree in shape, type, place and every value.

    Two missing tensors agree. A GPU is waited for once, not for each pair.
    """
    flags = []
    for one, other in pairs:
        if one is None or other is None:
            if one is not other:
                return False
        elif (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            return False
        elif one is not other:
            flags.append((one == other).all())
    return not flags or bool(torch.stack(flags).all())


def halves_equal(*tensors: Tensor | None) -> bool:
    """Whether the first and the second half of the rows of every tensor are the same."""
    given = [tensor for tensor in tensors if tensor is not None]
    if any(len(tensor) % 2 for tensor in given):
        return False
    return all_equal(*(tensor.chunk(2) for tensor in given))
