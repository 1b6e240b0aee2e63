"""Does a picture show what its prompt says? Objects, counts, colours and places, read in it.

As GenEval does for photographs with a detector, here for pictures of scenes with the reader, which
knows no model. Prompts are captions of the scenes' grammar. Each of the four kinds is the share of
what prompts name of that kind, over all of them; `prompt` is the share of prompts of which
everything is found.
Source of the kinds: GenEval, arXiv 2310.11513.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...kit.reader.claims import INDEX, MOST, Claims
from ...kit.reader.reader import Reader
from ...kit.scenes.captions import read_things
from .scores import Tally, Values, ratio

KINDS = ("object", "count", "color", "position")


@dataclass(frozen=True)
class Wanted:
    """What a prompt names. objects: nouns; counts: how many of a noun, where the prompt says more
    than one; colors: (noun, colour word); places: (noun, noun that should lie lower in the
    picture), of what stands on a ground or under a sky."""

    objects: frozenset[str]
    counts: dict[str, int]
    colors: frozenset[tuple[str, str]]
    places: frozenset[tuple[str, str]]


def read_wanted(prompt: str) -> Wanted:
    """What a prompt of the grammar asks for."""
    things = read_things(prompt)
    counts: dict[str, int] = {}
    for thing in things:
        counts[thing.noun] = counts.get(thing.noun, 0) + thing.number
    objects = [thing.noun for thing in things if not thing.place]
    places = {(noun, t.noun) for noun in objects for t in things if t.place == "on"}
    places |= {(t.noun, noun) for noun in objects for t in things if t.place == "under"}
    return Wanted(
        frozenset(counts),
        {noun: min(MOST, number) for noun, number in counts.items() if number > 1},
        frozenset((thing.noun, thing.color) for thing in things if thing.color),
        frozenset(pair for pair in places if pair[0] != pair[1]),
    )


def count_right(wanted: Wanted, claims: Claims, nouns: Tensor) -> list[int]:
    """How much of each of `KINDS` is found and wanted, in turn, and whether it is everything.

    nouns: (G, G) the noun of each cell.
    """
    middles = {n: _find_middle(nouns, n) for pair in wanted.places for n in pair}
    found = [
        len(wanted.objects & set(claims.classes)),
        sum(claims.classes.get(noun) == number for noun, number in wanted.counts.items()),
        len(wanted.colors & claims.colors),
        sum(_is_above(middles[above], middles[below]) for above, below in wanted.places),
    ]
    asked = [len(wanted.objects), len(wanted.counts), len(wanted.colors), len(wanted.places)]
    pairs = [number for pair in zip(found, asked, strict=True) for number in pair]
    return [*pairs, int(found == asked), 1]


def _find_middle(nouns: Tensor, noun: str) -> float | None:
    """Mean row of a noun's cells; None where no cell shows it."""
    rows = (nouns == INDEX[noun]).nonzero()[:, 0]
    return float(rows.double().mean()) if len(rows) else None


def _is_above(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one < other


class GenevalTally(Tally):
    """The shares of `KINDS`, their mean as `overall`, and `prompt`."""

    headline = (*KINDS, "overall", "prompt")

    def __init__(self, reader: Reader):
        super().__init__()
        self.reader = reader

    def add_pictures(self, pictures: Tensor, prompts: Sequence[str]) -> None:
        """Pictures (B, 3, H, W) in [0, 1] and what each was made from."""
        pictures = pictures.detach().float().cpu()
        claims, cells = self.reader.read(pictures), self.reader.read_cells(pictures)
        rows = [
            count_right(read_wanted(prompt), own, nouns)
            for prompt, own, nouns in zip(prompts, claims, cells.nouns, strict=True)
        ]
        self._rows.append(np.array(rows, dtype=np.float64))

    def _summarise(self, total: np.ndarray) -> Values:
        shares = {
            kind: ratio(total[..., 2 * i], total[..., 2 * i + 1]) for i, kind in enumerate(KINDS)
        }
        overall = np.stack(list(shares.values())).mean(axis=0)
        return {**shares, "overall": overall, "prompt": ratio(total[..., -2], total[..., -1])}
