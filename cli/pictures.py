"""Given pictures into the model's frame, results back into theirs and onto the disk."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..jodi_core.domains import domain
from ..jodi_core.labels import foreign
from ..jodi_core.labels import maps as labels
from ..kit.errors import ImageError
from ..kit.pictures.files import load_image, save_png
from ..kit.pictures.frame import Frame, fit, restore
from ..kit.pictures.palettes import SEGMENTATION_CLASSES, SEGMENTATION_PALETTE
from ..kit.pictures.sizes import snap_size
from .options import Size

logger = logging.getLogger("jodi")

INDEX_ENDING = "_segmentation_index.png"
MAX_RATIO = 8
"""Longest side over shortest that a size of the model's own choice may have."""

SAME_PROPORTIONS = 0.02
NOTED_CROP = 0.05

# What shows through where a picture is transparent: nothing, in each domain's own way.
_BACKGROUNDS = {
    **dict.fromkeys(("edge", "depth", "segmentation", "openpose"), (0.0, 0.0, 0.0)),
    "normal": (0.5, 0.5, 0.5),
}
_WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Maps:
    """How depth and normal maps are drawn: "white" or "black"; "model", "opengl" or "directx"."""

    near: str = "white"
    normals: str = "model"


def read_picture(name: str, path: Path, maps: Maps) -> Tensor:
    """The picture of a domain as the model draws it, (1, 3, H, W) float32 in [0, 1].

    Class maps come as colours or as class numbers. Raises: ImageError for unreadable files.
    """
    picture, _ = load_image(path, background=_BACKGROUNDS.get(name, _WHITE))
    kind = domain(name).kind
    if kind == "palette":
        return labels.colorize(_read_classes(path, picture))
    if kind == "normal" and maps.normals != "model":
        return foreign.normal_from_foreign(picture, maps.normals)
    if kind == "depth" and maps.near != "white":
        return foreign.depth_from_foreign(picture, maps.near)
    if name == "lineart" and float(picture.mean()) < 0.5:
        logger.warning("%s is mostly dark; the model's line art is dark lines on white", path)
    if name == "edge" and float(picture.mean()) > 0.5:
        logger.warning("%s is mostly bright; the model's edges are bright lines on black", path)
    return picture


def _read_classes(path: Path, picture: Tensor) -> Tensor:
    """(1, H, W) uint8 from a picture in the palette, or in class numbers as its grey values."""
    numbers = (picture * 255).round()
    grey = bool((picture == picture[:, :1]).all())
    if grey and float(numbers.max()) < len(SEGMENTATION_CLASSES):
        return numbers[:, 0].to(torch.uint8)
    index = labels.nearest_color(picture, SEGMENTATION_PALETTE)
    distance = (picture - labels.colorize(index)).abs().amax(dim=1)
    foreign = float((distance > 0.2).float().mean())
    if foreign > 0.1:
        logger.warning(
            "%s: %d %% of its pixels are in none of the model's 12 class colours; each is taken "
            "for the nearest (`jodi info` lists the colours)",
            path,
            round(100 * foreign),
        )
    return index


def job_size(
    choice: Size, original: tuple[int, int] | None, native: tuple[int, int], factor: int
) -> tuple[int, int]:
    """(height, width) the model works at for a picture of `original` size, or for none."""
    if isinstance(choice, tuple):
        return snap_size(*choice, factor)
    height, width = (choice, choice) if choice else native
    if original is None:
        return snap_size(height, width, factor)
    longest = max(original)
    tall, wide = (max(side, longest / MAX_RATIO) for side in original)
    return _size_near(tall / wide, height * width, factor)


def _size_near(ratio: float, pixels: int, factor: int) -> tuple[int, int]:
    """Multiples of `factor` with about this height/width and so many pixels.

    Where the factor is coarse against the size, rounding each side alone would cut off up to a
    seventh of a picture; a few pixels more or fewer matter less.
    """
    middle = math.sqrt(pixels * ratio) / factor

    def cost(rows: int, columns: int) -> float:
        cut = 1 - math.exp(-abs(math.log(rows / columns / ratio)))
        return cut + 0.25 * abs(math.log(rows * columns * factor**2 / pixels))

    sizes = (
        (rows, columns)
        for rows in range(max(1, math.floor(0.75 * middle)), math.ceil(1.3 * middle) + 1)
        for columns in {max(1, math.floor(rows / ratio)), max(1, math.ceil(rows / ratio))}
    )
    rows, columns = min(sizes, key=lambda size: cost(*size))
    return rows * factor, columns * factor


def fit_all(
    pictures: Mapping[str, Tensor], size: tuple[int, int], mode: str, stem: str
) -> tuple[dict[str, Tensor], Frame]:
    """All given pictures at one size, and the frame of the first for the way back.

    Raises: ImageError when their proportions differ: they cannot show the same view then.
    """
    shapes = {name: tuple(picture.shape[-2:]) for name, picture in pictures.items()}
    first, (height, width) = next(iter(shapes.items()))
    for name, (h, w) in shapes.items():
        if abs(w * height / (h * width) - 1) > SAME_PROPORTIONS:
            raise ImageError(
                f"{first} is {width}x{height} and {name} {w}x{h}: their proportions differ, so "
                "they do not show the same view; crop them to the same frame first"
            )
    fitted, frames = {}, {}
    for name, picture in pictures.items():
        palette = domain(name).kind == "palette"
        fitted[name], frames[name] = fit(picture, size, mode, palette=palette)
    frame = frames[first]
    lost = 1 - frame.height * frame.width / (frame.resized_h * frame.resized_w)
    if mode == "crop" and lost > NOTED_CROP:
        logger.warning(
            "%s: %d %% of the picture lies outside %dx%d and is not seen; `--fit pad` keeps all",
            stem,
            round(100 * lost),
            size[1],
            size[0],
        )
    return fitted, frame


def save_result(
    name: str, raw: Tensor, frame: Frame | None, start: Path, settings: dict, maps: Maps
) -> list[Path]:
    """Write the picture of one generated domain and return the files: `<start>_<name>.png`.

    raw: (1, 3, H, W) decoder output. frame: of the original to lay it back into, or None. Depth has
    16 bits; segmentation comes in colours and, in a second file, as class numbers.
    """
    kind, path = domain(name).kind, start.with_name(f"{start.name}_{name}.png")
    text = {"jodi": json.dumps({**settings, "domain": name})}
    if kind == "palette":
        index = labels.segmentation_index(raw)[:, None]
        index = index if frame is None else restore(index, frame, palette=True)
        numbers = start.with_name(start.name + INDEX_ENDING)
        save_png(path, labels.colorize(index[:, 0])[0], text=text)
        save_png(numbers, index[0, 0], text=text)
        return [path, numbers]
    raw = raw if frame is None else restore(raw, frame)
    if kind == "depth":
        save_png(path, labels.depth_map(raw, near=maps.near)[0], bits=16, text=text)
    elif kind == "normal":
        save_png(path, labels.normal_map(raw, maps.normals)[0], text=text)
    else:
        save_png(path, labels.postprocess(name, raw)[0], text=text)
    return [path]


def endings(names: tuple[str, ...]) -> list[str]:
    """What `save_result` puts behind a stem for these domains."""
    found = [f"_{name}.png" for name in names]
    return found + [INDEX_ENDING] * any(domain(name).kind == "palette" for name in names)
