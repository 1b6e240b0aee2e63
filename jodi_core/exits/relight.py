"""A picture under a new light, from albedo and normals alone: Lambert's law, no shadows.

Shapes: B pictures, H W pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from ...kit.pictures.light import linear_to_srgb, srgb_to_linear
from ..labels.checks import check_picture


def find_light_direction(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Unit vector towards a light: +X picture right, +Y up, +Z to the viewer.

    azimuth: degrees around the vertical; 0 is behind the viewer, 90 to the right, 180 behind the
    scene. elevation: degrees above the horizon.
    """
    around, up = math.radians(azimuth), math.radians(elevation)
    return math.sin(around) * math.cos(up), math.sin(up), math.cos(around) * math.cos(up)


def read_color(text: str) -> tuple[float, float, float]:
    """Linear light of a colour written "#rrggbb" or "#rgb" (sRGB).

    Raises: JodiError for any other text.
    """
    digits = text.strip().removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    try:
        if len(digits) != 6 or not digits.isalnum():
            raise ValueError
        values = torch.tensor([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    except ValueError:
        raise JodiError(f"expected a colour such as #ffd0a0, got {text!r}") from None
    red, green, blue = srgb_to_linear(values.double()).tolist()
    return red, green, blue


def relight(
    albedo: Tensor,
    normals: Tensor,
    direction: Sequence[float],
    color: Sequence[float] = (1.0, 1.0, 1.0),
    ambient: Sequence[float] = (0.2, 0.2, 0.2),
    from_above: float = 0.2,
    unlit: Tensor | None = None,
) -> Tensor:
    """The picture in sRGB: albedo times (ambient + colour times the cosine to the light).

    Shapes: albedo (B, 3, H, W) sRGB and normals (B, 3, H, W) in the model's axes, both in [0, 1]
    -> (B, 3, H, W) float32 in [0, 1], clipped as a picture is. Either may have one row for all.
    direction: towards the light, +X picture right, +Y up, +Z to the viewer; any length but 0.
    color, ambient: linear light, red green blue. from_above: how much of the ambient light comes
    from above: it is ambient times (1 - from_above + from_above times the normal's up).
    unlit: (B, H, W); where it is 1 the albedo is shown as it is (sky, lamps).
    Raises: ImageError for pictures of different sizes; JodiError for a direction of length 0.
    """
    albedo, normals = check_picture(albedo, "albedo"), check_picture(normals, "normal")
    if albedo.shape[-2:] != normals.shape[-2:]:
        raise ImageError(
            f"albedo is {albedo.shape[-2]} x {albedo.shape[-1]}, the normals are "
            f"{normals.shape[-2]} x {normals.shape[-1]}; they must be maps of one picture"
        )
    light = albedo.new_tensor(list(direction))
    if not float(light.norm()) > 0:
        raise JodiError("the light has no direction: all three numbers are 0")
    light = light / light.norm() * light.new_tensor([-1.0, 1.0, 1.0])  # the model's +X is left
    vectors = normals * 2 - 1
    vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(1e-6)
    cosine = (vectors * light.view(1, 3, 1, 1)).sum(1, keepdim=True).clamp_min(0)
    shade = 1 - from_above + from_above * vectors[:, 1:2]
    lit = _column(ambient, albedo) * shade + _column(color, albedo) * cosine
    if unlit is not None:
        if unlit.shape[-2:] != albedo.shape[-2:]:
            raise ImageError(
                f"the unlit mask is {unlit.shape[-2]} x {unlit.shape[-1]}, the maps are "
                f"{albedo.shape[-2]} x {albedo.shape[-1]}; give a mask of their size"
            )
        lit = torch.lerp(lit, torch.ones_like(lit), unlit.to(lit)[:, None].clamp(0, 1))
    return linear_to_srgb(srgb_to_linear(albedo) * lit)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(list(values)).view(1, 3, 1, 1)
