"""Compositions: what stands where in a scene, its camera and its light, from the seed alone.

The camera is at x = z = 0 and looks along +z, pitched about x; everything else is placed around it.
Distances in metres: outdoors about 2 to 60, indoors about 1.5 to 8.
"""

from __future__ import annotations

import math

from .environment import Environment, Placing, Scene, choose_heading, find_people_distance
from .indoor import compose_room
from .objects import (
    ANIMALS,
    CHECKER,
    CLASS,
    NOISE,
    PLAIN,
    Draw,
    Place,
    SceneBuilder,
    add_animal,
    add_building,
    add_bush,
    add_mountain,
    add_prop,
    add_tree,
    add_vehicle,
    shade,
)
from .person import add_person


def compose(seed: int) -> Scene:
    """The scene of a seed: outdoors three times in five, else a room."""
    draw = Draw(seed)
    return _outdoor(draw) if draw.chance(0.6) else compose_room(draw)


def _outdoor(draw: Draw) -> Scene:
    b, env = SceneBuilder(), Environment()
    tan_half = draw.uniform(0.42, 0.6)
    height = draw.uniform(1.1, 2.6)
    pitch = draw.uniform(-0.2, 0.0)
    count = (2 if draw.chance(0.15) else 1) if draw.chance(0.5) else 0
    distances = [find_people_distance(draw, tan_half) for _ in range(count)]
    if distances:
        height = draw.uniform(0.9, 1.7)
        pitch = math.atan((0.85 - height) / distances[0]) + draw.uniform(-0.05, 0.06)
    env.camera = (height, pitch, tan_half)
    _sky(draw, env, b)
    _ground(draw, env, b)
    place = Placing(tan_half, env.lake)
    for z in distances:
        x = draw.uniform(-0.6, 0.6) * tan_half * z
        if place.free(x, z, 0.45):
            place.take(x, z, 0.45)
            add_person(b, draw, Place(x, z, choose_heading(draw)), draw.uniform(1.55, 1.85))
    _outdoor_things(draw, b, place, crowded=bool(distances))
    _background(draw, b, tan_half, env.lake)
    return Scene(env, b)


def _outdoor_things(draw: Draw, b: SceneBuilder, place: Placing, crowded: bool) -> None:
    """Trees, vehicles, animals, bushes and props between the camera and the background."""
    makers = []
    if draw.chance(0.42):
        makers.append(("vehicle", 7.0, 13.0, 2.1))
    if draw.chance(0.5):
        noun = draw.pick(tuple(ANIMALS))
        near, far = (2.6, 4.6) if noun == "dog" else (4.0, 7.5)
        makers += [(noun, near, far, ANIMALS[noun][1] * 0.6)] * (2 if draw.chance(0.25) else 1)
    for _ in range(int(draw.uniform(0, 3.6))):
        makers.append(("tree", 6.0, 15.0, 1.2))
    if draw.chance(0.25):
        makers.append(("bush", 4.0, 9.0, 0.9))
    if draw.chance(0.2):
        makers.append(("prop", 2.4, 4.5, 0.35))
    for noun, near, far, radius in makers[: 5 - crowded]:
        spot = place.spot(draw, near, far, radius)
        if spot is None:
            continue
        frame = Place(*spot, draw.uniform(-math.pi, math.pi))
        if noun == "vehicle":
            add_vehicle(b, draw, frame)
        elif noun == "tree":
            add_tree(b, draw, frame, draw.uniform(2.8, 5.5))
        elif noun == "bush":
            add_bush(b, draw, frame)
        elif noun == "prop":
            add_prop(b, draw, frame, draw.pick(("ball", "box")))
        else:
            add_animal(b, draw, frame, noun)


def _background(draw: Draw, b: SceneBuilder, tan_half: float, lake) -> None:
    """Buildings at 16 to 32 m and mountains at 42 to 55 m, spread over the picture's width."""
    if draw.chance(0.5):
        far = Placing(tan_half, lake)
        for _ in range(1 + int(draw.uniform(0, 2.6))):
            size = (draw.uniform(4.5, 9.0), draw.uniform(4.0, 13.0), draw.uniform(4.0, 7.0))
            spot = far.spot(draw, 17.0, 32.0, size[0] * 0.75, 0.95)
            if spot:
                add_building(b, draw, Place(*spot, draw.uniform(-0.7, 0.7)), size)
    if draw.chance(0.5):
        word = draw.pick(("grey", "brown", "green", "purple", "white"))
        for _ in range(1 + int(draw.uniform(0, 2.6))):
            z = draw.uniform(42.0, 55.0)
            x = draw.uniform(-1.0, 1.0) * tan_half * z
            rise = draw.uniform(7.0, 19.0)
            add_mountain(b, draw, Place(x, z, 0.0), rise * draw.uniform(1.1, 1.9), rise, word)


def _sky(draw: Draw, env: Environment, b: SceneBuilder) -> None:
    word = draw.pick(("blue", "blue", "blue", "grey", "orange"))
    b.begin("sky", word, CLASS["sky"], "sky")
    env.zenith = draw.color(word)
    elevation, azimuth = draw.uniform(0.5, 1.15), draw.uniform(-math.pi, math.pi)
    env.horizon = {
        "blue": (0.72, 0.83, 0.94),
        "grey": (0.74, 0.75, 0.77),
        "orange": (0.96, 0.76, 0.5),
    }[word]
    strength = {"blue": 1.0, "grey": 0.55, "orange": 0.9}[word] * draw.uniform(0.9, 1.1)
    env.ambient = {
        "blue": (0.27, 0.31, 0.37),
        "grey": (0.42, 0.43, 0.45),
        "orange": (0.34, 0.28, 0.27),
    }[word]
    env.direct = (0.84 * strength, 0.79 * strength, 0.70 * strength)
    if word == "orange":
        elevation = draw.uniform(0.35, 0.6)
        env.direct = (0.88 * strength, 0.66 * strength, 0.45 * strength)
        env.glow = (0.1, 0.12, 0.1, draw.uniform(0.25, 0.5))
    elif draw.chance(0.4):
        env.clouds = (draw.uniform(0.4, 0.9), draw.uniform(0.0, 20.0))
    if draw.chance(0.6):
        # The sun behind the camera lights the sides that are seen.
        azimuth = math.pi + draw.uniform(-1.2, 1.2)
    flat = math.cos(elevation)
    env.light = (flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth))


def _ground(draw: Draw, env: Environment, b: SceneBuilder) -> None:
    """Grass, sand, earth, a paved place, or water up to a shore; perhaps a road strip or a lake."""
    kind = draw.pick(("grass", "grass", "grass", "grass", "sand", "earth", "road"))
    color, klass = {
        "grass": ((0.36, 0.60, 0.22), "plant"),
        "sand": ((0.84, 0.74, 0.54), "road"),
        "earth": ((0.56, 0.42, 0.29), "road"),
        "road": ((0.45, 0.45, 0.47), "road"),
    }[kind]
    env.base = shade(color, *(draw.uniform(-0.05, 0.05) for _ in range(3)))
    env.base_second = shade(env.base, draw.pick((-0.05, 0.05)))
    texture = draw.pick((PLAIN, PLAIN, NOISE, CHECKER if kind == "road" else NOISE))
    env.base_look = (texture, draw.uniform(0.8, 1.6), CLASS[klass])
    b.begin(kind, None, CLASS[klass], "ground")
    b.begin("road", None, CLASS["road"], "beside")
    if kind == "grass" and draw.chance(0.4):
        angle = draw.uniform(-0.7, 0.7) + (math.pi / 2 if draw.chance(0.35) else 0.0)
        place = (draw.uniform(-2.0, 2.0), draw.uniform(6.0, 11.0))
        env.road = (*place, math.cos(angle), math.sin(angle), draw.uniform(0.9, 1.7))
        env.road_color = shade(draw.pick(((0.42, 0.42, 0.44), (0.62, 0.5, 0.36))),
                               draw.uniform(-0.05, 0.05))  # fmt: skip
    # Water shows the sky as much as its own colour.
    # A red evening sky only dulls it, or it would pass for earth.
    evening = env.zenith[0] > env.zenith[2] + 0.1
    tint = draw.uniform(0.3, 0.5) * (0.35 if evening else 1.0)
    own = (0.13, 0.36, 0.52)
    red, green, blue = (o * (1 - tint) + s * tint for o, s in zip(own, env.zenith, strict=True))
    env.lake_color = (red, green, blue)
    style = draw.uniform(0.0, 1.0)
    if style < 0.2:
        shore = draw.uniform(5.5, 10.0)
        env.lake = (0.0, shore + 2000.0, 2000.0, 2000.0)
    elif style < 0.42:
        z = draw.uniform(7.0, 12.0)
        env.lake = (draw.uniform(-3.0, 3.0), z, draw.uniform(3.0, 7.0), draw.uniform(2.2, 4.5))
    b.begin("water" if style < 0.2 else "lake", None, CLASS["water"], "beside")
