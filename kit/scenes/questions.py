"""Questions about scenes with exact answers, of five kinds, in a closed set of words.

    color    what color is the sofa          red
    count    how many trees are there        two
    exist    is there a dog                  no
    left     is the dog left of the person   yes
    beside   what is beside the dog          person ;  what is on the wall   picture

Asked are things that are large enough, and that their noun names without doubt. Answers are
balanced where questions are drawn, so that no answer given blindly does well.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .captions import COLOR_WORDS, VOCABULARY, find_plural
from .things import Thing

KINDS = ("color", "count", "exist", "left", "beside")

ASKED_SHARE = 0.02
"""A thing that a question names covers at least this share of the picture."""

COUNTED_SHARE = 0.01
"""So does each thing that is counted; a noun with a smaller one in sight is not asked for."""

TRACE = 0.002
"""What covers less is as good as not there, and neither asked for nor in the way of a question."""

APART = 0.15
"""Distance, in picture sides, by which places must differ where a question is about places."""

_EITHER = ("person", "dog", "ball", "box")
_OUTDOORS = ("tree", "bush", "house", "tower", "building", "car", "truck", "bus", "horse", "sheep",
             "mountain", "lake")  # fmt: skip
_INDOORS = ("plant", "table", "sofa", "bed", "shelf", "chair", "lamp", "picture", "window")
_COUNTED = ("person", "tree", "house", "tower", "building", "dog", "horse", "sheep", "mountain",
            "table", "sofa", "bed", "shelf", "chair", "car")  # fmt: skip
_NUMBERS = ("zero", "one", "two", "three")

_QUESTION_WORDS = "what color is the are how many there left of wall yes no"

_QUESTION_WORDS = "what color is the are how many there left of wall yes no"
WORDS: tuple[str, ...] = tuple(dict.fromkeys((*VOCABULARY, *_NUMBERS, *_QUESTION_WORDS.split())))
"""Every word of captions, questions and answers."""


@dataclass(frozen=True)
class SceneQuestion:
    """One question about a picture. balance: the class to which answers are balanced."""

    kind: str
    text: str
    answer: str
    balance: str


def ask_about(things: Sequence[Thing]) -> list[SceneQuestion]:
    """Every question that has one certain answer in a picture of these things, in a fixed order."""
    sight = _Sight(things)
    makers = (_colors, _counts, _presence, _sides, _neighbours)
    return [question for make in makers for question in make(sight)]


def draw_questions(
    scenes: Iterable[Sequence[Thing]], per_kind: int
) -> list[tuple[int, SceneQuestion]]:
    """Questions with the index of their scene: `per_kind` of each kind, answers balanced.

    Scenes are drawn, in order, until the kinds are full; each gives at most one question of a kind,
    the one whose answer was given least so far. An answer takes at most half of a kind, and where
    there are more than two of them at most a fair share and half of that again.
    """
    drawn: list[tuple[int, SceneQuestion]] = []
    given = {kind: Counter[str]() for kind in KINDS}
    for index, scene in enumerate(scenes):
        open_kinds = [kind for kind in KINDS if given[kind].total() < per_kind]
        if not open_kinds:
            break
        asked = ask_about(scene)
        for kind in open_kinds:
            counts, answers = given[kind], Counter(q.answer for _, q in drawn if q.kind == kind)
            limit = math.ceil(min(1.5 / _ANSWERS[kind], 0.5) * per_kind)
            choices = [q for q in asked if q.kind == kind and answers[q.answer] < limit]
            if choices:
                # Among equals by a rule that favours no noun: by the scene's number.
                best = min(counts[q.balance] for q in choices)
                least = [q for q in choices if counts[q.balance] == best]
                question = least[index % len(least)]
                counts[question.balance] += 1
                drawn.append((index, question))
    return drawn


# How many answers a kind has.
_ANSWERS = {
    "color": len(COLOR_WORDS),
    "count": len(_NUMBERS),
    "exist": 2,
    "left": 2,
    "beside": len(_EITHER + _OUTDOORS + _INDOORS) - 1,  # no one asks for a lake
}


class _Sight:
    """Things by noun, and which of them a question may name."""

    def __init__(self, seen: Sequence[Thing]):
        self.indoor = any(thing.role in ("walls", "floor", "hidden") for thing in seen)
        self.by_noun: dict[str, list[Thing]] = {}
        for thing in seen:
            if thing.role != "hidden" and thing.share >= TRACE:
                self.by_noun.setdefault(thing.noun, []).append(thing)
        self.traces = {thing.noun for thing in seen}

    def named(self) -> Iterator[Thing]:
        """Things that are the only one of their noun, and large enough."""
        for things in self.by_noun.values():
            if len(things) == 1 and things[0].share >= ASKED_SHARE:
                yield things[0]

    def named_objects(self) -> list[Thing]:
        return [thing for thing in self.named() if thing.role == "object"]

    def plausible(self, nouns: Sequence[str]) -> Iterator[str]:
        """Those nouns that such a scene could show."""
        here = (*_EITHER, *(_INDOORS if self.indoor else _OUTDOORS))
        return (noun for noun in nouns if noun in here)


def _colors(sight: _Sight) -> Iterator[SceneQuestion]:
    for thing in sight.named():
        if thing.color:
            verb = "are" if thing.noun == "walls" else "is"
            text = f"what color {verb} the {thing.noun}"
            yield SceneQuestion("color", text, thing.color, thing.color)


def _counts(sight: _Sight) -> Iterator[SceneQuestion]:
    for noun in sight.plausible(_COUNTED):
        things = sight.by_noun.get(noun, [])
        if not things and noun in sight.traces:
            continue
        clear = all(thing.share >= COUNTED_SHARE for thing in things) and all(
            _distance(a, b) >= APART for i, a in enumerate(things) for b in things[:i]
        )
        if clear and len(things) < len(_NUMBERS):
            number = _NUMBERS[len(things)]
            text = f"how many {find_plural(noun)} are there"
            yield SceneQuestion("count", text, number, number)


def _presence(sight: _Sight) -> Iterator[SceneQuestion]:
    for noun in sight.plausible((*_EITHER, *_OUTDOORS, *_INDOORS)):
        things = sight.by_noun.get(noun, [])
        there = any(thing.share >= ASKED_SHARE for thing in things)
        if there or noun not in sight.traces:
            answer = "yes" if there else "no"
            yield SceneQuestion("exist", f"is there a {noun}", answer, f"{noun} {answer}")


def _sides(sight: _Sight) -> Iterator[SceneQuestion]:
    named = sight.named_objects()
    for a in named:
        for b in named:
            if a is not b and abs(a.x - b.x) >= APART:
                answer = "yes" if a.x < b.x else "no"
                yield SceneQuestion("left", f"is the {a.noun} left of the {b.noun}", answer, answer)


def _neighbours(sight: _Sight) -> Iterator[SceneQuestion]:
    """What is nearest to a thing, where nothing else is almost as near; what hangs on the wall."""
    hanging = [t for noun in ("picture", "window") for t in sight.by_noun.get(noun, [])]
    if len(hanging) == 1 and hanging[0].share >= ASKED_SHARE:
        noun = hanging[0].noun
        yield SceneQuestion("beside", "what is on the wall", noun, noun)
    objects = [t for things in sight.by_noun.values() for t in things if t.role == "object"]
    named = sight.named_objects()
    for thing in named:
        others = sorted((_distance(thing, other), i) for i, other in enumerate(objects)
                        if other is not thing)  # fmt: skip
        if not others or (len(others) > 1 and others[1][0] - others[0][0] < APART):
            continue
        nearest = objects[others[0][1]]
        if nearest in named:
            text = f"what is beside the {thing.noun}"
            yield SceneQuestion("beside", text, nearest.noun, nearest.noun)


def _distance(a: Thing, b: Thing) -> float:
    return math.hypot(a.x - b.x, a.y - b.y)
