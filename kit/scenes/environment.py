"""What every scene has: camera, light, backdrop, and places that are taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .objects import (
    Color,
    Draw,
    Point,
    SceneBuilder,
)


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


def find_people_distance(draw: Draw, tan_half: float) -> float:
    """Distance at which a figure spans 40 to 80 per cent of the picture's short side."""
    return 1.7 / (2.0 * tan_half * draw.uniform(0.42, 0.8))


def choose_heading(draw: Draw) -> float:
    """Mostly towards the camera, sometimes any way."""
    return draw.uniform(-1.0, 1.0) if draw.chance(0.7) else draw.uniform(-math.pi, math.pi)
