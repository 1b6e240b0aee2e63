"""Skeletons of people, drawn in OpenPose's colours as the model has met them.

Stroke widths are stated at 64 px and grow with the picture.
"""

import torch
from torch import Tensor

from .palettes import OPENPOSE_COLORS, OPENPOSE_LIMBS

LIMB_INTENSITY = 0.6
"""OpenPose draws limbs at this share of their colour, and joints at full colour on top."""

LIMB_RADIUS, JOINT_RADIUS = 1.5, 2.4
"""Pixels. A latent cell of 8 x 8 pixels does not keep the colour of thinner strokes."""


def draw_skeleton(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Skeletons in the standard colours on black; a limb needs both of its ends visible.

    Strokes grow with the picture, but never get thinner than `LIMB_RADIUS` and `JOINT_RADIUS`.

    Shapes: keypoints (B, P, 18, 3) pixel x, y and visible (0 or 1) -> (B, 3, H, W).
    """
    device = keypoints.device
    ys = torch.arange(height, device=device, dtype=torch.float32)
    xs = torch.arange(width, device=device, dtype=torch.float32)
    return draw_skeleton_part(keypoints, ys, xs, *choose_stroke_radii(height, width))


def choose_stroke_radii(height: int, width: int) -> tuple[float, float]:
    """Radius in pixels of limbs and of joints in a picture of this size."""
    scale = min(height, width) / 64.0
    return max(0.6 * scale, LIMB_RADIUS), max(0.8 * scale, JOINT_RADIUS)


def draw_skeleton_part(
    keypoints: Tensor, ys: Tensor, xs: Tensor, limb_radius: float, joint_radius: float
) -> Tensor:
    """As `draw_skeleton`, of some rows ys (H,) and columns xs (W,) only -> (B, 3, H, W)."""
    canvas = torch.zeros(len(keypoints), 3, len(ys), len(xs), device=keypoints.device)
    shown = keypoints[..., 2] > 0.5
    if not bool(shown.any()):
        return canvas
    colors = torch.tensor(OPENPOSE_COLORS, dtype=torch.float32, device=canvas.device) / 255.0
    near = _NearWindow(keypoints, ys, xs, max(limb_radius, joint_radius) + 1)
    ys, xs = ys.view(1, -1, 1), xs.view(1, 1, -1)
    for person in range(keypoints.shape[1]):
        points, seen = keypoints[:, person], shown[:, person]
        for limb, (i, j) in enumerate(OPENPOSE_LIMBS):
            both = seen[:, i] & seen[:, j]
            if near(person, i, j) and bool(both.any()):
                distance = _segment_distance(xs, ys, points[:, i], points[:, j])
                color = colors[limb] * LIMB_INTENSITY
                _paint(canvas, distance, limb_radius, color, both)
        for joint in range(points.shape[1]):
            if near(person, joint, joint) and bool(seen[:, joint].any()):
                distance = _segment_distance(xs, ys, points[:, joint], points[:, joint])
                _paint(canvas, distance, joint_radius, colors[joint], seen[:, joint])
    return canvas


class _NearWindow:
    """Whether a stroke between two joints of a person can reach a window of a picture."""

    def __init__(self, keypoints: Tensor, ys: Tensor, xs: Tensor, reach: float):
        self._low = keypoints[..., :2].amin(dim=0).tolist()
        self._high = keypoints[..., :2].amax(dim=0).tolist()
        self._first = (float(xs[0]) - reach, float(ys[0]) - reach)
        self._last = (float(xs[-1]) + reach, float(ys[-1]) + reach)

    def __call__(self, person: int, i: int, j: int) -> bool:
        low, high = self._low[person], self._high[person]
        return all(
            min(low[i][axis], low[j][axis]) <= self._last[axis]
            and max(high[i][axis], high[j][axis]) >= self._first[axis]
            for axis in (0, 1)
        )


def _segment_distance(xs: Tensor, ys: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """(B, H, W) distance in pixels to the segment between two (B, 3) points."""
    ax, ay = start[:, 0].view(-1, 1, 1), start[:, 1].view(-1, 1, 1)
    bx, by = end[:, 0].view(-1, 1, 1) - ax, end[:, 1].view(-1, 1, 1) - ay
    px, py = xs - ax, ys - ay
    along = (px * bx + py * by) / (bx * bx + by * by).clamp_min(1e-12)
    along = along.clamp(0.0, 1.0)
    return ((px - bx * along) ** 2 + (py - by * along) ** 2).sqrt()


def _paint(canvas: Tensor, distance: Tensor, radius: float, color: Tensor, shown: Tensor) -> None:
    cover = (radius + 0.5 - distance).clamp(0.0, 1.0) * shown.view(-1, 1, 1)
    canvas.lerp_(color.view(1, 3, 1, 1).expand_as(canvas), cover.unsqueeze(1).expand_as(canvas))
