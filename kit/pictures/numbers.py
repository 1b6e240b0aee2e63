"""Files of one channel as the numbers they store: depths, class numbers."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from .files import name_source, open_picture

_PACKED = {"L;2": 3, "L;4": 15}
_LOW = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_HIGH = {
    f"{mode};16{order}": f"{mode};16{low}"
    for mode in ("RGB", "RGBX", "RGBA")
    for order, low in _LOW.items()
}
"""How Pillow reads the upper bytes of 16-bit colours, and how it reads the lower ones instead."""
_PAIRS = "LA;16B"


@dataclass(frozen=True)
class Numbers:
    """What a file of one channel stores: depths or class numbers, for example.

    values: (1, H, W) int64, or float32 as they are, NaN and infinity included. top: the largest
    number that its integers can be, None for floats. indexed: they are places in a palette of
    colours.
    """

    values: Tensor
    top: int | None
    indexed: bool = False


def load_numbers(source: str | os.PathLike | bytes) -> Numbers | None:
    """The numbers of a file of one channel as they are stored, upright.

    Opaque PNGs and TIFFs of 16 bits whose channels are equal count as one channel. None for
    pictures in colours or with opacity: `load_image` reads those. Profiles are not applied:
    numbers are no colours.
    Raises: ImageError as `load_image`, but for values outside 0..1.
    """
    name, stored = name_source(source), []

    def look(image: ImageFile.ImageFile) -> None:
        stored.extend(_storage(image))

    image = open_picture(source, name, converted=False, prepare=look)
    if isinstance(image, np.ndarray):
        plane = image if image.shape[2] == 1 else None
        return None if plane is None else Numbers(torch.from_numpy(plane[None, :, :, 0]), None)
    mode, most = stored
    if mode in _HIGH or mode == _PAIRS:
        plane = _wide_gray(source, name, image, mode)
        return None if plane is None else Numbers(plane, 65535)
    if image.mode not in ("1", "L", "P", "F") and not image.mode.startswith("I"):
        return None
    if image.mode in ("L", "1") and "transparency" in image.info:
        return None  # one of its tones is no tone but opacity
    plane = np.asarray(image)
    if image.mode == "F":
        return Numbers(torch.from_numpy(plane.astype(np.float32))[None], None)
    values = torch.from_numpy(plane.astype(np.int64))[None]
    top = {"1": 1, "L": 255, "P": 255}.get(image.mode)
    if top is None:
        top = 65535 if int(plane.max()) <= 65535 else 2**32 - 1
    if most is not None and most < top <= 65535:  # Pillow stretches them to whole bytes
        values, top = (values * most + top // 2) // top, most
    return Numbers(values, top, image.mode == "P")


def _storage(image: ImageFile.ImageFile) -> tuple[str, int | None]:
    """How the file stores its pixels, in Pillow's word, and the largest number where it says so."""
    for _, _, _, how in image.tile[:1]:
        mode, *more = how if isinstance(how, tuple) else (how,)
        if image.format == "PPM" and more and isinstance(more[-1], int) and more[-1] > 1:
            return str(mode), more[-1]
        return str(mode), _PACKED.get(str(mode))
    return image.mode, None


def _wide_gray(source, name: str, image: Image.Image, mode: str) -> Tensor | None:
    """(1, H, W) int64 of a 16-bit PNG or TIFF whose colours are equal and opaque, else None.

    Pillow keeps 8 of 16 bits where there is more than one channel; the others are read apart.
    """

    def swap(image: ImageFile.ImageFile) -> None:
        if mode == _PAIRS:  # four bytes: two of grey and two of opacity
            image._mode = "RGBA"
        low = "RGBA" if mode == _PAIRS else _HIGH[mode]
        # a plain tuple before Pillow 11
        tiles: list[Any] = image.tile
        args = [low if isinstance(t[3], str) else (low, *t[3][1:]) for t in tiles]
        image.tile = [  # pyright: ignore[reportAttributeAccessIssue]
            t._replace(args=a) if hasattr(t, "_replace") else (*t[:3], a)
            for t, a in zip(tiles, args, strict=True)
        ]

    if "transparency" in image.info:
        return None
    other = open_picture(source, name, converted=False, prepare=swap)
    low = np.asarray(other).astype(np.int64)
    if mode == _PAIRS:
        gray, opacity = low[..., :1] * 256 + low[..., 1:2], low[..., 2:]
        opaque = bool((opacity == 255).all())
    else:
        both = np.asarray(image).astype(np.int64) * 256 + low
        gray, opaque = both[..., :3], bool((both[..., 3:] == 65535).all())
    if not opaque or not (gray == gray[..., :1]).all():
        return None
    return torch.from_numpy(gray[..., 0].copy())[None]
