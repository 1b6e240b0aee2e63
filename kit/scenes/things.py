"""What the picture of a scene shows: each thing with its share of the picture and its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .captions import COLOR_TOLERANCE, COLOR_WORDS
from .layout import Scene, compose
from .surface import look, stack_scenes


@dataclass(frozen=True)
class Thing:
    """One thing that can be seen.

    noun, role: as in `captions.Seen`. color: its colour word where the picture shows it, else None.
    share: of the picture's pixels. x, y: the mean of its pixels, from the left and from the top, in
    [0, 1].
    """

    noun: str
    color: str | None
    role: str
    share: float
    x: float
    y: float


@dataclass(frozen=True)
class SceneThings:
    """Everything that one picture shows, the largest first."""

    indoor: bool
    things: tuple[Thing, ...]

    def mirrored(self) -> SceneThings:
        """The things of the same picture with left and right exchanged."""
        flipped = (Thing(t.noun, t.color, t.role, t.share, 1 - t.x, t.y) for t in self.things)
        return SceneThings(self.indoor, tuple(flipped))


def see_things(scene: Scene, group: Tensor, albedo: Tensor) -> SceneThings:
    """What the picture of a scene shows.

    group: (H, W) index of the thing at each pixel; albedo: (3, H, W) sRGB.
    """
    groups, total, (height, width) = scene.builder.groups, group.numel(), group.shape
    ids, colors = group.reshape(-1), albedo.reshape(3, -1)
    counts = torch.bincount(ids, minlength=len(groups)).double()
    columns = (torch.arange(width, dtype=torch.float64) + 0.5).repeat(height) / width
    rows = (torch.arange(height, dtype=torch.float64) + 0.5).repeat_interleave(width) / height
    x, y = (
        torch.bincount(ids, axis, len(groups)) / counts.clamp_min(1) for axis in (columns, rows)
    )
    things = []
    for index in torch.argsort(counts, descending=True, stable=True).tolist():
        if not counts[index]:
            break
        thing = groups[index]
        color = thing.color
        if color is not None and not _shows(color, colors[:, ids == index], total):
            color = None
        share = float(counts[index]) / total
        place = float(x[index]), float(y[index])
        things.append(Thing(thing.noun, color, thing.role, share, *place))
    return SceneThings(scene.environment.indoor[0] > 0.5, tuple(things))


def _shows(color: str, pixels: Tensor, total: int) -> bool:
    """Whether enough of a thing's pixels (3, N) are near its colour word."""
    target = torch.tensor(COLOR_WORDS[color]).view(3, 1)
    near = ((pixels - target).abs().amax(0) < COLOR_TOLERANCE).sum()
    return bool(near >= max(0.005 * total, 0.15 * pixels.shape[1]))


@torch.inference_mode()
def scene_things(seeds: Sequence[int], size: int = 64) -> list[SceneThings]:
    """What the pictures of some scenes show, without painting them: one ray a pixel."""
    half = (torch.arange(size, dtype=torch.float32) + 0.5 - size / 2) / (size / 2)
    u, v = half.repeat(size)[None], -half.repeat_interleave(size)[None]
    found = []
    for seed in seeds:
        scene = compose(int(seed))
        hits = look(stack_scenes([scene]), u, v)
        albedo = hits.albedo[0].T.reshape(3, size, size)
        found.append(see_things(scene, hits.group[0].reshape(size, size), albedo))
    return found
