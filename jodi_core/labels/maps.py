"""The picture of each domain: into the network, and out of it.

Shapes: B batch, H W pixels.
Source: github VIPL-GENUN/Jodi @ c21bdcb, model/postprocess.
"""

from torch import Tensor

from ..domains import Domain, find_domain
from .checks import check_picture, clamp_decoded, repeat_gray
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
