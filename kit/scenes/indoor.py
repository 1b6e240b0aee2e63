"""Rooms: walls, furniture along them, small things on it, and people between.

The camera is at x = z = 0 and looks along +z. Distances in metres: about 1.5 to 8.
"""

from __future__ import annotations

import math

from .environment import Environment, Placing, Scene, choose_heading, find_people_distance
from .objects import (
    CHECKER,
    CLASS,
    FURNITURE,
    PLAIN,
    STRIPES,
    Draw,
    Material,
    Place,
    Point,
    SceneBuilder,
    add_animal,
    add_box,
    add_furniture,
    add_lamp,
    add_plant_pot,
    add_prop,
    shade,
)
from .person import add_person


def compose_room(draw: Draw) -> Scene:
    b, env = SceneBuilder(), Environment(indoor=(1.0,))
    tan_half = draw.uniform(0.52, 0.72)
    width, depth, high = draw.uniform(3.6, 6.0), draw.uniform(4.2, 6.4), draw.uniform(2.4, 3.0)
    yaw = draw.uniform(-0.55, 0.55)
    side, back = draw.uniform(-0.25, 0.25) * width, depth / 2 - 0.3
    turned = Place(0.0, 0.0, yaw).point(side, 0.0, -back)
    room = Place(-turned[0], -turned[2], yaw)
    _room(draw, env, b, room, (width, depth, high))
    height, pitch = draw.uniform(1.2, 1.9), draw.uniform(-0.25, -0.06)
    place = Placing(tan_half)
    if draw.chance(0.5):
        distances = [
            find_people_distance(draw, tan_half) for _ in range(2 if draw.chance(0.12) else 1)
        ]
        height = draw.uniform(1.0, 1.6)
        pitch = math.atan((0.85 - height) / distances[0]) + draw.uniform(-0.05, 0.06)
        for z in distances:
            x = draw.uniform(-0.6, 0.6) * tan_half * z
            if _inside(room, (width, depth), x, z, 0.35) and place.free(x, z, 0.4):
                place.take(x, z, 0.4)
                add_person(b, draw, Place(x, z, choose_heading(draw)), draw.uniform(1.55, 1.85))
    env.camera = (height, pitch, tan_half)
    _furnish(draw, b, place, room, (width, depth))
    _small_things(draw, b, place, room, (width, depth))
    if draw.chance(0.3):
        _on_wall(draw, b, room, width, depth)
    return Scene(env, b)


def _room(draw: Draw, env: Environment, b: SceneBuilder, room: Place, size: Point) -> None:
    width, depth, high = size
    walls = draw.pick(("white", "yellow", "green", "blue", "pink", "grey", "orange", "white"))
    floor = draw.pick(("brown", "brown", "grey", "white", "red", "blue"))
    klass = CLASS["wall"]
    b.begin("room", None, klass, "hidden")
    b.begin("walls", walls, klass, "walls")
    b.begin("floor", floor, klass, "floor")
    b.begin("room", None, klass, "hidden")
    env.wall, env.base = draw.color(walls), draw.color(floor)
    env.wall_second = shade(env.wall, -0.05)
    env.wall_look = (draw.pick((PLAIN, PLAIN, PLAIN, STRIPES)), draw.uniform(0.5, 0.8))
    env.base_second = shade(env.base, -0.06)
    env.base_look = (draw.pick((PLAIN, PLAIN, CHECKER, STRIPES)), draw.uniform(0.5, 0.9), klass)
    env.room = (room.x, room.z, width / 2, depth / 2, high, math.cos(room.yaw), math.sin(room.yaw))
    x, z = draw.uniform(-0.3, 0.3) * width, draw.uniform(-0.4, 0.1) * depth
    env.light = room.point(x, high - 0.25, z)
    power = draw.uniform(1.0, 1.3)
    env.direct = (1.0 * power, 0.95 * power, draw.uniform(0.78, 0.95) * power)
    level = draw.uniform(0.28, 0.42)
    env.ambient = (level, level, level * 1.02)


def _inside(room: Place, size: tuple[float, float], x: float, z: float, margin: float) -> bool:
    """Whether a disc on the floor keeps within the walls."""
    c, s = math.cos(room.yaw), math.sin(room.yaw)
    dx, dz = x - room.x, z - room.z
    lx, lz = c * dx - s * dz, s * dx + c * dz
    return abs(lx) < size[0] / 2 - margin and abs(lz) < size[1] / 2 - margin


def _furnish(draw: Draw, b: SceneBuilder, place: Placing, room: Place, size) -> None:
    """One to four pieces: at the back wall, at the sides, or free in the room."""
    width, depth = size
    wanted = 1 + int(draw.uniform(0.3, 3.7))
    for _ in range(10):
        if wanted == 0:
            return
        noun = draw.pick(FURNITURE)
        reach = {"table": 0.5, "chair": 0.35, "sofa": 0.5, "bed": 1.05, "shelf": 0.25}[noun]
        radius = {"table": 0.8, "chair": 0.4, "sofa": 0.95, "bed": 1.15, "shelf": 0.65}[noun]
        where = draw.uniform(0.0, 1.0)
        if where < 0.5:
            local, turn = (draw.uniform(-0.5, 0.5) * (width - 2 * radius), depth / 2 - reach), 0.0
        elif where < 0.8 or noun in ("shelf", "bed"):
            way = draw.pick((-1, 1))
            local = (way * (width / 2 - reach), draw.uniform(-0.1, 0.4) * (depth - 2 * radius))
            turn = way * math.pi / 2
        else:
            local = (draw.uniform(-0.3, 0.3) * width, draw.uniform(-0.05, 0.25) * depth)
            turn = draw.uniform(-0.6, 0.6)
        x, _, z = room.point(local[0], 0.0, local[1])
        seen = z > 1.7 + radius and abs(x) < 0.85 * place.tan_half * z
        if seen and place.free(x, z, radius * 0.85):
            place.take(x, z, radius * 0.85)
            add_furniture(b, draw, Place(x, z, room.yaw + turn), noun)
            wanted -= 1


def _small_things(draw: Draw, b: SceneBuilder, place: Placing, room: Place, size) -> None:
    for noun, probability in (("plant", 0.4), ("prop", 0.3), ("dog", 0.3), ("lamp", 0.2)):
        if not draw.chance(probability):
            continue
        radius = 0.55 if noun == "dog" else 0.35
        spot = place.spot(draw, 2.2, 4.8, radius, 0.75)
        if spot is None or not _inside(room, size, *spot, radius):
            continue
        frame = Place(*spot, draw.uniform(-math.pi, math.pi))
        if noun == "plant":
            add_plant_pot(b, draw, frame, draw.uniform(0.8, 1.5))
        elif noun == "prop":
            add_prop(b, draw, frame, draw.pick(("ball", "box")))
        elif noun == "lamp":
            add_lamp(b, draw, frame)
        else:
            add_animal(b, draw, frame, "dog")


def _on_wall(draw: Draw, b: SceneBuilder, room: Place, width: float, depth: float) -> None:
    """A picture or a bright window on the back wall."""
    wide, tall = draw.uniform(0.8, 1.4), draw.uniform(0.7, 1.0)
    x = draw.uniform(-0.3, 0.3) * width
    if draw.chance(0.5):
        word = draw.pick(("red", "blue", "green", "purple", "orange"))
        b.begin("picture", word, CLASS["unlabeled"])
        m = Material(0, draw.color(word))
    else:
        b.begin("window", None, CLASS["unlabeled"])
        m = Material(0, (draw.uniform(0.68, 0.78), 0.86, 0.95), emissive=True)
    add_box(b, room, (x, 1.65, depth / 2), (wide, tall, 0.08), m)
