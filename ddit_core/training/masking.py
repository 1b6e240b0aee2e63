"""Which places of a text are masked in training, and what each counts in the loss.

The loss of an absorbing diffusion is, up to a constant, that of predicting texts in any order: a
number of masked places, that many of them by chance, and the mean of their losses. It has neither
the published weight 1 / t, which grows without bound, nor its division by all places of the
sequence. Large numbers are drawn more often than small ones, since a text that is mostly hidden has
to be read off the picture, and a pass over it teaches more.
Source: Sahoo et al. 2024, arXiv 2406.07524; Hoogeboom et al. 2022, arXiv 2110.02037, equation 3.

End tokens behind a text are masked in the same share, and count `END_WEIGHT` each: they are easy,
and many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

END_WEIGHT = 0.05


@dataclass(frozen=True)
class MaskedText:
    """A training text: ids with masked places, the masked places, their true ids and weights."""

    ids: list[int]
    places: list[int]
    targets: list[int]
    weights: list[float]


def mask_text(
    prompt: Sequence[int],
    words: Sequence[int],
    length: int,
    rng: np.random.Generator,
    *,
    end: int,
    mask: int,
) -> MaskedText:
    """The text `prompt` + `words` + end tokens, of which parts behind the prompt are masked.

    The weights of masked words sum to 1.
    """
    full = [*prompt, *words, *(end,) * (length - len(prompt) - len(words))]
    first, stop = len(prompt), len(prompt) + len(words)
    count = math.ceil(len(words) * (1 - rng.random()) ** 0.5)
    chosen = first + rng.permutation(len(words))[:count]
    ends = stop + np.flatnonzero(rng.random(length - stop) < count / len(words))
    ids = list(full)
    for place in (*chosen, *ends):
        ids[place] = mask
    places = [int(p) for p in (*chosen, *ends)]
    weights = [1 / count] * count + [END_WEIGHT] * len(ends)
    return MaskedText(ids, places, [full[p] for p in places], weights)
