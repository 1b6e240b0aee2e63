"""All maps of a picture as the layers of one OpenEXR file, as compositing programs expect them.

Pictures become linear light, normals signed vectors, depth a plane Z, classes Cryptomatte.
Shapes: B pictures, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from ...kit.pictures.cryptomatte import make_mattes
from ...kit.pictures.light import srgb_to_linear
from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..labels.checks import check_picture
from ..labels.normals import NORMAL_AXES, NORMAL_CONVENTIONS
from ..labels.segmentation import read_classes
from .depth import check_range, find_distances, read_depth_plane

Z_WAYS = ("near high", "far high", "distance")
"""In the order of the node's list, which saved graphs depend on."""

LAYERS = {
    "image": "R, G, B: the picture in linear light",
    "albedo": "albedo.R, .G, .B in linear light",
    "normal": "N.X, .Y, .Z from -1 to 1",
    "depth": "Z",
    "edge": "edge.Y",
    "lineart": "lineart.Y",
    "openpose": "pose.R, .G, .B as drawn",
    "segmentation": "class.id, and Cryptomatte in classes00",
}
"""What becomes of each domain."""


@dataclass(frozen=True)
class LayerOptions:
    """How maps are written. normals: a convention of `normals.NORMAL_CONVENTIONS`.

    z: "near high" keeps the relative depth (1 near, 0 far), "far high" is 1 minus it, "distance"
    runs from near to far, in their unit (`depth.distances`; far 0 is infinitely far).
    Raises: JodiError for an unknown choice, or near and far out of order.
    """

    normals: str = "opengl"
    z: str = "near high"
    near: float = 1.0
    far: float = 0.0

    def __post_init__(self):
        if self.normals not in NORMAL_CONVENTIONS:
            raise JodiError(f"normals is {self.normals!r}; use {', '.join(NORMAL_CONVENTIONS)}")
        if self.z not in Z_WAYS:
            raise JodiError(f"z is {self.z!r}; use one of {', '.join(Z_WAYS)}")
        if self.z == "distance":
            check_range(self.near, self.far)


def make_layers(
    pictures: Mapping[str, Tensor], options: LayerOptions | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str | float]]:
    """Channels and header entries of the file of one picture.

    Shapes: pictures, domain name -> (3 or 1, H, W) in [0, 1], all of one size, drawn as the model
    draws them -> full channel name -> (H, W) float32.
    Raises: ImageError when there is nothing to write, or sizes differ; JodiError for a domain
    that has no layer.
    """
    options = options or LayerOptions()
    if not pictures:
        raise ImageError("there is nothing to write; connect at least one picture")
    sizes = {name: tuple(p.shape[-2:]) for name, p in pictures.items()}
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name} {w} x {h}" for name, (h, w) in sizes.items())
        raise ImageError(
            f"the layers of one file have one size, these differ: {listing}; decode all with "
            "original_frame on, or resize them"
        )
    channels: dict[str, np.ndarray] = {}
    header: dict[str, str | float] = {"jodi/layers": ", ".join(pictures)}
    for name, picture in pictures.items():
        if name not in LAYERS:
            raise JodiError(f"{name} has no layer in these files; those are {', '.join(LAYERS)}")
        found, told = _LAYERS[name](picture[None], options)
        channels |= found
        header |= told
    return channels, header


def _image(picture: Tensor, _: LayerOptions) -> tuple[dict, dict]:
    return _rgb("", srgb_to_linear(check_picture(picture, "image"))), {
        "jodi/color": "linear light, sRGB primaries"
    }


def _albedo(picture: Tensor, _: LayerOptions) -> tuple[dict, dict]:
    return _rgb("albedo.", srgb_to_linear(check_picture(picture, "albedo"))), {}


def _normal(picture: Tensor, options: LayerOptions) -> tuple[dict, dict]:
    vectors = check_picture(picture, "normal") * 2 - 1
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    vectors = torch.where(length < 0.05, 0.0, vectors / length.clamp_min(1e-12))
    axes = NORMAL_AXES["model" if options.normals == "jodi" else options.normals]
    vectors = vectors * vectors.new_tensor(axes).view(1, 3, 1, 1)
    about = {
        "jodi": "+X picture left, +Y up, +Z to the viewer",
        "opengl": "+X picture right, +Y up, +Z to the viewer",
        "directx": "+X picture right, +Y down, +Z to the viewer",
    }
    planes = {f"N.{axis}": _array(vectors[0, i]) for i, axis in enumerate("XYZ")}
    return planes, {"jodi/N/axes": f"{options.normals}: {about[options.normals]}"}


def _depth(picture: Tensor, options: LayerOptions) -> tuple[dict, dict]:
    plane = read_depth_plane(picture)
    told: dict[str, str | float] = {"jodi/Z/polarity": options.z}
    if options.z == "distance":
        plane = find_distances(plane, options.near, options.far)
        told |= {"jodi/Z/near": float(options.near), "jodi/Z/far": float(options.far)}
        told["jodi/Z/unit"] = "that of near and far; the model's depth has none"
    else:
        plane = 1 - plane if options.z == "far high" else plane
        told["jodi/Z/unit"] = "none: relative, like 1 / distance up to scale and offset"
    known = plane[plane.isfinite()]
    told["jodi/Z/min"] = float(known.min()) if len(known) else 0.0
    told["jodi/Z/max"] = float(known.max()) if len(known) else 0.0
    return {"Z": _array(plane[0])}, told


def _gray(name: str):
    def layer(picture: Tensor, _: LayerOptions) -> tuple[dict, dict]:
        return {f"{name}.Y": _array(read_depth_plane(check_picture(picture, name))[0])}, {}

    return layer


def _pose(picture: Tensor, _: LayerOptions) -> tuple[dict, dict]:
    return _rgb("pose.", check_picture(picture, "openpose")), {}


def _classes(picture: Tensor, _: LayerOptions) -> tuple[dict, dict]:
    index = read_classes(picture.expand(-1, 3, -1, -1))[0].cpu().numpy()
    channels, told = make_mattes("classes", index.astype(np.int64), SEGMENTATION_CLASSES)
    listing = ", ".join(f"{i} {name}" for i, name in enumerate(SEGMENTATION_CLASSES))
    return {"class.id": index.astype(np.float32), **channels}, {**told, "jodi/class/names": listing}


_LAYERS = {
    "image": _image,
    "albedo": _albedo,
    "normal": _normal,
    "depth": _depth,
    "edge": _gray("edge"),
    "lineart": _gray("lineart"),
    "openpose": _pose,
    "segmentation": _classes,
}


def _rgb(prefix: str, picture: Tensor) -> dict[str, np.ndarray]:
    return {f"{prefix}{letter}": _array(picture[0, i]) for i, letter in enumerate("RGB")}


def _array(plane: Tensor) -> np.ndarray:
    return plane.detach().to(torch.float32).cpu().contiguous().numpy()
