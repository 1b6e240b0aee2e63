"""What a rendered scene shows: things with their noun, colour, size and place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .captions import COLOR_TOLERANCE, COLOR_WORDS
from .environment import Scene

NAMED_SHARE = 0.01
"""A caption names what covers at least this share of the picture."""


@dataclass(frozen=True)
class Thing:
    """One thing of a scene that is seen.

    noun, role: as in `captions.write_caption`. color: the word, or None where that colour is not
    seen on it. share: of the picture's pixels. x, y: mean place of its pixels, (0, 0) top left and
    (1, 1) bottom right. group: its number in `SceneBatch.group`.
    """

    noun: str
    color: str | None
    role: str
    share: float
    x: float
    y: float
    group: int


def mirror_things(things: Sequence[Thing]) -> list[Thing]:
    """The things of the same picture with left and right exchanged."""
    return [replace(thing, x=1 - thing.x) for thing in things]


def list_things(scene: Scene, group: Tensor, albedo: Tensor) -> list[Thing]:
    """Everything of a scene that at least one pixel shows, the largest first.

    group (H, W): number of the thing each pixel shows; albedo (3, H, W) sRGB.
    """
    height, width = group.shape
    ids, colors = group.reshape(-1).cpu(), albedo.reshape(3, -1).cpu()
    groups, total = scene.builder.groups, ids.numel()
    count = torch.bincount(ids, minlength=len(groups))
    places = torch.arange(total)
    things = []
    for index in torch.argsort(count, descending=True, stable=True).tolist():
        own = ids == index
        if not count[index]:
            break
        noun, role = groups[index].noun, groups[index].role
        x = float((places[own] % width).double().mean() + 0.5) / width
        y = float((places[own] // width).double().mean() + 0.5) / height
        color = _seen_color(groups[index].color, colors[:, own], total)
        things.append(Thing(noun, color, role, float(count[index]) / total, x, y, index))
    return things


def _seen_color(word: str | None, own: Tensor, total: int) -> str | None:
    """The word when enough of the thing's pixels (3, N) show its colour."""
    if word is None:
        return None
    target = torch.tensor(COLOR_WORDS[word]).view(3, 1)
    near = (own - target).abs().amax(0) < COLOR_TOLERANCE
    return None if near.sum() < max(0.005 * total, 0.15 * own.shape[1]) else word
