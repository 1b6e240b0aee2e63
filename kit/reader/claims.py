"""Claims: what a picture shows in the words of captions, what is true of a scene, how many fit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..scenes.captions import NOUNS
from ..scenes.things import NAMED_SHARE, Thing

LEFT_MARGIN = 0.1
"""One thing is left of another when their middles are so far apart, as a share of the width."""

MOST = 4
"""Counts end here: four or more."""

VISIBLE_SHARE = 0.0025
"""What covers less of a picture than this is not there at all; `NAMED_SHARE` must be claimed."""

KINDS = ("classes", "counts", "colors", "left_of")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Claims:
    """What is said of one picture.

    classes: how many of each noun, 1 to `MOST`; what is not counted (grass, sky) has 1.
    colors: (noun, colour word). left_of: (noun, noun to the right of it), of nouns that can be
    counted. *_probability: of everything that could be claimed; 1 or 0 where the truth is known.
    count_probability: of each number from 1 to `MOST`, given that the noun is there.
    """

    classes: dict[str, int]
    colors: set[Pair]
    left_of: set[Pair]
    class_probability: dict[str, float] = field(default_factory=dict)
    count_probability: dict[str, tuple[float, ...]] = field(default_factory=dict)
    color_probability: dict[Pair, float] = field(default_factory=dict)
    left_of_probability: dict[Pair, float] = field(default_factory=dict)

    def of_kind(self, kind: str) -> set:
        """The claims of one of `KINDS` as a set: nouns, (noun, count), or pairs."""
        if kind == "counts":
            return set(self.classes.items())
        return set(getattr(self, kind))


def find_true_claims(things: Iterable[Thing], share: float = NAMED_SHARE) -> Claims:
    """What may be claimed of a scene: all that covers at least `share` of the picture."""
    seen = [thing for thing in things if thing.share >= share]
    classes: dict[str, int] = {}
    for thing in seen:
        counted = thing.role == "object"
        classes[thing.noun] = min(MOST, classes.get(thing.noun, 0) + 1) if counted else 1
    if any(thing.role in ("walls", "floor", "hidden") for thing in seen):
        classes["room"] = 1
    colors = {(thing.noun, thing.color) for thing in seen if thing.color}
    return Claims(classes, colors, _left_of(seen))


def _left_of(seen: Sequence[Thing]) -> set[Pair]:
    """Pairs of counted nouns whose pixels, of all things of that noun, lie apart."""
    middles: dict[str, float] = {}
    objects = [thing for thing in seen if thing.role == "object"]
    for noun in {thing.noun for thing in objects}:
        own = [thing for thing in objects if thing.noun == noun]
        middles[noun] = sum(t.x * t.share for t in own) / sum(t.share for t in own)
    return {
        (one, other)
        for one, x in middles.items()
        for other, y in middles.items()
        if y - x > LEFT_MARGIN
    }


@dataclass(frozen=True)
class Score:
    """precision: share of the claims that are right; recall: share of the truth that is claimed."""

    precision: float
    recall: float


def score_claims(claimed: Sequence[Claims], scenes: Sequence[Sequence[Thing]]) -> dict[str, Score]:
    """How right claims are, by kind, over all scenes together; NaN where nothing was claimed.

    A class or colour that is there but small (from `VISIBLE_SHARE` on) is neither missed nor wrong.
    """
    scores = {}
    for kind in KINDS:
        made = right = wanted = found = 0
        for claims, things in zip(claimed, scenes, strict=True):
            mine, must = claims.of_kind(kind), find_true_claims(things).of_kind(kind)
            may = must | find_true_claims(things, VISIBLE_SHARE).of_kind(kind)
            made, right = made + len(mine), right + len(mine & may)
            wanted, found = wanted + len(must), found + len(mine & must)
        scores[kind] = Score(_ratio(right, made), _ratio(found, wanted))
    return scores


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


INDEX = {noun: index for index, noun in enumerate(NOUNS)}
"""Number of each noun in the network's outputs."""
