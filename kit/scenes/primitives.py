"""Analytic ray casting against batches of simple solids: the geometry under the procedural scenes.

Legend: B scenes, P solids of one kind, R rays. World axes: x right, y up, z away from the viewer,
in metres. Rays are given by component as (B, 1, R) or (B, 1, 1) tensors, so that a shared origin
(camera rays) or a shared direction (sun rays) costs nothing per ray. Everything is elementwise:
a scene gives the same bits in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOCAL_KINDS = ("ellipsoid", "box", "cylinder", "cone")
KINDS = (*LOCAL_KINDS, "capsule")
GEOMETRY_COLUMNS = 8
INFINITY = 1e9
NEAREST = 1e-3
_TINY = 1e-12

Vector = tuple[Tensor, Tensor, Tensor]


def vector(components: Iterable[Tensor]) -> Vector:
    """The three components as a tuple."""
    x, y, z = components
    return x, y, z


@dataclass
class Solids:
    """Solids of one kind in every scene: rows (B, P, 8), see `local_row` and `capsule_row`, and the
    balls (B, G, 4) that enclose them, centre and radius: rays past all balls are not tried."""

    rows: Tensor
    balls: Tensor


def find_nearest_hit(solids: dict[str, Solids], origin: Vector, direction: Vector):
    """First entry into any solid.

    Shapes: rays by component (B, 1, R) or (B, 1, 1) -> ray parameter (B, R) float32, `INFINITY`
    where nothing is hit, and the solid (B, R) int64, counted over all kinds in `KINDS` order.
    A ray that starts inside a solid does not see it.
    """
    shape = origin[0].shape[0], max(origin[0].shape[2], direction[0].shape[2])
    nearest = origin[0].new_full(shape, INFINITY)
    which = torch.zeros(shape, dtype=torch.int64, device=nearest.device)
    for first, kept, entry in _entries(solids, origin, direction):
        t, index = entry.min(dim=1)
        known = nearest[:, kept]
        closer = t < known
        nearest[:, kept] = torch.where(closer, t, known)
        which[:, kept] = torch.where(closer, index + first, which[:, kept])
    return nearest, which


def find_any_hit(
    solids: dict[str, Solids], casts: Tensor, origin: Vector, direction: Vector, reach: Tensor
) -> Tensor:
    """Whether a solid that casts shadows lies on a ray before `reach`.

    Shapes: casts (B, sum of P) bool, reach (B, 1), rays as in `find_nearest_hit` -> (B, R) bool.
    """
    shape = origin[0].shape[0], max(origin[0].shape[2], direction[0].shape[2])
    blocked = torch.zeros(shape, dtype=torch.bool, device=casts.device)
    for first, kept, entry in _entries(solids, origin, direction):
        casting = casts[:, first : first + entry.shape[1]].unsqueeze(-1)
        blocked[:, kept] |= ((entry < reach.unsqueeze(1)) & casting).any(dim=1)
    return blocked


def _entries(solids: dict[str, Solids], origin: Vector, direction: Vector):
    """For each kind: place of its first solid, the rays tried, and their entries (B, P, rays)."""
    first = 0
    for kind, group in solids.items():
        count = group.rows.shape[1]
        o, d, kept = origin, direction, slice(None)
        if count >= 3 * group.balls.shape[1]:
            kept = _passing(group.balls, origin, direction).any(dim=1).any(dim=0).nonzero()[:, 0]
            o, d = _select(origin, kept), _select(direction, kept)
        tried = count and not (isinstance(kept, Tensor) and kept.numel() == 0)
        if tried and kind == "capsule":
            yield first, kept, _capsule_entry(group.rows, o, d)
        elif tried:
            yield first, kept, _ENTRY[kind](*to_local(group.rows, o, d))
        first += count


def _select(rays: Vector, kept: Tensor) -> Vector:
    return vector(c if c.shape[2] == 1 else c.index_select(2, kept) for c in rays)


def _passing(balls: Tensor, origin: Vector, direction: Vector) -> Tensor:
    """(B, G, R): which rays meet which ball ahead of them."""
    cx, cy, cz, radius = (c.unsqueeze(-1) for c in balls.unbind(-1))
    ox, oy, oz = origin[0] - cx, origin[1] - cy, origin[2] - cz
    dx, dy, dz = direction
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - radius * radius
    return (b * b > a * c) & ((b < 0) | (c < 0))


def enclose_in_ball(kind: str, rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Centre and radius of a ball around some solids of a kind, with a margin for rounding."""
    if kind == "capsule":
        parts = [
            (
                *((row[i] + row[i + 3]) / 2 for i in range(3)),
                math.dist(row[:3], row[3:6]) / 2 + row[6],
            )
            for row in rows
        ]
    else:
        parts = [(*row[:3], math.hypot(*row[3:6])) for row in rows]
    center = tuple(sum(p[i] for p in parts) / len(parts) for i in range(3))
    radius = max(math.dist(center, p[:3]) + p[3] for p in parts)
    return (*center, radius * 1.01 + 0.01)


def local_row(center, half, cos_yaw: float, sin_yaw: float) -> tuple[float, ...]:
    """Row of an ellipsoid, box, cylinder or cone: centre, half extents, rotation about y.

    The cone's apex is at the top of its bounding box, the cylinder's and cone's axes are vertical.
    """
    return (*center, *half, cos_yaw, sin_yaw)


def capsule_row(start, end, radius: float) -> tuple[float, ...]:
    """Row of a capsule: the two ends of its axis and its radius."""
    return (*start, *end, radius, 0.0)


def to_local(geometry: Tensor, origin: Vector, direction: Vector) -> tuple[Vector, Vector]:
    """Rays in the frame where the solid is a unit shape ([-1, 1] in every axis).

    Shapes: geometry (B, P, 8) -> two vectors of (B, P, R) or (B, P, 1) components.
    """
    cx, cy, cz, sx, sy, sz, cos, sin = (c.unsqueeze(-1) for c in geometry.unbind(-1))
    ox, oy, oz = origin[0] - cx, origin[1] - cy, origin[2] - cz
    dx, dy, dz = direction
    o = ((ox * cos - oz * sin) / sx, oy / sy, (ox * sin + oz * cos) / sz)
    cos_x, sin_x, cos_z, sin_z = cos / sx, sin / sx, cos / sz, sin / sz
    d = (dx * cos_x - dz * sin_x, dy / sy, dx * sin_z + dz * cos_z)
    return o, d


def _sphere_entry(o: Vector, d: Vector) -> Tensor:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0
    disc = b * b - a * c
    t = (-b - disc.clamp_min(0.0).sqrt()) / a
    return torch.where((disc > 0) & (t > NEAREST), t, INFINITY)


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / (d + _TINY)
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


def _box_entry(o: Vector, d: Vector) -> Tensor:
    near, far = _slab(o[0], d[0])
    for axis in (1, 2):
        n, f = _slab(o[axis], d[axis])
        near, far = torch.maximum(near, n), torch.minimum(far, f)
    return torch.where((near < far) & (near > NEAREST), near, INFINITY)


def _cylinder_entry(o: Vector, d: Vector) -> Tensor:
    a = d[0] * d[0] + d[2] * d[2] + _TINY
    b = o[0] * d[0] + o[2] * d[2]
    c = o[0] * o[0] + o[2] * o[2] - 1.0
    disc = b * b - a * c
    root = disc.clamp_min(0.0).sqrt()
    bottom, top = _slab(o[1], d[1])
    near = torch.maximum((-b - root) / a, bottom)
    far = torch.minimum((-b + root) / a, top)
    return torch.where((disc > 0) & (near < far) & (near > NEAREST), near, INFINITY)


def _cone_entry(o: Vector, d: Vector) -> Tensor:
    """Apex at y = 1, unit radius at y = -1: inside where x^2 + z^2 < ((1 - y) / 2)^2 in the slab.

    A ray steeper than the side (a < 0) is inside the double cone outside of its two roots; the
    lower half is the stretch before the first root when it rises, after the last one when it falls.
    """
    qo, qd = (1.0 - o[1]) * 0.5, -0.5 * d[1]
    a = d[0] * d[0] + d[2] * d[2] - qd * qd
    a = torch.where(a.abs() < _TINY, _TINY, a)
    b = o[0] * d[0] + o[2] * d[2] - qo * qd
    c = o[0] * o[0] + o[2] * o[2] - qo * qo
    disc = b * b - a * c
    root = disc.clamp_min(0.0).sqrt()
    r0, r1 = (-b - root) / a, (-b + root) / a
    first, last = torch.minimum(r0, r1), torch.maximum(r0, r1)
    steep, rising = a < 0, d[1] > 0
    near = torch.where(steep, torch.where(rising, -INFINITY, last), first)
    far = torch.where(steep, torch.where(rising, first, INFINITY), last)
    bottom, top = _slab(o[1], d[1])
    near, far = torch.maximum(near, bottom), torch.minimum(far, top)
    return torch.where((disc > 0) & (near < far) & (near > NEAREST), near, INFINITY)


_ENTRY = {
    "ellipsoid": _sphere_entry,
    "box": _box_entry,
    "cylinder": _cylinder_entry,
    "cone": _cone_entry,
}


def _capsule_entry(geometry: Tensor, origin: Vector, direction: Vector) -> Tensor:
    """First entry into the swept sphere: the side where the axis coordinate allows, else an end.

    Only the end the ray meets first can be hit before the side, so one sphere test is enough.
    """
    ax, ay, az, bx, by, bz, r, _ = (c.unsqueeze(-1) for c in geometry.unbind(-1))
    sx, sy, sz = bx - ax, by - ay, bz - az
    ox, oy, oz = origin[0] - ax, origin[1] - ay, origin[2] - az
    dx, dy, dz = direction
    axis2 = sx * sx + sy * sy + sz * sz
    d2 = dx * dx + dy * dy + dz * dz
    axis_d = sx * dx + sy * dy + sz * dz
    axis_o = sx * ox + sy * oy + sz * oz
    od = ox * dx + oy * dy + oz * dz
    o2 = ox * ox + oy * oy + oz * oz
    a = (axis2 * d2 - axis_d * axis_d).clamp_min(_TINY)
    b = axis2 * od - axis_o * axis_d
    c = axis2 * (o2 - r * r) - axis_o * axis_o
    disc = b * b - a * c
    t = (-b - disc.clamp_min(0.0).sqrt()) / a
    along = axis_o + t * axis_d
    side = (disc > 0) & (along > 0) & (along < axis2)
    # The end sphere nearest to where the ray meets the infinite cylinder.
    past = along >= axis2
    b = torch.where(past, od - axis_d, od)
    c = torch.where(past, o2 - 2.0 * axis_o + axis2, o2) - r * r
    disc_end = b * b - d2 * c
    t_end = (-b - disc_end.clamp_min(0.0).sqrt()) / d2
    t = torch.where(side, t, t_end)
    return torch.where((side | ((disc > 0) & (disc_end > 0))) & (t > NEAREST), t, INFINITY)


def local_point(geometry: Tensor, point: Vector) -> Vector:
    """Points in the frame of their own solid, in units of its half extents.

    Shapes: geometry (B, R, 8), one row per point; components (B, R) -> components (B, R).
    """
    cx, cy, cz, sx, sy, sz, cos, sin = geometry.unbind(-1)
    x, y, z = point[0] - cx, point[1] - cy, point[2] - cz
    return (x * cos - z * sin) / sx, y / sy, (x * sin + z * cos) / sz


def find_surface_normal(kind: Tensor, geometry: Tensor, point: Vector) -> Tensor:
    """Outward unit normals in world axes at points on solids.

    Shapes: kind (B, R) index into `KINDS`, geometry (B, R, 8), components (B, R) -> (B, R, 3).
    """
    half, cos, sin = geometry[..., 3:6], geometry[..., 6], geometry[..., 7]
    local = torch.stack(local_point(geometry, point), dim=-1)
    x, y, z = local.unbind(-1)
    zero = torch.zeros_like(x)
    ball = local
    face = torch.nn.functional.one_hot(local.abs().argmax(-1), 3).to(local.dtype)
    cube = face * local.sign() * half
    rim = x * x + z * z
    on_cap = (y.abs() - 1.0).abs() < (rim.clamp_min(0.0).sqrt() - 1.0).abs()
    tube = torch.where(
        on_cap.unsqueeze(-1),
        torch.stack((zero, y.sign() * half[..., 1], zero), -1),
        torch.stack((x, zero, z), -1),
    )
    slope = (1.0 - y) * 0.5
    on_base = (y + 1.0).abs() < (rim.clamp_min(0.0).sqrt() - slope).abs()
    spike = torch.where(
        on_base.unsqueeze(-1),
        torch.stack((zero, -half[..., 1], zero), -1),
        torch.stack((x, slope * 0.5, z), -1),
    )
    index = kind.unsqueeze(-1)
    normal = torch.where(index == 1, cube, ball)
    normal = torch.where(index == 2, tube, normal)
    normal = torch.where(index == 3, spike, normal) / half
    nx, ny, nz = normal.unbind(-1)
    turned = torch.stack((nx * cos + nz * sin, ny, nz * cos - nx * sin), dim=-1)
    normal = torch.where(index == 4, _capsule_outward(geometry, point), turned)
    return normal / normal.norm(dim=-1, keepdim=True).clamp_min(_TINY)


def _capsule_outward(geometry: Tensor, point: Vector) -> Tensor:
    start, axis = geometry[..., 0:3], geometry[..., 3:6] - geometry[..., 0:3]
    p = torch.stack(point, dim=-1) - start
    along = (p * axis).sum(-1, keepdim=True) / (axis * axis).sum(-1, keepdim=True).clamp_min(_TINY)
    return p - axis * along.clamp(0.0, 1.0)
