"""Label pictures drawn from exact geometry: depth, normals, edges, line drawing, palette.

Polarity and axes are those of the released model: depth near = bright, edges bright on black, lines
dark on white, normals +X left, +Y up, +Z to the viewer. Pictures are (B, 3, H, W) in [0, 1].
Line widths are stated at 64 px and grow with the picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..pictures.palettes import SEGMENTATION_PALETTE

SHADING_TOP = 1.3
"""The light that the map of shading shows as white."""

ROUGHNESS = (0.5, 0.6, 0.8, 0.9, 0.05, 0.95, 0.0, 0.55, 0.2, 0.7, 0.85, 0.35)
"""By class, in the order of the palette: water and vehicles shine, mountains and plants do not."""


def draw_depth(depth: Tensor, valid: Tensor) -> Tensor:
    """Disparity stretched to its own range per picture; the sky has disparity 0.

    Shapes: depth (B, H, W) metres, valid (B, H, W) -> (B, 3, H, W). A flat map gives zeros.
    """
    disparity = torch.where(valid, 1.0 / depth.clamp_min(1e-6), 0.0)
    low = disparity.amin(dim=(1, 2), keepdim=True)
    span = disparity.amax(dim=(1, 2), keepdim=True) - low
    stretched = torch.where(span > 1e-9, (disparity - low) / span.clamp_min(1e-9), 0.0)
    return stretched.unsqueeze(1).expand(-1, 3, -1, -1)


def draw_normals(normal: Tensor) -> Tensor:
    """(B, 3, H, W) unit vectors in model axes -> picture, (n + 1) / 2."""
    return (normal + 1.0) * 0.5


def draw_classes(classes: Tensor) -> Tensor:
    """(B, H, W) class indices -> their palette colours."""
    table = torch.tensor(SEGMENTATION_PALETTE, dtype=torch.float32, device=classes.device) / 255.0
    return table[classes.long()].permute(0, 3, 1, 2)


def draw_shading(shading: Tensor) -> Tensor:
    """Light that falls on a surface: (B, 3, H, W) linear multipliers -> sRGB of shading / 1.3.

    No light of these scenes reaches 1.3, so nothing is clipped; the sky and lamps have 1.
    """
    linear = (shading / SHADING_TOP).clamp(0.0, 1.0)
    curve = 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curve)


def draw_roughness(classes: Tensor) -> Tensor:
    """How dull a surface is, by what it is: (B, H, W) class indices -> grey (B, 3, H, W).

    The scenes are lit without highlights, so a picture tells it only by what it shows.
    """
    table = torch.tensor(ROUGHNESS, device=classes.device)
    return _grey(table[classes.long()])


def draw_lines(
    depth: Tensor,
    normal: Tensor,
    albedo: Tensor,
    classes: Tensor,
    group: Tensor,
    rays: Tensor,
) -> tuple[Tensor, Tensor]:
    """Edge map and line drawing from discontinuities between neighbouring pixels.

    Shapes: depth, classes, group (B, H, W); normal (B, 3, H, W) model axes; albedo (B, 3, H, W);
    rays (B, 3, H, W) right, up, forward per unit depth -> edge, lineart (B, 3, H, W).
    """
    height, width = depth.shape[-2:]
    edge, line = torch.zeros_like(depth), torch.zeros_like(depth)
    for axis in (1, 2):
        size = depth.shape[axis]
        if size < 2:
            continue
        a, b = (
            [m.narrow(m.ndim - 3 + axis, start, size - 1)
             for m in (depth, normal, albedo, classes, group, rays)]
            for start in (0, 1)
        )  # fmt: skip
        geometry, material = _discontinuity(a, b)
        # The contour belongs to the nearer side, which keeps lines one pixel wide.
        near = a[0] <= b[0]
        pairs = (
            (edge, torch.maximum(geometry, 0.6 * material), 0.4),
            (line, torch.maximum(geometry, 0.45 * material), 0.0),
        )
        for canvas, strength, other in pairs:
            _deposit(canvas, axis, 0, torch.where(near, strength, other * strength))
            _deposit(canvas, axis, 1, torch.where(near, other * strength, strength))
    scale = min(height, width) / 64.0
    edge = _soften(_thicken(edge, scale), 0.42 * scale, keep=0.9)
    line = _soften(_thicken(line, scale), 0.3 * scale, keep=0.92)
    return _grey(edge), _grey(1.0 - line)


def _discontinuity(a: list[Tensor], b: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Strengths in [0, 1] of the geometric and of the material border between pixels a and b."""
    depth_a, normal_a, albedo_a, class_a, group_a, ray_a = a
    depth_b, normal_b, albedo_b, class_b, group_b, ray_b = b
    jump = torch.minimum(
        _plane_error(depth_a, normal_a, ray_a, depth_b, ray_b),
        _plane_error(depth_b, normal_b, ray_b, depth_a, ray_a),
    )
    angle = torch.acos((normal_a * normal_b).sum(1).clamp(-1.0, 1.0))
    crease = 0.75 * _ramp(angle, math.radians(25.0), math.radians(60.0))
    outline = torch.where(class_a != class_b, 1.0, torch.where(group_a != group_b, 0.9, 0.0))
    geometry = torch.maximum(torch.maximum(_ramp(jump, 0.04, 0.1), crease), outline)
    return geometry, _ramp((albedo_a - albedo_b).abs().amax(1), 0.08, 0.35)


def _plane_error(depth: Tensor, normal: Tensor, ray: Tensor, other: Tensor, to: Tensor) -> Tensor:
    """How far (log ratio) a neighbour's depth is from the tangent plane of this pixel."""
    axes = torch.tensor([-1.0, 1.0, -1.0], device=normal.device).view(1, 3, 1, 1)
    n = normal * axes
    here, there = (n * ray).sum(1), (n * to).sum(1)
    flat = there < -1e-3
    predicted = depth * here / torch.where(flat, there, -1.0)
    error = (other / predicted.clamp_min(1e-6)).log().abs()
    return torch.where(flat & (predicted > 0), error, 10.0)


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _deposit(canvas: Tensor, axis: int, start: int, strength: Tensor) -> None:
    view = canvas.narrow(axis, start, canvas.shape[axis] - 1)
    view.copy_(torch.maximum(view, strength))


def _thicken(x: Tensor, scale: float) -> Tensor:
    radius = int(scale / 2.0)
    if radius == 0:
        return x
    return torch.nn.functional.max_pool2d(x.unsqueeze(1), 2 * radius + 1, 1, radius).squeeze(1)


def _soften(x: Tensor, sigma: float, keep: float) -> Tensor:
    """Gaussian halo around lines whose own strength stays at `keep`."""
    radius = max(1, math.ceil(2.0 * sigma))
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    total = sum(weights)
    blurred = x
    for axis in (1, 2):
        pad = (0, 0, radius, radius) if axis == 1 else (radius, radius, 0, 0)
        padded = torch.nn.functional.pad(blurred.unsqueeze(1), pad, mode="replicate").squeeze(1)
        taps = [padded.narrow(axis, i, x.shape[axis]) * (w / total) for i, w in enumerate(weights)]
        blurred = sum(taps[1:], taps[0])
    return torch.maximum(x * keep, blurred).clamp(0.0, 1.0)


def _grey(x: Tensor) -> Tensor:
    return x.unsqueeze(1).expand(-1, 3, -1, -1)
