"""Maps drawn as ControlNets of other models were shown them in training.

Depth near white; lines white on black; normals blue to the viewer, red to picture left, green up
(ControlNet 1.1's, which are Jodi's own); classes in ADE20K's colours; OpenPose as it is.
Shapes: B pictures, H W pixels.
"""

import torch
from torch import Tensor

from ..domains import find_domain
from ..labels.checks import check_choice, check_picture
from ..labels.depth import stretch
from ..labels.normals import convert_normals
from ..labels.segmentation import draw_segmentation, read_classes
from .depth import read_depth_plane

DEPTH_WAYS = ("v2 style", "min max", "raw")
"""In the order of the node's list, which saved graphs depend on."""
LINE_WAYS = ("white on black", "black on white")
V2_SHARES = (0.01, 0.99)
"""Depth Anything's renderings leave out one pixel in a hundred at either end."""


def draw_for_controlnet(
    name: str,
    picture: Tensor,
    depth: str = DEPTH_WAYS[0],
    lines: str = LINE_WAYS[0],
    normals: str = "jodi",
    classes: str = "ade20k",
) -> Tensor:
    """A decoded map of domain `name` as a ControlNet expects it: (B, 3, H, W) float32 in [0, 1].

    depth: "v2 style" stretches the middle 98 % of the values of each picture to [0, 1], "min max"
    all of them, "raw" leaves them. lines: of line art and edges. normals, classes: the convention
    and the colours wanted. Pictures, albedo and skeletons stay as they are.
    Raises: JodiError for an unknown domain or choice, ImageError for a wrong picture.
    """
    check_choice("depth", depth, DEPTH_WAYS)
    check_choice("lines", lines, LINE_WAYS)
    kind = find_domain(name).kind
    picture = check_picture(picture, name)
    if kind == "depth":
        return _depth(read_depth_plane(picture), depth)[:, None].expand(-1, 3, -1, -1).contiguous()
    if kind == "gray":
        bright_lines = find_domain(name).name == "edge"  # line art is dark on white, edges bright
        return picture if bright_lines == (lines == LINE_WAYS[0]) else 1 - picture
    if kind == "normal":
        return convert_normals(picture, "jodi", normals)
    if kind == "palette":
        return draw_segmentation(read_classes(picture), classes)
    return picture


def _depth(plane: Tensor, way: str) -> Tensor:
    if way == "raw":
        return plane
    if way == "min max":
        return stretch(plane)
    result = []
    for values in plane:
        low, high = (_quantile(values, share) for share in V2_SHARES)
        flat = bool(high - low <= 1e-6)
        result.append(stretch(values[None])[0] if flat else ((values - low) / (high - low)))
    return torch.stack(result).clamp(0, 1)


def _quantile(values: Tensor, share: float) -> Tensor:
    """As numpy's, between the two nearest values; torch's own takes 16 million values at most."""
    flat = values.flatten().sort().values
    place = share * (len(flat) - 1)
    lower = int(place)
    upper = min(lower + 1, len(flat) - 1)
    return torch.lerp(flat[lower], flat[upper], place - lower)
