"""The picture of each domain: into the network, and out of it.

Shapes: B batch, H W pixels.
Source: github VIPL-GENUN/Jodi @ c21bdcb, model/postprocess.
"""

import torch
from torch import Tensor

from ..domains import Domain, find_domain
from .checks import check_choice, check_picture, clamp_decoded, repeat_gray
from .depth import make_depth_map
from .normals import make_normal_map
from .segmentation import colorize, find_classes


def postprocess(of: str | int | Domain, x: Tensor) -> Tensor:
    """The picture of a domain as the released model shows it.

    Shapes: x (B, 3, H, W), decoder output in [-1, 1] or beyond -> (B, 3, H, W) float32 in [0, 1].
    color and pose are shifted to [0, 1]; gray is the mean over RGB; depth is stretched per picture,
    near white; normals have unit length, in the model's axes; classes get their exact colours.
    Raises: JodiError for an unknown domain, ImageError for a wrong shape or values not finite.
    """
    kind = (of if isinstance(of, Domain) else find_domain(of)).kind
    if kind == "depth":
        return repeat_gray(make_depth_map(x))
    if kind == "normal":
        return make_normal_map(x)
    if kind == "palette":
        return colorize(find_classes(x))
    picture = (clamp_decoded(x) + 1) / 2
    return repeat_gray(picture.mean(dim=1)) if kind == "gray" else picture


def preprocess(of: str | int | Domain, picture: Tensor) -> Tensor:
    """Network input of a domain: (B, 3 or 1, H, W) in [0, 1] -> (B, 3, H, W) float32 in [-1, 1].

    Every domain is shown to the network as the picture it is; one channel is repeated.
    Raises: ImageError for a wrong shape, or values so far outside [0, 1] that they must be of
    another range.
    """
    name = (of if isinstance(of, Domain) else find_domain(of)).name
    return check_picture(picture, name).mul(2).sub_(1)


def read_lineart(picture: Tensor, lines: str = "white") -> Tensor:
    """Line art as dark lines on white.

    lines: "white" for white lines on black (ControlNet preprocessors draw so) which is inverted,
    "black" for what is right already, "auto" to take the more frequent side as the background.
    Raises: ImageError for a wrong picture.
    """
    check_choice("lines", lines, ("white", "black", "auto"))
    picture = check_picture(picture, "line art")
    if lines == "auto":
        dark = (picture < 0.5).float().mean((1, 2, 3), keepdim=True) > 0.5
        return torch.where(dark, 1 - picture, picture)
    return 1 - picture if lines == "white" else picture
