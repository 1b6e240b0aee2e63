"""Procedural scenes with exact ground truth for all eight domains, from a seed alone.

Sources of the conventions: the released model's example labels (github VIPL-GENUN/Jodi @ c21bdcb).
Legend: B scenes, P people, H W picture size. No files are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import JodiError
from ..pictures.light import linear_to_srgb, srgb_to_linear
from ..pictures.skeleton import draw_skeleton
from .captions import COLOR_WORDS, VOCABULARY, read_caption, write_caption
from .environment import Scene
from .layout import compose
from .maps import draw_classes, draw_depth, draw_lines, draw_normals
from .primitives import INFINITY
from .surface import Hits, look, stack_scenes
from .things import NAMED_SHARE, Thing, list_things

__all__ = [
    "COLOR_WORDS",
    "TRAIN_SEED_END",
    "VOCABULARY",
    "SceneBatch",
    "check_evaluation_seeds",
    "check_training_seeds",
    "linear_to_srgb",
    "read_caption",
    "render_scenes",
    "srgb_to_linear",
]

TRAIN_SEED_END = 1 << 24
"""Training uses seeds below this, evaluation seeds at or above it."""

BORDER_CONTRAST = 0.04
"""Pixels that differ from a neighbour by more than this (sRGB, any channel) are supersampled."""

MAX_SIZE = 4096


@dataclass
class SceneBatch:
    """Rendered scenes. Everything but the image is point-sampled at pixel centres.

    pictures (B, 8, 3, H, W) float32 in [0, 1], DOMAINS order; captions, one a scene;
    depth (B, H, W) metres along the viewing axis, 0 where not valid; valid (B, H, W) False on sky;
    normal (B, 3, H, W) unit, +X left, +Y up, +Z to the viewer, (0, 0, 1) on sky;
    classes (B, H, W) uint8 palette index; albedo (B, 3, H, W) sRGB; shading (B, 3, H, W) linear, so
    that without supersampling image = srgb(linear(albedo) * shading) clipped to [0, 1];
    keypoints (B, P, 18, 3): pixel x, y (centre of the first pixel is 0, 0) and visible 0 or 1;
    group (B, H, W) int64: number of the thing a pixel shows; things: all that are seen, a list a
    scene, the largest first.
    """

    pictures: Tensor
    captions: list[str]
    depth: Tensor
    valid: Tensor
    normal: Tensor
    classes: Tensor
    albedo: Tensor
    shading: Tensor
    keypoints: Tensor
    group: Tensor
    things: list[list[Thing]]


def check_training_seeds(first: int, count: int) -> range:
    """`count` seeds from `first` on. Raises: JodiError unless all are in [0, 2^24)."""
    _check_range(first, count)
    if first + count > TRAIN_SEED_END:
        raise JodiError(
            f"training seeds must be below {TRAIN_SEED_END} (2^24), got {first}.."
            f"{first + count - 1}; seeds from there on are kept for evaluation"
        )
    return range(first, first + count)


def check_evaluation_seeds(first: int, count: int) -> range:
    """`count` seeds from `first` on. Raises: JodiError unless all are at least 2^24."""
    _check_range(first, count)
    if first < TRAIN_SEED_END:
        raise JodiError(
            f"evaluation seeds must be at least {TRAIN_SEED_END} (2^24), got {first}; "
            "seeds below are for training, scores on them would be scores on training data"
        )
    return range(first, first + count)


def _check_range(first: int, count: int) -> None:
    if first < 0 or count < 1:
        raise JodiError(f"expected a first seed >= 0 and a count >= 1, got {first} and {count}")


def render_scenes(
    seeds: Sequence[int],
    size: int | tuple[int, int] = 64,
    *,
    supersample: int = 2,
    device: torch.device | str = "cpu",
) -> SceneBatch:
    """Render the scenes of some seeds, each the same in any batch.

    `size`: pixels, or (height, width); the shorter side always spans the same view.
    `supersample`: image samples per pixel along each axis; labels are never averaged.
    Raises: JodiError for no or negative seeds, or a size or supersampling that makes no sense.
    """
    height, width = (size, size) if isinstance(size, int) else size
    seeds = [int(seed) for seed in seeds]
    if not seeds or min(seeds) < 0:
        raise JodiError(f"expected at least one seed, all >= 0, got {seeds[:8]}")
    if not (4 <= height <= MAX_SIZE and 4 <= width <= MAX_SIZE and 1 <= supersample <= 8):
        raise JodiError(
            f"expected a size of 4..{MAX_SIZE} px a side and supersample 1..8, "
            f"got {height} x {width} and {supersample}"
        )
    scenes = [compose(seed) for seed in seeds]
    # On a CPU one scene at a time stays in the cache; other devices want many.
    rays = height * width * supersample**2
    step = 1 if torch.device(device).type == "cpu" else max(1, (1 << 21) // rays)
    parts = [
        _render(scenes[i : i + step], height, width, supersample, device)
        for i in range(0, len(scenes), step)
    ]
    people = max(part.keypoints.shape[1] for part in parts)
    for part in parts:
        pad = (0, 0, 0, 0, 0, people - part.keypoints.shape[1])
        part.keypoints = torch.nn.functional.pad(part.keypoints, pad)
    maps = {
        f.name: torch.cat([getattr(part, f.name) for part in parts])
        for f in fields(SceneBatch)
        if f.name not in ("captions", "things")
    }
    return SceneBatch(
        captions=[c for part in parts for c in part.captions],
        things=[t for part in parts for t in part.things],
        **maps,
    )


@torch.inference_mode()
def _render(scenes: list[Scene], height: int, width: int, supersample: int, device) -> SceneBatch:
    stack = stack_scenes(scenes, device)
    u, v = _grid(height, width, device)
    hits = look(stack, u, v)

    def to_map(x: Tensor) -> Tensor:
        x = x.view(len(scenes), height, width, *x.shape[2:])
        return x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x

    depth, group = to_map(hits.depth), to_map(hits.group)
    classes, valid = to_map(hits.klass).to(torch.uint8), depth < INFINITY * 0.5
    albedo, shading = to_map(hits.albedo), to_map(hits.shading)
    normal = to_map(_camera_normals(stack.environment, hits.normal))
    normal = torch.where(valid.unsqueeze(1), normal, _toward_viewer(device))
    if supersample == 1:
        image = linear_to_srgb(srgb_to_linear(albedo) * shading)
    else:
        image = _antialiased(stack, hits, u, v, height, width, supersample)
    rays = to_map(_unit_depth_rays(stack.environment, u, v))
    edge, lineart = draw_lines(depth, normal, albedo, classes, group, rays)
    keypoints = _keypoints(scenes, depth, group, device)
    pictures = (
        *(image, lineart, edge, draw_depth(depth, valid), draw_normals(normal), albedo),
        *(draw_classes(classes), draw_skeleton(keypoints, height, width)),
    )
    things = [list_things(*scene) for scene in zip(scenes, group, albedo, strict=True)]
    return SceneBatch(
        torch.stack(pictures, dim=1),
        [_caption(*scene) for scene in zip(scenes, things, strict=True)],
        torch.where(valid, depth, 0.0),
        valid,
        normal,
        classes,
        albedo,
        shading,
        keypoints,
        group,
        things,
    )


def list_scene_things(seed: int, size: int = 64) -> tuple[Tensor, list[Thing]]:
    """What the scene of a seed shows, without drawing it: group (size, size) and things.

    Both as in the `SceneBatch` of that seed, for a quarter of its time.
    """
    scene = compose(seed)
    stack = stack_scenes([scene], "cpu")
    with torch.inference_mode():
        hits = look(stack, *_grid(size, size, "cpu"))
    group = hits.group.view(size, size)
    return group, list_things(scene, group, hits.albedo.view(size, size, 3).permute(2, 0, 1))


def _grid(height: int, width: int, device) -> tuple[Tensor, Tensor]:
    """Pixel centres (1, R), row by row, right and up in units of half the shorter side."""
    half = min(height, width) / 2.0
    rows = torch.arange(height, device=device, dtype=torch.float32) + 0.5
    columns = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    v, u = (height / 2.0 - rows) / half, (columns - width / 2.0) / half
    return u.repeat(height).unsqueeze(0), v.repeat_interleave(width).unsqueeze(0)


def _antialiased(stack, hits: Hits, u, v, height: int, width: int, samples: int) -> Tensor:
    """The image: mean of linear light over samples x samples points of every pixel at a border.

    Where a pixel and its neighbours look alike, so would its samples: its centre stands for them.
    """
    batch = hits.depth.shape[0]
    light = (srgb_to_linear(hits.albedo) * hits.shading).clamp(0.0, 1.0)
    picture = light.view(batch, height, width, 3).permute(0, 3, 1, 2)
    tone = linear_to_srgb(picture)
    spread = torch.nn.functional.max_pool2d(tone, 3, 1, 1)
    spread = spread + torch.nn.functional.max_pool2d(-tone, 3, 1, 1)
    border = spread.amax(1).reshape(batch, -1) > BORDER_CONTRAST
    # Every scene refines as many pixels as the one with the most; the surplus is not written back.
    most = int(border.sum(1).max())
    if most:
        index = border.to(torch.uint8).topk(most, dim=1).indices
        wanted = border.gather(1, index)
        pixel = 2.0 / min(height, width)
        steps = (torch.arange(samples, device=u.device) + 0.5) / samples - 0.5
        du, dv = steps.repeat(samples) * pixel, steps.repeat_interleave(samples) * pixel
        points = (
            (axis.expand(batch, -1).gather(1, index).unsqueeze(-1) + step).flatten(1)
            for axis, step in ((u, du), (v, dv))
        )
        fine = look(stack, *points)
        mean = (srgb_to_linear(fine.albedo) * fine.shading).clamp(0.0, 1.0)
        mean = mean.view(batch, most, samples * samples, 3).mean(2)
        mean = torch.where(wanted.unsqueeze(-1), mean, light.gather(1, _thrice(index)))
        light = light.scatter(1, _thrice(index), mean)
    return linear_to_srgb(light.view(batch, height, width, 3).permute(0, 3, 1, 2).contiguous())


def _thrice(index: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, 3)


def _camera_normals(environment: dict[str, Tensor], normal: Tensor) -> Tensor:
    """(B, R, 3) world axes -> model axes: +X left, +Y up, +Z to the viewer."""
    pitch = environment["camera"][:, 1:2]
    cos, sin = pitch.cos(), pitch.sin()
    x, y, z = normal.unbind(-1)
    return torch.stack((-x, y * cos - z * sin, -(y * sin + z * cos)), dim=-1)


def _toward_viewer(device) -> Tensor:
    return torch.tensor([0.0, 0.0, 1.0], device=device).view(1, 3, 1, 1)


def _unit_depth_rays(environment: dict[str, Tensor], u: Tensor, v: Tensor) -> Tensor:
    """(B, R, 3) camera rays right, up, forward with forward = 1."""
    tan_half = environment["camera"][:, 2:3]
    right, up = u * tan_half, v * tan_half
    return torch.stack((right, up, torch.ones_like(right)), dim=-1)


def _keypoints(scenes: list[Scene], depth: Tensor, group: Tensor, device) -> Tensor:
    """Project the figures' joints; visible means in the picture and not behind another thing."""
    height, width = depth.shape[-2:]
    people = max(len(scene.builder.people) for scene in scenes)
    out = torch.zeros(len(scenes), people, 18, 3)
    half = min(height, width) / 2.0
    for i, scene in enumerate(scenes):
        eye_height, pitch, tan_half = scene.environment.camera
        for p, (own, points, head) in enumerate(scene.builder.people):
            world = torch.tensor(points, dtype=torch.float64)
            x, y, z = world[:, 0], world[:, 1] - eye_height, world[:, 2]
            cos, sin = torch.tensor(pitch).cos().item(), torch.tensor(pitch).sin().item()
            away = y * sin + z * cos
            px = width / 2.0 + x / (away * tan_half) * half - 0.5
            py = height / 2.0 - (y * cos - z * sin) / (away * tan_half) * half - 0.5
            inside = (px > -0.5) & (px < width - 0.5) & (py > -0.5) & (py < height - 0.5)
            cx, cy = px.round().clamp(0, width - 1).long(), py.round().clamp(0, height - 1).long()
            there, whose = depth[i].cpu()[cy, cx], group[i].cpu()[cy, cx]
            visible = inside & (away > 0.1) & ((whose == own) | (there > away - 0.2))
            # Nose, eyes and ears sit on the head: seen only on the side that faces the camera.
            for k in (0, 14, 15, 16, 17):
                outward = world[k] - torch.tensor(head, dtype=torch.float64)
                to_eye = torch.tensor([0.0, eye_height, 0.0], dtype=torch.float64) - world[k]
                if float(outward @ to_eye) <= 0.0:
                    visible[k] = False
            out[i, p] = torch.stack((px, py, visible.double()), dim=-1).float()
    return (out * (out[..., 2:] > 0.5)).to(device)


def _caption(scene: Scene, things: list[Thing]) -> str:
    """Write a caption from what its picture shows; a colour is said only where it is seen."""
    seen = [(t.noun, t.color, t.role) for t in things if t.share >= NAMED_SHARE]
    return write_caption(seen, indoor=scene.environment.indoor[0] > 0.5)
