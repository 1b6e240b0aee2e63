"""Captions of scenes: a closed grammar, written from what is visible and readable back as facts.

    caption  = things [place] ;  things = phrase {"and" phrase}
    phrase   = ("a" | "an" | number) [colour] noun  |  "a person in" colour
    outdoors = ["on" ground] ["beside" ground ["and" ground]] ["under a" colour "sky"]
    indoors  = "in a room" ["with" colour "walls" ["and a" colour "floor"]]

Lower case, single spaces, at most `MAX_WORDS` words, all of them in `VOCABULARY`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import TextError
from ..pictures.palettes import SEGMENTATION_CLASSES

Color = tuple[float, float, float]

COLOR_WORDS: dict[str, Color] = {
    "red": (0.78, 0.15, 0.13),
    "orange": (0.90, 0.50, 0.14),
    "yellow": (0.90, 0.80, 0.26),
    "green": (0.25, 0.58, 0.22),
    "blue": (0.22, 0.42, 0.82),
    "purple": (0.50, 0.25, 0.62),
    "pink": (0.91, 0.58, 0.68),
    "brown": (0.47, 0.31, 0.18),
    "white": (0.91, 0.91, 0.89),
    "grey": (0.56, 0.56, 0.57),
    "black": (0.13, 0.13, 0.14),
}
"""Representative sRGB of each colour word; scenes use it within COLOR_JITTER per channel."""

COLOR_JITTER = 0.06
COLOR_TOLERANCE = 0.12
"""A pixel shows a colour word when no channel of its albedo is farther than this from it."""

MAX_WORDS = 24
_NUMBERS = {2: "two", 3: "three", 4: "four"}

# noun -> (plural, palette class)
_NOUNS: dict[str, tuple[str, str]] = {
    "person": ("people", "person"),
    "tree": ("trees", "plant"),
    "bush": ("bushes", "plant"),
    "plant": ("plants", "plant"),
    "grass": ("", "plant"),
    "house": ("houses", "building"),
    "tower": ("towers", "building"),
    "building": ("buildings", "building"),
    "car": ("cars", "vehicle"),
    "truck": ("trucks", "vehicle"),
    "bus": ("buses", "vehicle"),
    "dog": ("dogs", "animal"),
    "horse": ("horses", "animal"),
    "sheep": ("sheep", "animal"),
    "mountain": ("mountains", "mountain"),
    "lake": ("", "water"),
    "water": ("", "water"),
    "road": ("", "road"),
    "sand": ("", "road"),
    "earth": ("", "road"),
    "sky": ("", "sky"),
    "table": ("tables", "furniture"),
    "sofa": ("sofas", "furniture"),
    "bed": ("beds", "furniture"),
    "shelf": ("shelves", "furniture"),
    "chair": ("chairs", "furniture"),
    "ball": ("balls", "unlabeled"),
    "box": ("boxes", "unlabeled"),
    "lamp": ("lamps", "unlabeled"),
    "picture": ("pictures", "unlabeled"),
    "window": ("windows", "unlabeled"),
    "room": ("", "wall"),
    "walls": ("", "wall"),
    "floor": ("", "wall"),
}
NOUNS: tuple[str, ...] = tuple(_NOUNS)
_UNCOUNTED = ("grass", "sand", "earth", "water")
_SINGULAR = {plural: noun for noun, (plural, _) in _NOUNS.items() if plural}
_CLASS_OF = {noun: SEGMENTATION_CLASSES.index(name) for noun, (_, name) in _NOUNS.items()}
_PLACES = ("on", "beside", "under", "in", "with")
_GLUE = ("a", "an", "and", "on", "in", "under", "beside", "with", *_NUMBERS.values())

VOCABULARY: tuple[str, ...] = tuple(
    dict.fromkeys((*_GLUE, *COLOR_WORDS, *_NOUNS, *(p for p, _ in _NOUNS.values() if p)))
)

Fact = tuple[str | None, str, int]
Seen = tuple[str, str | None, str]


def write_caption(seen: Sequence[Seen], *, indoor: bool, max_things: int = 3) -> str:
    """The caption of a scene.

    `seen`: (noun, colour or None, role) of everything visible enough, the most visible first; role
    is "object", "ground" (stood on), "beside" (more ground), "sky", "walls", "floor" or "hidden".
    """
    objects = [(noun, color) for noun, color, role in seen if role == "object"]
    objects.sort(key=lambda thing: thing[0] != "person")
    counted = list(Counter(objects).items())
    words: list[str] = []
    for keep in range(min(max_things, len(counted)), -1, -1):
        things = [_phrase(noun, color, min(n, 4)) for (noun, color), n in counted[:keep]]
        words = (_indoor if indoor else _outdoor)(things, seen)
        if len(words) <= MAX_WORDS:
            break
    return " ".join(words)


def read_caption(caption: str) -> list[Fact]:
    """The things that a caption names: (colour or None, singular noun, palette class), in order.

    Words outside of the grammar say nothing.
    Raises: TextError when the caption is not a string.
    """
    if not isinstance(caption, str):
        raise TextError(f"expected a caption as a string, got {type(caption).__name__}")
    return [(thing.color, thing.noun, _CLASS_OF[thing.noun]) for thing in read_things(caption)]


@dataclass(frozen=True)
class CaptionThing:
    """One phrase of a caption. noun: singular. place: the preposition that leads to it ("on",
    "beside", "under", "in"), or None for what the caption is about."""

    noun: str
    color: str | None
    number: int
    place: str | None


def read_things(caption: str) -> list[CaptionThing]:
    """The phrases of a caption, in order; words outside of the grammar say nothing."""
    numbers = {word: number for number, word in _NUMBERS.items()}
    things: list[CaptionThing] = []
    color, number, place = None, 1, None
    words = caption.split()
    for index, word in enumerate(words):
        noun = _SINGULAR.get(word, word)
        worn = index >= 2 and words[index - 1] == "in" and things and things[-1].noun == "person"
        if word in COLOR_WORDS and worn:
            things[-1] = replace(things[-1], color=word)
            place = None  # "in red" is no place
        elif word in COLOR_WORDS:
            color = word
        elif word in numbers:
            number = numbers[word]
        elif word in _PLACES:
            place = None if word == "with" else word
        elif noun in _NOUNS:
            things.append(CaptionThing(noun, color, number, place))
            color, number = None, 1
    return things


def find_noun_class(noun: str) -> int:
    """Palette class of a noun of the grammar."""
    return _CLASS_OF[noun]


def find_plural(noun: str) -> str:
    """How several of a noun are called; empty for a noun that is not counted."""
    return _NOUNS[noun][0]


def is_counted(noun: str) -> bool:
    """Whether a caption can say how many of a noun there are."""
    return bool(_NOUNS[noun][0])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _phrase(noun: str, color: str | None, count: int) -> list[str]:
    name = _NOUNS[noun][0] if count > 1 else noun
    if noun == "person":
        worn = ["in", color] if color else []
        return [_NUMBERS[count] if count > 1 else "a", name, *worn]
    described = [color, name] if color else [name]
    if noun in _UNCOUNTED:
        return described
    return [_NUMBERS[count] if count > 1 else _article(described[0]), *described]


def _join(phrases: list[list[str]]) -> list[str]:
    words: list[str] = []
    for phrase in phrases:
        words += ["and", *phrase] if words else phrase
    return words


def _outdoor(things: list[list[str]], seen: Sequence[Seen]) -> list[str]:
    ground = [_phrase(noun, None, 1) for noun, _, role in seen if role == "ground"][:1]
    beside = [_phrase(noun, None, 1) for noun, _, role in seen if role == "beside"][:2]
    sky = [(noun, color) for noun, color, role in seen if role == "sky"]
    words = _join(things)
    if ground:
        words += ["on", *ground[0]] if words else ground[0]
    if beside:
        words += ["beside", *_join(beside)] if words else _join(beside)
    for noun, color in sky[:1]:
        words += ["under" if words else "with", *_phrase(noun, color, 1)]
    return words


def _indoor(things: list[list[str]], seen: Sequence[Seen]) -> list[str]:
    words = [*_join(things), *(["in"] if things else []), "a", "room"]
    colors = {role: color for _, color, role in seen if role in ("walls", "floor") and color}
    if "walls" in colors:
        words += ["with", colors["walls"], "walls"]
    if "floor" in colors:
        words += ["and" if "walls" in colors else "with"]
        words += [_article(colors["floor"]), colors["floor"], "floor"]
    return words
