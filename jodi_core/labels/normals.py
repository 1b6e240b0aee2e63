"""Normals: the model's convention, and those of other programs.

Shapes: B batch, H W pixels.
Source of the formulas: github VIPL-GENUN/Jodi @ c21bdcb, model/postprocess.
"""

import torch
from torch import Tensor

from .checks import check_choice, check_picture, clamp_decoded

# Signs that turn the model's axes (+X picture left, +Y up, +Z to the viewer) into others.
NORMAL_AXES: dict[str, tuple[float, float, float]] = {
    "model": (1.0, 1.0, 1.0),
    "opengl": (-1.0, 1.0, 1.0),  # +X right, +Y up
    "directx": (-1.0, -1.0, 1.0),  # +X right, +Y down
}

NORMAL_CONVENTIONS = ("jodi", "opengl", "directx")


def find_normals(x: Tensor) -> Tensor:
    """Unit vectors in the model's axes: +X picture left, +Y up, +Z to the viewer.

    Shapes: x (B, 3, H, W) decoder output -> (B, 3, H, W) float32, length 1 (0 where x is 0).
    """
    x = clamp_decoded(x)
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)


def make_normal_map(x: Tensor, convention: str = "model") -> Tensor:
    """Normals as a picture: (B, 3, H, W) decoder output -> (B, 3, H, W) float32 in [0, 1].

    convention: "model" as released (red high facing picture left, green up, blue to the viewer),
    "opengl" (red high facing right) or "directx" (red right, green down). No direction is grey.
    """
    return (find_normals(x) * _axes(convention, x.device) + 1) / 2


def convert_normals(picture: Tensor, source: str = "jodi", target: str = "opengl") -> Tensor:
    """Normals (B, 3, H, W) of one convention, redrawn in another; lengths become 1.

    jodi: red is high facing picture left, green up, blue towards the camera. opengl: red right,
    green up. directx: red right, green down. Grey and black, which mean no direction, become grey.
    Raises: ImageError for a wrong picture, JodiError for an unknown convention.
    """
    for what, value in (("source", source), ("target", target)):
        check_choice(what, value, NORMAL_CONVENTIONS)
    axes = {"jodi": "model"}
    ours = read_normals(picture, axes.get(source, source))
    return make_normal_map(ours * 2 - 1, axes.get(target, target))


def read_normals(picture: Tensor, convention: str = "opengl") -> Tensor:
    """Normal picture in the model's axes from one drawn in another convention.

    convention: "opengl" (red high facing right, green up; MoGe draws so), "directx" (green down)
    or "model" (already right). Lengths are set to 1; grey and pure black, which other programs
    use for "nothing here", become grey.
    Raises: ImageError for a wrong picture, JodiError for an unknown convention.
    """
    picture = check_picture(picture, "normal map")
    vectors = picture.mul(2).sub_(1).masked_fill_((picture == 0).all(dim=1, keepdim=True), 0.0)
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # 8-bit pictures cannot hold exact grey: 127 and 128 are both half a step off
    vectors = torch.where(length < 0.05, 0.0, vectors / length.clamp_min(1e-12))
    return (vectors * _axes(convention, picture.device) + 1) / 2


def _axes(convention: str, device) -> Tensor:
    check_choice("convention", convention, tuple(NORMAL_AXES))
    return torch.tensor(NORMAL_AXES[convention], device=device)[None, :, None, None]
