"""Compositions: what stands where in a scene, its camera and its light, from the seed alone.

The camera is at x = z = 0 and looks along +z, pitched about x; everything else is placed around it.
Distances in metres: outdoors about 2 to 60, indoors about 1.5 to 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .objects import (
    ANIMALS,
    CHECKER,
    CLASS,
    FURNITURE,
    NOISE,
    PLAIN,
    STRIPES,
    Color,
    Draw,
    Material,
    Place,
    Point,
    SceneBuilder,
    add_animal,
    add_box,
    add_building,
    add_bush,
    add_furniture,
    add_lamp,
    add_mountain,
    add_plant_pot,
    add_prop,
    add_tree,
    add_vehicle,
    shade,
)
from .person import add_person


@dataclass
class Environment:
    """Camera, light and backdrop of one scene; every field is a row of numbers, so scenes stack."""

    indoor: tuple[float] = (0.0,)
    camera: Point = (1.6, 0.0, 0.5)  # height, pitch (radians, up), tan of half view
    light: tuple[float, ...] = (0.0, 1.0, 0.0)  # unit vector to the sun, or the lamp's place
    direct: Color = (0.85, 0.8, 0.72)
    ambient: Color = (0.32, 0.35, 0.4)
    zenith: Color = (0.3, 0.5, 0.85)
    horizon: Color = (0.75, 0.85, 0.95)
    glow: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # colour added around the sun, and its width
    clouds: tuple[float, float] = (0.0, 0.0)  # amount, phase
    base: Color = (0.4, 0.6, 0.25)  # ground outdoors, floor indoors
    base_second: Color = (0.4, 0.6, 0.25)
    base_look: tuple[float, float, float] = (0.0, 1.0, 0.0)  # texture, scale, class
    road: tuple[float, ...] = (0.0, 0.0, 1.0, 0.0, -1.0)  # point x z, normal x z, half width
    road_color: Color = (0.4, 0.4, 0.42)
    lake: tuple[float, ...] = (0.0, 0.0, 1e-3, 1e-3)  # centre x z, radii
    lake_color: Color = (0.3, 0.5, 0.7)
    room: tuple[float, ...] = (0.0, 0.0, 1e4, 1e4, 1e4, 1.0, 0.0)  # centre, half sizes, height, yaw
    wall: Color = (0.9, 0.9, 0.9)
    wall_second: Color = (0.9, 0.9, 0.9)
    wall_look: tuple[float, float] = (0.0, 1.0)  # texture, scale
    ceiling: Color = (0.93, 0.93, 0.92)


@dataclass
class Scene:
    """One composed scene, ready to be stacked with others."""

    environment: Environment
    builder: SceneBuilder


@dataclass
class Placing:
    """Where things stand already; keeps new ones apart on the ground and on the picture."""

    tan_half: float
    lake: tuple[float, ...] = Environment.lake
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def free(self, x: float, z: float, radius: float) -> bool:
        cx, cz, rx, rz = self.lake
        if math.hypot((x - cx) / (rx + radius), (z - cz) / (rz + radius)) < 1.0:
            return False
        for ox, oz, other in self.taken:
            if math.hypot(x - ox, z - oz) < radius + other + 0.1:
                return False
            if abs(x / z - ox / oz) < 0.6 * (radius / z + other / oz):
                return False
        return True

    def take(self, x: float, z: float, radius: float) -> None:
        self.taken.append((x, z, radius))

    def spot(self, draw: Draw, near: float, far: float, radius: float, spread: float = 0.8):
        """A free (x, z) that is seen by the camera, or None after a few tries."""
        for _ in range(10):
            z = draw.uniform(near, far)
            x = draw.uniform(-spread, spread) * self.tan_half * z
            if self.free(x, z, radius):
                self.take(x, z, radius)
                return x, z
        return None


def compose(seed: int) -> Scene:
    """The scene of a seed: outdoors three times in five, else a room."""
    draw = Draw(seed)
    return _outdoor(draw) if draw.chance(0.6) else _indoor(draw)


def _people_distance(draw: Draw, tan_half: float) -> float:
    """Distance at which a figure spans 40 to 80 per cent of the picture's short side."""
    return 1.7 / (2.0 * tan_half * draw.uniform(0.42, 0.8))


def _outdoor(draw: Draw) -> Scene:
    b, env = SceneBuilder(), Environment()
    tan_half = draw.uniform(0.42, 0.6)
    height = draw.uniform(1.1, 2.6)
    pitch = draw.uniform(-0.2, 0.0)
    count = (2 if draw.chance(0.15) else 1) if draw.chance(0.5) else 0
    distances = [_people_distance(draw, tan_half) for _ in range(count)]
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
            add_person(b, draw, Place(x, z, _heading(draw)), draw.uniform(1.55, 1.85))
    _outdoor_things(draw, b, place, crowded=bool(distances))
    _background(draw, b, tan_half, env.lake)
    return Scene(env, b)


def _heading(draw: Draw) -> float:
    """Mostly towards the camera, sometimes any way."""
    return draw.uniform(-1.0, 1.0) if draw.chance(0.7) else draw.uniform(-math.pi, math.pi)


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


def _indoor(draw: Draw) -> Scene:
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
        distances = [_people_distance(draw, tan_half) for _ in range(2 if draw.chance(0.12) else 1)]
        height = draw.uniform(1.0, 1.6)
        pitch = math.atan((0.85 - height) / distances[0]) + draw.uniform(-0.05, 0.06)
        for z in distances:
            x = draw.uniform(-0.6, 0.6) * tan_half * z
            if _inside(room, (width, depth), x, z, 0.35) and place.free(x, z, 0.4):
                place.take(x, z, 0.4)
                add_person(b, draw, Place(x, z, _heading(draw)), draw.uniform(1.55, 1.85))
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
