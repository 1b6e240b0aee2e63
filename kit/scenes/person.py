"""A jointed figure and its 18 COCO keypoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .objects import CLASS, Color, Draw, Material, Place, Point, SceneBuilder

SKIN: tuple[Color, ...] = ((0.90, 0.72, 0.60), (0.78, 0.57, 0.43), (0.55, 0.37, 0.26))
HAIR: tuple[Color, ...] = ((0.12, 0.09, 0.07), (0.36, 0.22, 0.11), (0.80, 0.64, 0.33))

# Shares of the body height.
HIP, SHOULDER, HEAD = 0.50, 0.80, 0.925
HIP_HALF, SHOULDER_HALF = 0.062, 0.118
UPPER_LEG, LOWER_LEG, UPPER_ARM, LOWER_ARM = 0.235, 0.225, 0.165, 0.15


@dataclass(frozen=True)
class Limb:
    """Angles in radians: forward swing, sideways lift (arms only), bend of the joint below."""

    swing: float
    lift: float
    bend: float


def add_person(b: SceneBuilder, draw: Draw, f: Place, height: float = 1.7) -> None:
    """Add a figure standing at the frame's origin, its lowest foot on the ground.

    Adds its keypoints (world metres, OPENPOSE_KEYPOINTS order) and head centre to `b.people`.
    """
    word = draw.pick(
        ("red", "blue", "yellow", "green", "white", "purple", "orange", "black", "pink")
    )
    group = b.begin("person", word, CLASS["person"])
    legs, arms = _pose(draw)
    joints = _joints(legs, arms)
    lift = 0.03 - min(joints["right_ankle"][1], joints["left_ankle"][1])

    def at(point: Point) -> Point:
        return f.point(point[0] * height, (point[1] + lift) * height, point[2] * height)

    world = {name: at(p) for name, p in joints.items()}
    _flesh(b, draw, f, height, word, world, at)
    b.people.append((group, [world[name] for name in _ORDER], world["head"]))


# OPENPOSE_KEYPOINTS order
_ORDER = (
    *("nose", "neck"),
    *("right_shoulder", "right_elbow", "right_wrist"),
    *("left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle"),
    *("left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)


def _pose(draw: Draw) -> tuple[tuple[Limb, Limb], tuple[Limb, Limb]]:
    """Right and left legs, right and left arms: standing, walking, arms out or up."""
    stride = draw.uniform(0.0, 0.55) if draw.chance(0.6) else draw.uniform(0.0, 0.1)
    way = 1 if draw.chance(0.5) else -1
    legs = tuple(
        Limb(side * way * stride, draw.uniform(0.02, 0.16), draw.uniform(0.0, 0.25 + 0.5 * stride))
        for side in (1, -1)
    )
    arms = []
    for side in (1, -1):
        if draw.chance(0.4):
            lift = draw.uniform(0.7, 2.7)
            arms.append(Limb(draw.uniform(-0.2, 0.4), lift, draw.uniform(0.0, 0.9)))
        else:
            swing = -side * way * stride * 1.1 + draw.uniform(-0.1, 0.2)
            arms.append(Limb(swing, draw.uniform(0.12, 0.4), draw.uniform(0.05, 1.2)))
    return (legs[0], legs[1]), (arms[0], arms[1])


def _joints(legs: tuple[Limb, Limb], arms: tuple[Limb, Limb]) -> dict[str, Point]:
    """Joint positions in body heights; x to the person's left, -z to the front, hips at y = HIP."""
    joints: dict[str, Point] = {"neck": (0.0, SHOULDER + 0.02, 0.0), "head": (0.0, HEAD, 0.0)}
    for name, side, leg, arm in (("right", -1, legs[0], arms[0]), ("left", 1, legs[1], arms[1])):
        hip = (side * HIP_HALF, HIP, 0.0)
        knee = _step(hip, UPPER_LEG, leg.swing, side * leg.lift)
        joints[f"{name}_hip"], joints[f"{name}_knee"] = hip, knee
        joints[f"{name}_ankle"] = _step(knee, LOWER_LEG, leg.swing - leg.bend, side * leg.lift)
        shoulder = (side * SHOULDER_HALF, SHOULDER, 0.0)
        elbow = _step(shoulder, UPPER_ARM, arm.swing, side * arm.lift)
        raised = arm.lift + (0.5 * arm.bend if arm.lift > 0.6 else -0.2 * arm.bend)
        joints[f"{name}_shoulder"], joints[f"{name}_elbow"] = shoulder, elbow
        joints[f"{name}_wrist"] = _step(elbow, LOWER_ARM, arm.swing + arm.bend, side * raised)
        joints[f"{name}_eye"] = (side * 0.024, HEAD + 0.012, -0.052)
        joints[f"{name}_ear"] = (side * 0.056, HEAD, 0.004)
    joints["nose"] = (0.0, HEAD - 0.01, -0.064)
    return joints


def _step(start: Point, length: float, swing: float, lift: float) -> Point:
    """End of a limb that hangs down at zero angles; swing turns it forward, lift to the side."""
    down = length * math.cos(swing) * math.cos(lift)
    side = length * math.sin(lift) * math.cos(swing)
    return start[0] + side, start[1] - down, start[2] - length * math.sin(swing)


def _flesh(b, draw: Draw, f: Place, height: float, word: str, world: dict[str, Point], at) -> None:
    klass = CLASS["person"]
    shirt = Material(klass, draw.color(word))
    skin = Material(klass, draw.pick(SKIN))
    hair = Material(klass, draw.pick(HAIR))
    trousers = Material(klass, draw.color(draw.pick(("blue", "black", "grey", "brown"))))
    shoe = Material(klass, (0.14, 0.11, 0.1))
    sleeve = shirt if draw.chance(0.5) else skin

    def mid(p: Point, q: Point, share: float = 0.5) -> Point:
        x, y, z = (a + (b - a) * share for a, b in zip(p, q, strict=True))
        return x, y, z

    for side in ("right", "left"):
        hip, knee, ankle = (world[f"{side}_{n}"] for n in ("hip", "knee", "ankle"))
        shoulder, elbow, wrist = (world[f"{side}_{n}"] for n in ("shoulder", "elbow", "wrist"))
        b.capsule(hip, knee, 0.052 * height, trousers)
        b.capsule(knee, ankle, 0.042 * height, trousers)
        b.capsule(shoulder, elbow, 0.036 * height, shirt)
        b.capsule(elbow, wrist, 0.031 * height, sleeve)
        toe = (ankle[0] + 0.03 * height * -math.sin(f.yaw), ankle[1], ankle[2])
        toe = (toe[0], toe[1] - 0.012 * height, toe[2] - 0.03 * height * math.cos(f.yaw))
        b.solid("ellipsoid", toe, (0.034 * height, 0.026 * height, 0.062 * height), shoe, f.yaw)
    pelvis = mid(world["right_hip"], world["left_hip"])
    b.capsule(
        mid(pelvis, world["neck"], 0.1), mid(pelvis, world["neck"], 0.82), 0.085 * height, shirt
    )
    b.capsule(world["right_shoulder"], world["left_shoulder"], 0.045 * height, shirt)
    b.capsule(world["neck"], mid(world["neck"], world["head"], 0.6), 0.03 * height, skin)
    ball = (0.056 * height, 0.07 * height, 0.062 * height)
    b.solid("ellipsoid", world["head"], ball, skin, f.yaw)
    hx, hy, hz = world["head"]
    back = 0.018 * height
    top = (hx + back * math.sin(f.yaw), hy + 0.022 * height, hz + back * math.cos(f.yaw))
    b.solid("ellipsoid", top, (0.06 * height, 0.06 * height, 0.06 * height), hair, f.yaw)
