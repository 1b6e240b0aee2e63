"""torch.compile for the network's blocks, for use outside ComfyUI (which compiles by itself)."""

from collections.abc import Hashable

import torch

from .transformer import JodiTransformer


class CompiledBlocks:
    """Compiles every block in place, and keeps the compiled code of a bounded number of job kinds.

    The first step of a new kind of job (number of active domains, grid, guidance) compiles, which
    takes from seconds to minutes; later ones run what is there. Results differ from the eager ones
    by rounding. Parameters keep their names, so weights load and save as before.
    """

    def __init__(self, transformer: JodiTransformer, *, kinds: int = 6, backend: str = "inductor"):
        """kinds: how many kinds of job stay compiled.

        One kind more makes torch forget all that it compiled in this process, other networks
        included, and compile it again.
        """
        self.kinds = kinds
        self.seen: set[Hashable] = set()
        for block in transformer.blocks:
            block.compile(backend=backend)

    def admit(self, kind: Hashable) -> None:
        """Make room for a kind of job. Call before its first step."""
        if kind in self.seen:
            return
        if len(self.seen) >= self.kinds:
            torch.compiler.reset()
            self.seen.clear()
        self.seen.add(kind)
        # The first, the middle and the last block compile apart, and again when the length of the
        # text turns out to vary. At its own limit torch would stop compiling without a warning.
        config = torch._dynamo.config
        name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
        setattr(config, name, max(getattr(config, name), 8 * self.kinds))
