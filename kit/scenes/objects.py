"""Things built of primitives: people, animals, trees, buildings, vehicles, furniture.

Every builder draws its shape from the scene's own random stream and fills a `SceneBuilder`.
Local frame of a thing: x to its left when seen from behind, y up, -z its front; its yaw turns it
about the vertical. Units are metres. Colours are sRGB in [0, 1].
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..pictures.palettes import SEGMENTATION_CLASSES
from .captions import COLOR_JITTER, COLOR_WORDS, Color
from .primitives import KINDS, capsule_row, local_row

CLASS = {name: index for index, name in enumerate(SEGMENTATION_CLASSES)}
PLAIN, CHECKER, STRIPES, NOISE, WINDOWS, SNOW = range(6)
MATERIAL_COLUMNS = 12

Point = tuple[float, float, float]


class Draw:
    """One scene's random stream: only `random.Random.random`, which Python keeps stable."""

    def __init__(self, seed: int):
        self._random = random.Random(seed).random

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, options: Sequence):
        return options[int(self._random() * len(options))]

    def color(self, word: str, jitter: float = COLOR_JITTER) -> Color:
        """A colour that the word names: within `jitter` of it in every channel."""
        return shade(COLOR_WORDS[word], *(self.uniform(-jitter, jitter) for _ in range(3)))


def shade(color: Color, *offset: float) -> Color:
    """The colour moved by one offset for all channels or one for each, kept in [0.02, 0.97]."""
    offsets = offset * 3 if len(offset) == 1 else offset
    r, g, b = (min(0.97, max(0.02, c + o)) for c, o in zip(color, offsets, strict=True))
    return r, g, b


@dataclass(frozen=True)
class Group:
    """One thing a caption can name. `role` says where the noun stands in the sentence."""

    noun: str
    color: str | None
    klass: int
    role: str = "object"


@dataclass(frozen=True)
class Material:
    """Look of one solid: albedo, a second albedo for its texture, and what it does to light."""

    klass: int
    color: Color
    second: Color = (0.0, 0.0, 0.0)
    texture: int = PLAIN
    scale: float = 1.0
    emissive: bool = False


@dataclass
class SceneBuilder:
    """Collects the solids, groups and skeletons of one scene."""

    groups: list[Group] = field(default_factory=list)
    geometry: dict[str, list] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    materials: dict[str, list] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    people: list[tuple[int, list[Point], Point]] = field(default_factory=list)

    def begin(self, noun: str, color: str | None, klass: int, role: str = "object") -> int:
        self.groups.append(Group(noun, color, klass, role))
        return len(self.groups) - 1

    def _add(self, kind: str, row: tuple[float, ...], m: Material) -> None:
        self.geometry[kind].append(row)
        look = (m.klass, len(self.groups) - 1, *m.color, *m.second, m.texture, m.scale)
        self.materials[kind].append((*look, float(m.emissive), 0.0))

    def solid(self, kind: str, center: Point, half: Point, material: Material, yaw: float = 0.0):
        row = local_row(center, half, math.cos(yaw), math.sin(yaw))
        self._add(kind, row, material)

    def capsule(self, start: Point, end: Point, radius: float, material: Material):
        self._add("capsule", capsule_row(start, end, radius), material)


@dataclass(frozen=True)
class Place:
    """A place on the ground with a heading; turns local points into world points."""

    x: float
    z: float
    yaw: float
    y: float = 0.0

    def point(self, lx: float, ly: float, lz: float) -> Point:
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + c * lx + s * lz, self.y + ly, self.z - s * lx + c * lz


def add_box(b: SceneBuilder, f: Place, center: Point, size: Point, m: Material) -> None:
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    b.solid("box", f.point(*center), half, m, f.yaw)


def add_tree(b: SceneBuilder, draw: Draw, f: Place, height: float) -> None:
    word = draw.pick(("green", "green", "green", "green", "yellow", "orange"))
    plant = CLASS["plant"]
    b.begin("tree", word, plant)
    trunk = Material(plant, draw.color("brown", 0.04))
    color = draw.color(word)
    crown = Material(plant, color, shade(color, -0.1), draw.pick((PLAIN, NOISE)), height * 0.12)
    stem = height * draw.uniform(0.22, 0.38)
    radius = height * 0.045
    b.solid("cylinder", f.point(0, stem / 2, 0), (radius, stem / 2, radius), trunk)
    width = height * draw.uniform(0.2, 0.3)
    if word == "green" and draw.chance(0.4):
        for low, high, r in ((0.8, 0.72, 1.0), (1.45, 1.0, 0.72))[: 1 + draw.chance(0.6)]:
            bottom, top = stem * low, max(height * high, stem * low + 0.3)
            half = (width * r, (top - bottom) / 2, width * r)
            b.solid("cone", f.point(0, (top + bottom) / 2, 0), half, crown)
        return
    tall = (height - stem * 0.85) / 2
    b.solid("ellipsoid", f.point(0, height - tall, 0), (width, tall, width), crown)


def add_bush(b: SceneBuilder, draw: Draw, f: Place) -> None:
    b.begin("bush", "green", CLASS["plant"])
    m = Material(CLASS["plant"], draw.color("green"))
    r = draw.uniform(0.4, 0.8)
    b.solid("ellipsoid", f.point(0, r * 0.6, 0), (r * 1.3, r * 0.8, r), m, f.yaw)


def add_mountain(b: SceneBuilder, draw: Draw, f: Place, radius: float, height: float, word: str):
    color = draw.color(word)
    texture = draw.pick((SNOW, PLAIN, NOISE)) if word != "white" else PLAIN
    second = (0.93, 0.94, 0.96) if texture == SNOW else shade(color, -0.08)
    b.begin("mountain", word, CLASS["mountain"])
    m = Material(CLASS["mountain"], color, second, texture, 3.0)
    half = (radius, height / 2 + 0.5, radius)
    b.solid("cone", f.point(0, height / 2 - 0.5, 0), half, m)


def add_building(b: SceneBuilder, draw: Draw, f: Place, size: Point) -> None:
    """A block with windows, a house with a roof, or a round tower with a pointed one."""
    width, height, depth = size
    word = draw.pick(("white", "grey", "brown", "red", "yellow", "orange", "pink"))
    klass, color = CLASS["building"], draw.color(word)
    roof = Material(klass, draw.color(draw.pick(("red", "brown", "grey", "black"))))
    style = draw.uniform(0, 1)
    if style < 0.2:
        b.begin("tower", word, klass)
        r = min(width, height) * 0.3
        b.solid("cylinder", f.point(0, height / 2, 0), (r, height / 2, r), Material(klass, color))
        b.solid("cone", f.point(0, height + r * 0.7, 0), (r * 1.2, r * 0.7, r * 1.2), roof)
    elif style < 0.55:
        height = min(height, width * 0.9)
        b.begin("house", word, klass)
        wall = Material(klass, color, (0.2, 0.24, 0.32), WINDOWS, width / 3.2)
        add_box(b, f, (0, height / 2, 0), (width, height, depth), wall)
        add_box(b, f, (0, height * 1.06, 0), (width * 1.12, height * 0.16, depth * 1.12), roof)
        upper = (width * 0.8, height * 0.2, depth * 0.8)
        add_box(b, f, (0, height * 1.22, 0), upper, roof)
    else:
        b.begin("building", word, klass)
        glass = shade(draw.color("blue"), -0.05) if draw.chance(0.5) else (0.15, 0.17, 0.22)
        wall = Material(klass, color, glass, WINDOWS, draw.uniform(1.8, 2.8))
        add_box(b, f, (0, height / 2, 0), size, wall)


def add_vehicle(b: SceneBuilder, draw: Draw, f: Place) -> None:
    """A car (body, cabin, four wheels), a truck or a bus; the front is along local -x."""
    noun = draw.pick(("car", "car", "car", "truck", "bus"))
    word = draw.pick(("red", "blue", "yellow", "white", "green", "black", "orange", "grey"))
    klass, color = CLASS["vehicle"], draw.color(word)
    b.begin(noun, word, klass)
    body = Material(klass, color)
    glass = Material(klass, (0.16, 0.2, 0.27))
    tyre = Material(klass, (0.07, 0.07, 0.08))
    if noun == "car":
        length, width, wheel = 3.9, 1.7, 0.36
        add_box(b, f, (0, 0.62, 0), (length, 0.64, width), body)
        add_box(b, f, (draw.uniform(0, 0.4), 1.2, 0), (2.0, 0.54, width * 0.86), glass)
        add_box(b, f, (0.2, 1.5, 0), (1.7, 0.08, width * 0.8), body)
    elif noun == "truck":
        length, width, wheel = 5.4, 2.0, 0.46
        add_box(b, f, (-2.0, 1.15, 0), (1.4, 1.5, width * 0.92), body)
        add_box(b, f, (-2.62, 1.5, 0), (0.3, 0.55, width * 0.8), glass)
        cargo = Material(klass, draw.color(draw.pick(("white", "grey", word))))
        add_box(b, f, (0.75, 1.5, 0), (3.9, 2.0, width), cargo)
    else:
        length, width, wheel = 6.6, 2.1, 0.45
        add_box(b, f, (0, 1.45, 0), (length, 2.2, width), body)
        add_box(b, f, (0, 1.9, 0), (length * 0.92, 0.62, width * 1.03), glass)
    for sx in (-0.32, 0.32):
        for sz in (-0.48, 0.48):
            center = f.point(length * sx, wheel, width * sz)
            b.solid("ellipsoid", center, (wheel, wheel, 0.16), tyre, f.yaw)


ANIMALS = {
    # noun: (shoulder height, body length, body thickness, neck rise, colours)
    "dog": (0.62, 0.95, 0.2, 0.22, ("brown", "white", "black", "orange", "grey")),
    "horse": (1.45, 1.9, 0.36, 0.62, ("brown", "white", "black", "grey")),
    "sheep": (0.85, 1.15, 0.36, 0.1, ("white", "grey", "black", "brown")),
}


def add_animal(b: SceneBuilder, draw: Draw, f: Place, noun: str) -> None:
    """Body, neck, head, four legs and a tail; the head looks along local -x."""
    height, length, thick, rise, words = ANIMALS[noun]
    word = draw.pick(words)
    klass, color = CLASS["animal"], draw.color(word)
    b.begin(noun, word, klass)
    coat = Material(klass, color)
    dark = Material(klass, shade(color, -0.08) if noun != "sheep" else draw.color("black"))
    half = length / 2
    body_y = height - thick * 0.7
    b.solid("ellipsoid", f.point(0, body_y, 0), (half, thick, thick * 0.9), coat, f.yaw)
    chest = f.point(-half * 0.75, body_y + thick * 0.2, 0)
    head = f.point(-half * 1.2, body_y + thick * 0.5 + rise, 0)
    b.capsule(chest, head, thick * 0.42, coat)
    size = height * 0.15 + 0.06
    b.solid("ellipsoid", f.point(-half * 1.2 - size * 0.5, body_y + thick * 0.5 + rise, 0),
            (size * 1.5, size * 0.85, size * 0.8), dark, f.yaw)  # fmt: skip
    leg = max(0.05, thick * 0.22)
    swing = draw.uniform(0.0, 0.22) * length
    for sx, sz, way in ((-0.6, -0.5, 1), (-0.6, 0.5, -1), (0.6, -0.5, -1), (0.6, 0.5, 1)):
        top = f.point(half * sx, body_y, thick * sz)
        foot = f.point(half * sx + way * swing, leg, thick * sz)
        b.capsule(top, foot, leg, dark)
    tail = f.point(half * 1.25, body_y - thick * draw.uniform(-0.8, 0.9), 0)
    b.capsule(f.point(half * 0.9, body_y + thick * 0.25, 0), tail, leg * 0.6, dark)


def add_plant_pot(b: SceneBuilder, draw: Draw, f: Place, height: float) -> None:
    b.begin("plant", "green", CLASS["plant"])
    pot = Material(CLASS["plant"], draw.color(draw.pick(("brown", "orange", "white"))))
    leaf = Material(CLASS["plant"], draw.color("green"))
    r = height * 0.16
    b.solid("cylinder", f.point(0, height * 0.15, 0), (r, height * 0.15, r), pot)
    b.solid("ellipsoid", f.point(0, height * 0.65, 0), (r * 1.9, height * 0.38, r * 1.9), leaf)


def add_prop(b: SceneBuilder, draw: Draw, f: Place, noun: str) -> None:
    """A ball or a box on the ground: things outside of the named classes."""
    word = draw.pick(("red", "blue", "yellow", "green", "purple", "pink", "white", "orange"))
    b.begin(noun, word, CLASS["unlabeled"])
    color = draw.color(word)
    r = draw.uniform(0.2, 0.34)
    if noun == "ball":
        m = Material(0, color, shade(color, -0.12), draw.pick((PLAIN, STRIPES)), r * 0.7)
        b.solid("ellipsoid", f.point(0, r, 0), (r, r, r), m, f.yaw)
    else:
        b.solid("box", f.point(0, r, 0), (r, r, r), Material(0, color), f.yaw)


def add_lamp(b: SceneBuilder, draw: Draw, f: Place) -> None:
    """A standing lamp: pole and a glowing shade, which neither casts shadows nor takes them."""
    word = draw.pick(("yellow", "white"))
    b.begin("lamp", word, CLASS["unlabeled"])
    glow = Material(0, draw.color(word), emissive=True)
    pole = Material(0, draw.color("black"))
    b.solid("cylinder", f.point(0, 0.6, 0), (0.04, 0.6, 0.04), pole)
    b.solid("cone", f.point(0, 1.35, 0), (0.26, 0.2, 0.26), glow)


FURNITURE = ("table", "sofa", "bed", "shelf", "chair", "sofa", "table")


def add_furniture(b: SceneBuilder, draw: Draw, f: Place, noun: str) -> None:
    """Tables, sofas, beds, shelves and chairs; the front is along local -z."""
    words = ("brown", "white", "grey", "red", "blue", "green", "yellow", "purple", "orange")
    word = draw.pick(words if noun in ("sofa", "bed", "chair") else ("brown", "white", "black"))
    klass, color = CLASS["furniture"], draw.color(word)
    b.begin(noun, word, klass)
    m, dark = Material(klass, color), Material(klass, shade(color, -0.1))
    wood = Material(klass, draw.color("brown", 0.04))
    if noun == "table":
        width, depth, top = draw.uniform(1.0, 1.6), draw.uniform(0.7, 0.9), draw.uniform(0.55, 0.8)
        add_box(b, f, (0, top, 0), (width, 0.1, depth), m)
        _legs(b, f, width - 0.14, depth - 0.14, top, dark)
    elif noun == "chair":
        _legs(b, f, 0.42, 0.42, 0.45, wood)
        add_box(b, f, (0, 0.48, 0), (0.54, 0.12, 0.54), m)
        add_box(b, f, (0, 0.84, 0.23), (0.54, 0.62, 0.1), m)
    elif noun == "sofa":
        width = draw.uniform(1.5, 2.1)
        add_box(b, f, (0, 0.22, 0), (width, 0.44, 0.85), m)
        add_box(b, f, (0, 0.6, 0.34), (width, 0.55, 0.22), dark)
        for side in (-1, 1):
            add_box(b, f, (side * (width / 2 - 0.1), 0.38, 0), (0.2, 0.68, 0.87), dark)
    elif noun == "bed":
        width = draw.uniform(1.2, 1.6)
        add_box(b, f, (0, 0.18, 0), (width, 0.36, 1.9), wood)
        add_box(b, f, (0, 0.43, -0.1), (width * 0.97, 0.2, 1.66), m)
        add_box(b, f, (0, 0.5, 0.92), (width, 0.95, 0.1), wood)
        pillow = Material(klass, draw.color("white"))
        add_box(b, f, (0, 0.58, 0.66), (width * 0.7, 0.14, 0.36), pillow)
    else:
        width, height = draw.uniform(0.8, 1.3), draw.uniform(1.2, 1.9)
        add_box(b, f, (0, height / 2, 0.16), (width, height, 0.06), dark)
        for side in (-1, 1):
            add_box(b, f, (side * width / 2, height / 2, 0), (0.08, height, 0.36), m)
        for level in range(4):
            add_box(b, f, (0, 0.04 + (height - 0.08) * level / 3, 0), (width, 0.08, 0.36), m)


def _legs(b: SceneBuilder, f: Place, width: float, depth: float, top: float, m: Material) -> None:
    for sx in (-0.5, 0.5):
        for sz in (-0.5, 0.5):
            b.solid("cylinder", f.point(sx * width, top / 2, sz * depth), (0.05, top / 2, 0.05), m)
