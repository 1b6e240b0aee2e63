"""Do the maps of one sample fit each other? Measures that ask no network.

Each one takes pictures in [0, 1], (B, 3, H, W), as the model returns them, and gives numbers per
image. What a number means shows only beside the same measure on the exact labels (the best that can
be expected) and on maps of different scenes put together (no consistency at all).
"""

import math

import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ...kit.scenes.captions import COLOR_TOLERANCE, COLOR_WORDS, read_caption
from ...kit.scenes.render import linear_to_srgb, srgb_to_linear
from . import metrics

MEAN_TAN_HALF = 0.55
"""Tangent of half the view across the shorter side, assumed where the camera is unknown: the middle
of what the scenes use (0.42 to 0.72)."""

OFFSETS = (0.0, 0.01, 0.03, 0.1, 0.25, 0.4, 0.6, 0.9)
"""Disparities tried for the darkest value of a depth map, in units of the map's own range: 0 where
the sky is seen, 0.24 to 1.1 in the rooms of the scenes. A wide-open choice would prove nothing: far
from zero every map is a flat wall."""

MIN_SHARE = 0.005
"""Share of the picture that a class, or a colour on it, must cover to count as shown: 20 pixels at
64 x 64."""


def derive_normals(disparity: Tensor, offset: float, tan_half: Tensor | float) -> Tensor:
    """Normals of the surface that a disparity map describes, in the model's axes.

    Depth along the viewing axis is 1 / (disparity + offset); its scale does not change normals, so
    the offset is all that a map stretched to [0, 1] leaves open. On each axis the neighbour with
    the smaller step in depth is used, which keeps the surface on one side of a border.

    Shapes: (B, H, W), tan_half (B,) or a number: tangent of half the view across the shorter side
    -> (B, 3, H, W) unit float32: +X left, +Y up, +Z to the viewer.
    """
    height, width = disparity.shape[-2:]
    z = 1.0 / (disparity.float() + offset).clamp(min=1e-3)
    # Picture plane at distance 1: x grows to the right, y upwards, pixel centres.
    half = torch.as_tensor(tan_half, dtype=torch.float32, device=disparity.device)
    step = 2 * half.expand(len(disparity)).view(-1, 1, 1) / min(height, width)
    ys = (torch.arange(height, device=z.device).float() + 0.5 - height / 2).view(1, -1, 1)
    xs = (torch.arange(width, device=z.device).float() + 0.5 - width / 2).view(1, 1, -1)
    points = torch.stack([xs * step * z, -ys * step * z, z], dim=1)
    along_x, along_y = _small_step(points, 3), _small_step(points, 2)
    # x right, y up, z away is a left-handed frame seen from the camera; rows run downwards.
    normal = torch.linalg.cross(along_x, along_y, dim=1)
    normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-12)
    facing = torch.where((normal * points).sum(1, keepdim=True) > 0, -normal, normal)
    return facing * facing.new_tensor([-1.0, 1.0, -1.0]).view(1, 3, 1, 1)


def compare_normal_with_depth(
    normal: Tensor, depth: Tensor, valid: Tensor, tan_half: Tensor | float = MEAN_TAN_HALF
) -> Tensor:
    """Mean angle in degrees between a normal map and the normals of its own depth map.

    The one unknown of a stretched depth map, the disparity of its darkest value, is chosen per
    image from `OFFSETS` for the smallest mean angle; nothing else is fitted and no truth is used.

    Shapes: two pictures (B, 3, H, W), valid (B, H, W) bool, False where there is no surface
    -> (B,) float64, NaN where nothing is valid.
    """
    vectors = normal * 2 - 1
    disparity = depth.mean(dim=1)
    best = torch.full((len(depth),), math.inf, dtype=torch.float64, device=depth.device)
    for offset in OFFSETS:
        angles = metrics.angular_errors(derive_normals(disparity, offset, tan_half), vectors)
        best = torch.minimum(best, metrics.masked_mean(angles, valid).nan_to_num(nan=math.inf))
    return torch.where(torch.isfinite(best), best, math.nan)


def compare_picture_with_albedo(
    picture: Tensor, albedo: Tensor, normal: Tensor, classes: Tensor
) -> Tensor:
    """PSNR in dB between a picture and its own albedo under the best smooth light.

    Per class region and colour channel, shading is fitted by least squares in linear light as a
    linear function of the normal (four coefficients: ambient and one direction), so texture and
    borders can only come from the albedo. A grey albedo gives what the light alone explains.

    Shapes: pictures (B, 3, H, W) in [0, 1] sRGB, classes (B, H, W) indices -> (B,) float64.
    """
    light = srgb_to_linear(picture.double()).flatten(2)
    base = srgb_to_linear(albedo.double()).flatten(2)
    vectors = torch.nn.functional.normalize(normal.double() * 2 - 1, dim=1, eps=1e-12).flatten(2)
    terms = torch.cat([torch.ones_like(vectors[:, :1]), vectors], dim=1)
    fitted = torch.zeros_like(light)
    for index in classes.unique().tolist():
        inside = (classes == index).flatten(1).double()
        for channel in range(3):
            design = terms * base[:, channel : channel + 1]
            shading = _fit(design, light[:, channel], inside)
            fitted[:, channel] += inside * shading
    rendered = linear_to_srgb(fitted.clamp(0, 1)).view_as(picture)
    return metrics.psnr(rendered, picture)


def check_captions(
    captions: list[str], classes: Tensor, albedo: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How many named classes are in the segmentation, and how many named colours on them.

    A class is shown when it covers `MIN_SHARE` of the picture; a colour is shown when as many
    pixels of its class have it in the albedo, every channel within `COLOR_TOLERANCE`. "Unlabeled"
    things have no class of their own and are left out.

    Shapes: B captions, classes (B, H, W), albedo (B, 3, H, W) in [0, 1]
    -> four (B,) float64: classes found, classes named, colours found, colours named.
    """
    counts = torch.zeros(4, len(captions), dtype=torch.float64)
    for b, caption in enumerate(captions):
        facts = [f for f in read_caption(caption) if SEGMENTATION_CLASSES[f[2]] != "unlabeled"]
        for index in {f[2] for f in facts}:
            share = (classes[b] == index).double().mean().item()
            counts[0, b] += share >= MIN_SHARE
            counts[1, b] += 1
        for color, _, index in facts:
            if color is not None:
                counts[2, b] += _shows_color(albedo[b], classes[b] == index, color)
                counts[3, b] += 1
    return counts[0], counts[1], counts[2], counts[3]


def _shows_color(albedo: Tensor, region: Tensor, color: str) -> bool:
    wanted = albedo.new_tensor(COLOR_WORDS[color]).view(3, 1, 1)
    near = ((albedo - wanted).abs() <= COLOR_TOLERANCE).all(dim=0)
    return bool((near & region).double().mean() >= MIN_SHARE)


def _fit(design: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Least-squares fit of target by the rows of design: (B, 4, N), (B, N), (B, N) -> (B, N)."""
    weighted = design * weight.unsqueeze(1)
    gram = weighted @ design.transpose(1, 2)
    # A trace of ridge, relative to the region's size, keeps flat regions solvable.
    ridge = 1e-6 * weight.sum(1).clamp(min=1.0).view(-1, 1, 1)
    gram = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    coefficients = torch.linalg.solve(gram, (weighted * target.unsqueeze(1)).sum(-1))
    return (coefficients.unsqueeze(-1) * design).sum(1)


def _small_step(points: Tensor, axis: int) -> Tensor:
    """Difference to the next or the previous point along an axis, whichever is nearer in depth."""
    forward = torch.diff(points, dim=axis)
    size = points.shape[axis]
    first, last = forward.narrow(axis, 0, 1), forward.narrow(axis, size - 2, 1)
    after, before = torch.cat([forward, last], axis), torch.cat([first, forward], axis)
    nearer = after[:, 2:].abs() <= before[:, 2:].abs()
    return torch.where(nearer, after, before)
