"""How often the network runs for one text: by the published sampler, and by this one.

The count follows from the length, the steps, and how soon the text ends. So a stand-in that knows
the text replaces the network, and the real sampler counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..text.draft import Blank, Draft
from ..text.sampler import TextOptions, draw_uniforms, sample_text
from ..text.schedule import count_published_evaluations, draw_reveal_steps
from ..text.vocabulary import Vocabulary

_VOCABULARY = Vocabulary(6, sentinels=1)  # of any size: no count depends on it
_WORD = 3


@dataclass(frozen=True)
class Counts:
    """Mean evaluations for each text: published, the same but stopping at the end, and ours."""

    published: float
    stopping: float
    ours: float


def count_evaluations(
    length: int, given: int, text: int, steps: int, *, seeds: Sequence[int] = range(200)
) -> Counts:
    """Counts for a text of `text` tokens, its end token among them, behind `given` locked ones.

    length: of the whole sequence; a text that fills it has no end token. steps: of the sampler.
    """
    masks = length - given
    words = min(text - 1, masks) if text <= masks else masks
    end, mask = _VOCABULARY.end, _VOCABULARY.mask
    sequence = torch.tensor([_WORD] * (given + words) + [end] * (masks - words))
    draft = Draft((_WORD,) * given + (mask,) * masks, (Blank(given, length, False),))

    def predict(ids: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        chances = torch.full((*positions.shape, _VOCABULARY.size), -1e3)
        return chances.scatter(-1, sequence[positions][..., None], 0.0)

    sample = sample_text(
        predict, [draft] * len(seeds), _VOCABULARY, TextOptions(steps=steps), seed=list(seeds)
    )
    published, stopping = [], []
    for seed in seeds:
        plan = draw_reveal_steps(draw_uniforms(seed, length)[0], steps)[given:]
        published.append(count_published_evaluations(plan, steps))
        # The text is final once its words and the first end token, if any, are there.
        last = int(plan[: words + 1].max())
        stopping.append(count_published_evaluations(plan, steps, last=last))
    return Counts(*(sum(n) / len(seeds) for n in (published, stopping, sample.evaluations)))


# length, locked tokens, tokens of the text, steps
CASES = (
    ("Caption of the base model that fills the length", 256, 0, 256, 128),
    ("Caption of the base model, 60 tokens", 256, 0, 60, 128),
    ("Caption on demand, 15 tokens", 128, 13, 15, 64),
    ("Answer, 4 tokens", 128, 21, 4, 32),
    ("Answer, 3 tokens", 128, 21, 3, 32),
    ("Answer, 2 tokens (one and the end)", 128, 21, 2, 32),
    ("The same in 16 steps", 128, 21, 2, 16),
    ("The same in 8 steps", 128, 21, 2, 8),
)


def table() -> list[str]:
    """The table of docs/ddit.md, line by line."""
    lines = [
        "| text | L | locked | K | published | stops at the end | everything exact |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, length, given, text, steps in CASES:
        c = count_evaluations(length, given, text, steps)
        counts = f"{c.published:.1f} | {c.stopping:.1f} | {c.ours:.1f}"
        lines.append(f"| {name} | {length} | {given} | {steps} | {counts} |")
    return lines
