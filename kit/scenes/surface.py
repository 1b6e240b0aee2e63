"""What a ray sees: backdrop, albedo with simple textures, sky, light and shadow.

Legend: B scenes, P solids, R rays. Colours are sRGB in [0, 1] unless called linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..pictures.palettes import SEGMENTATION_CLASSES
from .environment import Environment, Scene
from .objects import CHECKER, MATERIAL_COLUMNS, NOISE, SNOW, STRIPES, WINDOWS
from .primitives import (
    GEOMETRY_COLUMNS,
    INFINITY,
    KINDS,
    Solids,
    Vector,
    enclose_in_ball,
    find_any_hit,
    find_nearest_hit,
    find_surface_normal,
    local_point,
    vector,
)

GROUND_REACH = 80.0
"""Metres along the viewing axis after which the ground gives way to the sky."""

_SKY, _WATER, _ROAD, _WALL = (
    SEGMENTATION_CLASSES.index(name) for name in ("sky", "water", "road", "wall")
)


@dataclass
class Stack:
    """Scenes as tensors: solids (B, P, 8) by kind, materials (B, sum P, 12), environment (B, n)."""

    solids: dict[str, Solids]
    geometry: Tensor
    materials: Tensor
    kinds: Tensor
    casts: Tensor
    environment: dict[str, Tensor]


@dataclass
class Hits:
    """What every ray sees. depth (B, R) metres along the viewing axis, INFINITY on the sky;
    normal (B, R, 3) world axes; albedo (B, R, 3) sRGB; shading (B, R, 3) linear multiplier;
    klass and group (B, R) int64."""

    depth: Tensor
    normal: Tensor
    albedo: Tensor
    shading: Tensor
    klass: Tensor
    group: Tensor


def stack_scenes(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> Stack:
    """Stack scenes, padded to the same number of solids of each kind (padding is never hit)."""
    solids, materials, kinds = {}, [], []
    for index, kind in enumerate(KINDS):
        count = max(len(s.builder.geometry[kind]) for s in scenes)
        # Degenerate solids far below the ground: no ray gets there before the ground does.
        pad = (0.0, -1e6, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0)
        if kind == "capsule":
            pad = (0.0, -1e6, 0.0, 0.0, -1e6 + 1.0, 0.0, 1e-3, 0.0)
        rows = [_padded(s.builder.geometry[kind], count, pad) for s in scenes]
        table = torch.tensor(rows, device=device).view(len(scenes), count, GEOMETRY_COLUMNS)
        solids[kind] = Solids(table, _balls(scenes, kind, device))
        looks = [
            _padded(s.builder.materials[kind], count, (0.0,) * MATERIAL_COLUMNS) for s in scenes
        ]
        materials.append(
            torch.tensor(looks, device=device).view(len(scenes), count, MATERIAL_COLUMNS)
        )
        kinds += [index] * count
    environment = {
        f.name: torch.tensor([getattr(s.environment, f.name) for s in scenes], device=device)
        for f in fields(Environment)
    }
    table = torch.cat(materials, dim=1)
    return Stack(
        solids,
        torch.cat([solids[kind].rows for kind in KINDS], dim=1),
        table,
        torch.tensor(kinds, device=device, dtype=torch.int64),
        table[..., 10] < 0.5,
        environment,
    )


def _balls(scenes: Sequence[Scene], kind: str, device) -> Tensor:
    """One ball around the solids of this kind in each thing."""
    balls = []
    for scene in scenes:
        things: dict[int, list] = {}
        rows, looks = scene.builder.geometry[kind], scene.builder.materials[kind]
        for row, look_ in zip(rows, looks, strict=True):
            things.setdefault(look_[1], []).append(row)
        balls.append([enclose_in_ball(kind, members) for members in things.values()])
    count = max(len(b) for b in balls)
    rows = [_padded(b, count, (0.0, -1e6, 0.0, 0.0)) for b in balls]
    return torch.tensor(rows, device=device).view(len(scenes), count, 4)


def _padded(rows: list, count: int, pad: tuple[float, ...]) -> list:
    return rows + [pad] * (count - len(rows))


def camera_rays(environment: dict[str, Tensor], u: Tensor, v: Tensor) -> tuple[Vector, Vector]:
    """World rays through picture points; the ray parameter is depth along the viewing axis.

    Shapes: u, v (1 or B, R) right and up in units of half the short side
    -> components (B, 1, 1) or (B, 1, R).
    """
    height, pitch, tan_half = (c.view(-1, 1, 1) for c in environment["camera"].unbind(-1))
    cos, sin = pitch.cos(), pitch.sin()
    right, up = u.unsqueeze(1) * tan_half, v.unsqueeze(1) * tan_half
    zero = torch.zeros_like(height)
    return (zero, height, zero), (right, sin + up * cos, cos - up * sin)


def look(stack: Stack, u: Tensor, v: Tensor) -> Hits:
    """Cast camera rays, find what they see, and light it."""
    env = stack.environment
    origin, direction = camera_rays(env, u, v)
    depth, index = find_nearest_hit(stack.solids, origin, direction)
    d = vector(c.squeeze(1) for c in direction)
    o = vector(c.squeeze(1) for c in origin)
    back = _backdrop(env, o, d)
    solid = depth < back.depth
    depth = torch.where(solid, depth, back.depth)
    point = vector(a + depth.clamp_max(GROUND_REACH * 2) * b for a, b in zip(o, d, strict=True))
    if stack.geometry.shape[1] == 0:
        hits, glows = back, torch.zeros_like(solid)
    else:
        hits, glows = _solid_hits(stack, index, point, depth, solid, back)
    glows = glows | (hits.klass == _SKY)
    hits.normal = _facing(hits.normal, torch.stack(d, -1))
    hits.shading = torch.where(glows.unsqueeze(-1), 1.0, _light(stack, point, depth, hits.normal))
    return hits


def _solid_hits(stack, index, point, depth, solid, back) -> tuple[Hits, Tensor]:
    """Albedo, class and normal where a solid is nearest; the backdrop's elsewhere."""
    geometry = _rows(stack.geometry, index)
    look_ = _rows(stack.materials, index)
    kind = stack.kinds[index]
    normal = find_surface_normal(kind, geometry, point)
    color = _textured(look_, kind, geometry, local_point(geometry, point))
    picked = solid.unsqueeze(-1)
    hits = Hits(
        depth,
        torch.where(picked, normal, back.normal),
        torch.where(picked, color, back.albedo),
        back.shading,
        torch.where(solid, look_[..., 0].to(torch.int64), back.klass),
        torch.where(solid, look_[..., 1].to(torch.int64), back.group),
    )
    return hits, solid & (look_[..., 10] > 0.5)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """(B, P, C) table, (B, R) row numbers -> (B, R, C)."""
    return table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))


def _textured(look_: Tensor, kind: Tensor, geometry: Tensor, local: Vector) -> Tensor:
    """First or second albedo of a solid's material, by the pattern at the point."""
    texture, scale = look_[..., 8], look_[..., 9].clamp_min(1e-3)
    half = geometry[..., 3:6]
    unit = torch.stack(local, dim=-1)
    # On a box the coordinate across the face is constant up to rounding: leave it out.
    across = torch.nn.functional.one_hot(unit.abs().argmax(-1), 3).bool()
    metres = torch.where(across & (kind == 1).unsqueeze(-1), 0.25, unit * half) / scale.unsqueeze(
        -1
    )
    x, y, z = metres.unbind(-1)
    along = torch.where(across[..., 0], z, x)
    window = (_fraction(along) - 0.5).abs().lt(0.27) & (_fraction(y) - 0.5).abs().lt(0.25)
    chosen = _pattern(texture, x, y, z, along)
    chosen = torch.where(texture == WINDOWS, (window & ~across[..., 1]).float(), chosen)
    chosen = torch.where(texture == SNOW, ((unit[..., 1] - 0.15) * 12).clamp(0, 1), chosen)
    return torch.lerp(look_[..., 2:5], look_[..., 5:8], chosen.unsqueeze(-1))


def _pattern(texture: Tensor, x: Tensor, y: Tensor, z: Tensor, along: Tensor) -> Tensor:
    """Share of the second colour for checker, stripes and soft noise; 0 for other textures."""
    checker = (x.floor() + y.floor() + z.floor()).remainder(2.0)
    stripes = along.floor().remainder(2.0)
    noise = torch.sin(x * 2.1 + 1.7 * torch.sin(z * 1.3)) * torch.sin(z * 1.9 + y * 2.3)
    chosen = torch.where(texture == CHECKER, checker, torch.zeros_like(x))
    chosen = torch.where(texture == STRIPES, stripes, chosen)
    return torch.where(texture == NOISE, 0.5 + 0.5 * noise, chosen)


def _fraction(x: Tensor) -> Tensor:
    return x - x.floor()


def _column(row: Tensor, index: int) -> Tensor:
    return row[:, index : index + 1]


def _backdrop(env: dict[str, Tensor], o: Vector, d: Vector) -> Hits:
    """Sky and ground, or the inside of a room."""
    inside = env["indoor"] > 0.5
    if bool(inside.all()):
        return _room(env, o, d)
    outside = _open_air(env, o, d)
    if not bool(inside.any()):
        return outside
    room = _room(env, o, d)
    mix = {}
    for f in fields(Hits):
        a, b = getattr(room, f.name), getattr(outside, f.name)
        mix[f.name] = torch.where(inside.view(-1, *[1] * (a.ndim - 1)), a, b)
    return Hits(**mix)


def _open_air(env: dict[str, Tensor], o: Vector, d: Vector) -> Hits:
    t = torch.where(d[1] < -1e-4, -o[1] / d[1].clamp_max(-1e-4), INFINITY)
    ground = t < GROUND_REACH
    t = torch.where(ground, t, INFINITY)
    far = t.clamp_max(GROUND_REACH)
    x, z = o[0] + far * d[0], o[2] + far * d[2]
    look_, road, lake = env["base_look"], env["road"], env["lake"]
    scale = _column(look_, 1)
    texture = _column(look_, 0).expand_as(x)
    pattern = _pattern(texture, x / scale, torch.zeros_like(x) + 0.25, z / scale, x / scale)
    color = torch.lerp(env["base"][:, None], env["base_second"][:, None], pattern.unsqueeze(-1))
    across = (x - _column(road, 0)) * _column(road, 2) + (z - _column(road, 1)) * _column(road, 3)
    on_road = across.abs() < _column(road, 4)
    lx, lz = (x - _column(lake, 0)) / _column(lake, 2), (z - _column(lake, 1)) / _column(lake, 3)
    on_lake = lx * lx + lz * lz < 1.0
    color = torch.where(on_road.unsqueeze(-1), env["road_color"][:, None], color)
    color = torch.where(on_lake.unsqueeze(-1), env["lake_color"][:, None], color)
    klass = torch.where(on_road, _ROAD, _column(look_, 2).to(torch.int64).expand_as(on_road))
    klass = torch.where(on_lake, _WATER, klass)
    group = torch.where(on_lake, 3, torch.where(on_road, 2, 1))
    up = torch.zeros_like(color)
    up[..., 1] = 1.0
    shown = ground.unsqueeze(-1)
    return Hits(
        t,
        up,
        torch.where(shown, color, _sky(env, d)),
        torch.ones_like(up),
        torch.where(ground, klass, _SKY),
        torch.where(ground, group, 0),
    )


def _sky(env: dict[str, Tensor], d: Vector) -> Tensor:
    """Gradient to the zenith colour about 20 degrees up, soft clouds, a glow around the sun."""
    length = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt()
    x, y, z = (c / length for c in d)
    rise = (y.clamp_min(0.0) / 0.32).clamp_max(1.0).unsqueeze(-1)
    color = torch.lerp(env["horizon"][:, None], env["zenith"][:, None], rise)
    amount, phase = _column(env["clouds"], 0), _column(env["clouds"], 1)
    px, pz = x / (y.clamp_min(0.0) + 0.25) * 2.6 + phase, z / (y.clamp_min(0.0) + 0.25) * 2.6
    puff = torch.sin(px * 1.9 + torch.sin(pz * 1.7 + phase)) * torch.sin(pz * 2.6 + 0.7 * px)
    # Towards the horizon clouds crowd into streaks finer than a pixel: fade them out.
    amount = amount * ((y - 0.04) / 0.16).clamp(0.0, 1.0)
    cover = (amount * (puff - 0.1).clamp(0.0, 0.6) / 0.6).unsqueeze(-1)
    color = torch.lerp(color, torch.full_like(color, 0.95), cover)
    light, glow = env["light"], env["glow"]
    toward = x * _column(light, 0) + y * _column(light, 1) + z * _column(light, 2)
    near = torch.exp((toward - 1.0) / (0.02 + _column(glow, 3))).unsqueeze(-1)
    return (color + glow[:, None, :3] * near).clamp(0.0, 1.0)


def _room(env: dict[str, Tensor], o: Vector, d: Vector) -> Hits:
    """First wall, floor or ceiling met from inside of the room."""
    room = env["room"]
    cx, cz, hx, hz, high, cos, sin = (_column(room, i) for i in range(7))
    ox, oz = o[0] - cx, o[2] - cz
    lox, loz = ox * cos - oz * sin, ox * sin + oz * cos
    ldx, ldz = d[0] * cos - d[2] * sin, d[0] * sin + d[2] * cos
    exits = []
    for start, step, half in ((lox, ldx, hx), (o[1] - high / 2, d[1], high / 2), (loz, ldz, hz)):
        exits.append((half * torch.where(step >= 0, 1.0, -1.0) - start) / (step + 1e-12))
    t, axis = torch.stack(exits).min(dim=0)
    x, y, z = lox + t * ldx, o[1] + t * d[1], loz + t * ldz
    floor, ceiling = (axis == 1) & (d[1] < 0), (axis == 1) & (d[1] >= 0)
    zero = torch.zeros_like(t)
    sx, sz = -ldx.sign(), -ldz.sign()
    nx = torch.where(axis == 0, sx * cos, torch.where(axis == 2, sz * sin, zero))
    nz = torch.where(axis == 0, -sx * sin, torch.where(axis == 2, sz * cos, zero))
    ny = torch.where(axis == 1, -d[1].sign(), zero)
    along = torch.where(axis == 0, z, x)
    wall, base = env["wall_look"], env["base_look"]
    look_wall, scale = _column(wall, 0).expand_as(t), _column(base, 1)
    share = _pattern(look_wall, x, y, z, along / _column(wall, 1)).unsqueeze(-1)
    sides = torch.lerp(env["wall"][:, None], env["wall_second"][:, None], share)
    texture = _column(base, 0).expand_as(t)
    share = _pattern(texture, x / scale, zero + 0.25, z / scale, x / scale).unsqueeze(-1)
    below = torch.lerp(env["base"][:, None], env["base_second"][:, None], share)
    color = torch.where(ceiling.unsqueeze(-1), env["ceiling"][:, None], sides)
    color = torch.where(floor.unsqueeze(-1), below, color)
    group = torch.where(floor, 2, torch.where(ceiling, 3, 1))
    normal = torch.stack((nx, ny, nz), dim=-1)
    klass = torch.full_like(group, _WALL)
    return Hits(t, normal, color, torch.ones_like(color), klass, group)


def _facing(normal: Tensor, direction: Tensor) -> Tensor:
    """Turn normals that rounding tipped past the silhouette back to face the viewer."""
    ray = direction / direction.norm(dim=-1, keepdim=True)
    away = (normal * ray).sum(-1, keepdim=True).clamp_min(0.0)
    normal = normal - ray * away * 1.01
    return normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _light(stack: Stack, point: Vector, depth: Tensor, normal: Tensor) -> Tensor:
    """Linear shading: ambient (stronger from above) plus one Lambert light with a hard shadow."""
    env = stack.environment
    inside = env["indoor"] > 0.5
    light = vector(_column(env["light"], i) for i in range(3))
    offset = 4e-3 + 5e-4 * depth.clamp_max(GROUND_REACH)
    start = vector(p + n * offset for p, n in zip(point, normal.unbind(-1), strict=True))
    toward = vector(torch.where(inside, c - p, c) for c, p in zip(light, start, strict=True))
    if not bool(inside.any()):
        toward = light
    distance2 = toward[0] ** 2 + toward[1] ** 2 + toward[2] ** 2
    cosine = sum(n * c for n, c in zip(normal.unbind(-1), toward, strict=True)) / distance2.sqrt()
    fade = torch.where(inside, 1.0 / (1.0 + distance2 / 12.0), 1.0)
    reach = torch.where(inside, 1.0, INFINITY * 0.5)
    origin, direction = (vector(c.unsqueeze(1) for c in ray) for ray in (start, toward))
    shadow = find_any_hit(stack.solids, stack.casts, origin, direction, reach)
    direct = torch.where(shadow, 0.0, cosine.clamp_min(0.0) * fade).unsqueeze(-1)
    ambient = env["ambient"][:, None] * (0.8 + 0.2 * normal[..., 1:2])
    return ambient + env["direct"][:, None] * direct
