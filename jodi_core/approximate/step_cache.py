"""APPROXIMATE, off by default: reuse of what the later blocks added at an earlier step.

Between two steps that see nearly the same sample, what the blocks after the first add changes
little. Where the first block's output has moved less than a threshold since the blocks were last
computed, their old contribution is added again and they are not run. Results differ from the exact
ones; docs/approximate.md says by how much.
Source of the idea: "first block cache" as known from other diffusion transformers; arXiv
2411.19108 (TeaCache) measures the same kind of change.

Shapes: R rows, V texts (2 with guidance), A active domains, G generated ones, T tokens, C width.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...kit.errors import JodiError
from ..model.attention import TextKeys, TwoKeys
from ..model.context import PreparedContext

Texts = list[tuple[TextKeys | TwoKeys, ...]]
Later = Callable[[Tensor, Tensor, Texts], Tensor]


class StepCache:
    """The step cache of one job at a time, and how much it saved in the last one.

    threshold: relative change of the first block's output (RMS over a domain's tokens, the largest
    of all domains and both guidance halves) below which a row's later blocks are not computed
    anew. 0 never saves anything and is exact.
    evaluations, saved: rows of the network evaluated in the last job, and those among them that
    were answered without their later blocks. A row counts once, with or without guidance.
    """

    def __init__(self, threshold: float):
        if not (math.isfinite(threshold) and threshold >= 0):
            raise JodiError(
                f"the threshold of the approximate step cache must be a number of at least 0, got "
                f"{threshold}; 0.05 to 0.3 are sensible"
            )
        self.threshold = float(threshold)
        self.evaluations = self.saved = 0

    def begin(self, context: PreparedContext, steps: int) -> None:
        """Start a job of so many evaluations: forget everything, watch this job's groups."""
        self.evaluations = self.saved = 0
        for group in context.groups:
            group.step_cache = GroupCache(self, steps)


class GroupCache:
    """What is remembered for the rows of one role pattern in one job.

    Each row decides for itself, so that it is the same in a batch of any size; its guidance halves
    decide together but keep their own tensors. The first and the last step are always computed.
    One decision a step needs the changes on the host: that is one synchronisation.
    """

    def __init__(self, owner: StepCache, steps: int):
        self.owner, self.steps, self.step = owner, steps, 0
        self.first: Tensor | None = None  # (V, R, A, T, C): first block's, when last computed
        self.added: Tensor | None = None  # (V, R, G, T, C): what the later blocks made of it

    def answer(self, tokens: Tensor, t_modulation: Tensor, texts: Texts, later: Later) -> Tensor:
        """The last block's output for the first block's, computed or approximated row by row.

        Shapes: tokens (V * R, A, T, C); t_modulation (V * R or 1, 6, C) -> (V * R, G, T, C).
        """
        count = len(texts[0])
        first = tokens.unflatten(0, (count, -1)).clone()  # blocks may write over their input
        self.step += 1
        rows = first.shape[1]
        self.owner.evaluations += rows
        if self.first is None or self.added is None or self.step >= self.steps:
            anew = list(range(rows))
        else:
            change = relative_change(first, self.first).amax(dim=(0, 2))
            # A NaN is below no threshold, so a broken sample is computed and stays visible.
            anew = [i for i, c in enumerate(change.tolist()) if not c < self.owner.threshold]
        self.owner.saved += rows - len(anew)
        if len(anew) == rows:
            out = later(tokens, t_modulation, texts)
            self.first = first
            self.added = _added(out.unflatten(0, (count, -1)), first)
            return out
        assert self.first is not None and self.added is not None  # or all rows were computed
        out = first[:, :, : self.added.shape[2]] + self.added
        if anew:
            part = later(
                first[:, anew].flatten(0, 1),
                t_modulation
                if len(t_modulation) == 1
                else t_modulation.unflatten(0, (count, -1))[:, anew].flatten(0, 1),
                [tuple(_rows(text, anew) for text in block) for block in texts],
            ).unflatten(0, (count, -1))
            out[:, anew] = part
            self.first[:, anew] = first[:, anew]
            self.added[:, anew] = _added(part, first[:, anew])
        return out.flatten(0, 1)


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """RMS of the change over RMS of what was, over tokens and channels: (..., T, C) -> (...)."""
    wide = torch.promote_types(now.dtype, torch.float32)
    change = torch.linalg.vector_norm(now.to(wide) - before.to(wide), dim=(-2, -1))
    return change / torch.linalg.vector_norm(before, dim=(-2, -1), dtype=wide)


def _added(out: Tensor, first: Tensor) -> Tensor:
    return out - first[:, :, : out.shape[2]]


def _rows(text: TextKeys | TwoKeys, rows: list[int]) -> TextKeys | TwoKeys:
    """The text of some rows; one text for all rows stays that."""
    parts = {f.name: getattr(text, f.name) for f in dataclasses.fields(text)}
    chosen = {k: p if p is None or len(p) == 1 else p[rows] for k, p in parts.items()}
    return dataclasses.replace(text, **chosen)
