"""What a caption claims, piece by piece, and what is true of the scene it describes.

A claim is a tuple: ("object", noun), ("color", noun, colour), ("count", noun, colour or None,
number), ("place", preposition, noun), for example ("place", "beside", "lake").
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from ...kit.reader.claims import VISIBLE_SHARE
from ...kit.scenes.captions import read_things
from ...kit.scenes.things import NAMED_SHARE, Thing

Claim = tuple
_ROLES = {"ground": "on", "beside": "beside", "sky": "under"}
MOST = 4
"""Counts end here: captions say four for four and more."""


def read_claims(caption: str) -> set[Claim]:
    """Every claim of a caption of the grammar; words outside of it say nothing."""
    claims: set[Claim] = set()
    for thing in read_things(caption):
        claims |= _claims_of(thing.noun, thing.color, thing.number, thing.place)
    return claims


def _claims_of(noun: str, color: str | None, number: int, place: str | None) -> set[Claim]:
    claims: set[Claim] = {("object", noun)}
    if color:
        claims.add(("color", noun, color))
    if number > 1:
        claims.add(("count", noun, color, number))
    if place:
        claims.add(("place", place, noun))
    return claims


def find_true_claims(things: Sequence[Thing]) -> set[Claim]:
    """All that may rightly be claimed of a scene.

    Small things, between `VISIBLE_SHARE` and `NAMED_SHARE`, may be counted or not.
    """
    claims: set[Claim] = set()
    for share in (VISIBLE_SHARE, NAMED_SHARE):
        seen = [thing for thing in things if thing.share >= share]
        for thing in seen:
            claims.add(("object", thing.noun))
            if thing.color:
                claims.add(("color", thing.noun, thing.color))
            if thing.role in _ROLES:
                claims.add(("place", _ROLES[thing.role], thing.noun))
            if thing.role in ("walls", "floor", "hidden"):
                claims |= {("object", "room"), ("place", "in", "room")}
        objects = [thing for thing in seen if thing.role == "object"]
        by_color = Counter((thing.noun, thing.color) for thing in objects)
        of_noun = Counter((thing.noun, None) for thing in objects)
        for (noun, color), count in [*by_color.items(), *of_noun.items()]:
            if count > 1:
                claims.add(("count", noun, color, min(count, MOST)))
    return claims


def score_captions(
    captions: Iterable[str], references: Iterable[str], scenes: Iterable[Sequence[Thing]]
) -> tuple[float, float]:
    """Precision against the scenes and recall against the reference captions, over all claims.

    NaN where nothing was claimed.
    """
    made = right = wanted = found = 0
    for caption, reference, things in zip(captions, references, scenes, strict=True):
        claims, due = read_claims(caption), read_claims(reference)
        made, right = made + len(claims), right + len(claims & find_true_claims(things))
        wanted, found = wanted + len(due), found + len(claims & due)
    return (right / made if made else float("nan"), found / wanted if wanted else float("nan"))
