"""Pictures and maps mirrored, turned, cut and resized, with what their values mean kept right.

Mirrored or turned, a normal points elsewhere; a mirrored figure's left is its right.
Shapes: B pictures, H W pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.pictures.palettes import OPENPOSE_KEYPOINTS
from ..domains import Domain
from ..labels.checks import check_picture
from .pose import draw_poses, read_poses

TURNS = ("flip horizontal", "flip vertical", "rotate 90", "rotate 180", "rotate 270")
"""Rotations are clockwise."""


@dataclass(frozen=True)
class _Turn:
    """flips: axes of (B, C, H, W) that are reversed, after `quarters` turns counter-clockwise.

    vector: the new +X (picture left) and +Y (up) parts of a normal from the old ones, as rows.
    """

    flips: tuple[int, ...]
    quarters: int
    vector: tuple[tuple[int, int], tuple[int, int]]
    mirrors: bool


_TURNS = {
    "flip horizontal": _Turn((3,), 0, ((-1, 0), (0, 1)), True),
    "flip vertical": _Turn((2,), 0, ((1, 0), (0, -1)), True),
    # clockwise: what pointed left points up, what pointed up points right
    "rotate 90": _Turn((), 3, ((0, -1), (1, 0)), False),
    "rotate 180": _Turn((), 2, ((-1, 0), (0, -1)), False),
    "rotate 270": _Turn((), 1, ((0, 1), (-1, 0)), False),
}


def turn(of: Domain, picture: Tensor, how: str) -> Tensor:
    """Maps of one domain mirrored or turned: (B, 3, H, W) in [0, 1] -> the same kind of maps.

    Normals are turned with the picture, and keep the length they are drawn with. Mirrored figures
    are drawn anew with left and right exchanged; what is no figure in such a picture is lost.
    Raises: JodiError for an unknown way, ImageError for a wrong picture.
    """
    turn = _turn(how)
    picture = move_pixels(check_picture(picture, of.name), how)
    if of.kind == "normal":
        centred = picture - 0.5
        (a, b), (c, d) = turn.vector
        x, y, z = centred.unbind(1)
        return torch.stack((a * x + b * y, c * x + d * y, z), dim=1) + 0.5
    if of.kind == "pose" and turn.mirrors:
        figures = [f[:, _OTHER_SIDE] for f in read_poses(picture)]
        return draw_poses(figures, *picture.shape[-2:])
    return picture


def move_pixels(values: Tensor, how: str) -> Tensor:
    """Any values over pixels (..., H, W) mirrored or turned, each as it is."""
    turn = _turn(how)
    values = torch.rot90(values, turn.quarters, (-2, -1)) if turn.quarters else values
    return values.flip([axis - 4 for axis in turn.flips]) if turn.flips else values


def resize(of: Domain, picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, 3, H, W) at another size (height, width); classes take the nearest pixel."""
    picture = check_picture(picture, of.name)
    if of.kind == "palette":
        return F.interpolate(picture, size, mode="nearest-exact")
    return F.interpolate(picture, size, mode="bilinear", antialias=True).clamp(0, 1)


def _turn(how: str) -> _Turn:
    if how not in _TURNS:
        raise JodiError(f"unknown way to turn a picture: {how!r}; use one of {', '.join(TURNS)}")
    return _TURNS[how]


def _other_side(name: str) -> str:
    for one, other in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(one):
            return other + name.removeprefix(one)
    return name


_OTHER_SIDE = [OPENPOSE_KEYPOINTS.index(_other_side(name)) for name in OPENPOSE_KEYPOINTS]
