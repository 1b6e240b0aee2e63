"""Given map files into the model's conventions, results back into theirs and onto the disk."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..jodi_core.domains import find_named_domain
from ..jodi_core.job.plausible import Doubt, find_drawing_doubt, has_colors
from ..jodi_core.job.restore import restore_map
from ..jodi_core.labels.depth import convert_depth, make_depth_map
from ..jodi_core.labels.maps import postprocess
from ..jodi_core.labels.normals import make_normal_map, read_normals
from ..jodi_core.labels.segmentation import (
    are_colors,
    colorize,
    convert_class_numbers,
    find_classes,
    find_strange_share,
    read_classes,
)
from ..kit.errors import ImageError
from ..kit.pictures.files import load_image, save_png
from ..kit.pictures.frame import Frame
from ..kit.pictures.numbers import load_numbers

logger = logging.getLogger("jodi")

INDEX_ENDING = "_segmentation_index.png"

DEPTH_SOURCES = ("near-white", "near-black", "metres", "millimetres")
INVERTIBLE = ("lineart", "edge")

_OFF = {"jodi": 0.2, "ade20k": 0.02}
"""How far a channel of an indexed file may be off the colour of a class: 150 lie closer than 12."""

# The colour behind transparent pixels: each domain's own colour for "nothing here".
_BACKGROUNDS = {
    **dict.fromkeys(("edge", "depth", "segmentation", "openpose"), (0.0, 0.0, 0.0)),
    "normal": (0.5, 0.5, 0.5),
}
_WHITE = (1.0, 1.0, 1.0)

# The option that corrects what is odd about a given picture.
_WAYS = {
    ("depth", "inverted"): "--depth-source near-black, metres or millimetres",
    ("depth", "flat"): "--depth-source, if it holds distances",
    ("normal", "directx"): "--normal-source directx",
    ("normal", "opengl"): "--normal-source opengl",
    ("lineart", "polarity"): "--invert lineart",
    ("edge", "polarity"): "--invert edge",
    ("segmentation", "classes"): "--segmentation-source ade20k, or see `jodi info` for the colours",
    ("segmentation", "unlabeled"): "`jodi info` lists the numbers",
}


@dataclass(frozen=True)
class Maps:
    """How maps are drawn: results, and given files where they differ.

    near, normals: of results; "white" or "black", "model", "opengl" or "directx". The sources are
    of given files; None is as the results are drawn. inverted: domains with their tones reversed.
    """

    near: str = "white"
    normals: str = "model"
    depth_source: str | None = None
    normal_source: str | None = None
    segmentation_source: str = "jodi"
    inverted: Sequence[str] = ()

    @classmethod
    def of(cls, args) -> "Maps":
        """As the options say; commands without given maps lack those of the sources."""
        sources = ("depth_source", "normal_source", "segmentation_source", "inverted")
        given = {name: getattr(args, name) for name in sources if hasattr(args, name)}
        return cls(args.near, args.normals, **given)


def read_picture(name: str, path: Path, maps: Maps) -> Tensor:
    """The picture of a domain, (1, 3, H, W) float32 in [0, 1], in the model's conventions.

    Depth is near white, normals are in the model's axes, lines have its polarity. Class maps come
    as colours, in files that store class numbers too.
    Raises: ImageError for unreadable files, or numbers that are no map as the options describe it.
    """
    kind = find_named_domain(name).kind
    if kind == "palette":
        return _read_classes(path, maps.segmentation_source)
    if kind == "depth":
        return _read_depth(path, maps)
    picture = _picture(name, path)
    if kind == "normal":
        source = maps.normal_source or maps.normals
        return picture if source == "model" else read_normals(picture, source)
    return 1 - picture if name in maps.inverted else picture


def _picture(name: str, path: Path) -> Tensor:
    return load_image(path, background=_BACKGROUNDS.get(name, _WHITE))[0]


def _read_depth(path: Path, maps: Maps) -> Tensor:
    """Near white, (1, 3, H, W). The job stretches it where it does not fill its range.

    Missing values (NaN, infinity, and 0 in distances) count as farthest.
    """
    source = maps.depth_source or f"near-{maps.near}"
    numbers = load_numbers(path)
    if numbers is None or numbers.indexed:
        plane = _picture("depth", path)
    else:
        plane = numbers.values.to(torch.float32)[:, None] / (numbers.top or 1)
        plane = plane.expand(-1, 3, -1, -1)
    if source not in ("near-white", "near-black"):
        if has_colors(plane):
            raise ImageError(
                f"{path} is in colours, and distances are one number for each pixel; give the "
                "file of the distances itself"
            )
        return _drawn(path, plane, "distance")
    if numbers is None or numbers.indexed or (numbers.top or 256) < 256:
        return plane if source == "near-white" else 1 - plane
    # numbers of more bits have no usual range: the map's own range counts
    known = plane[plane.isfinite()]
    if maps.depth_source is None and bool(((known < 0) | (known > 1)).any()):
        low, high = float(known.min()), float(known.max())
        raise ImageError(
            f"{path} holds numbers from {low:.4g} to {high:.4g}, which may be distances or not; "
            f"say what they are with --depth-source {', '.join(DEPTH_SOURCES)}"
        )
    return _drawn(path, plane, source.replace("-", " "))


def _drawn(path: Path, plane: Tensor, source: str) -> Tensor:
    try:
        return convert_depth(plane, source)[:, None].expand(-1, 3, -1, -1)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def _read_classes(path: Path, drawn: str) -> Tensor:
    """A class map in the model's colours, from class numbers of any width or from colours."""
    numbers = load_numbers(path)
    if numbers is not None and not numbers.indexed:
        values = _whole(path, numbers.values)
        if numbers.top != 255 or not are_colors(values, drawn):
            return _colored(path, values, drawn)
    picture = _picture("segmentation", path)
    if numbers is not None and find_strange_share(picture, drawn, _OFF[drawn]) > 0.1:
        # a file of places in a palette: its colours would count if they were the drawing's
        try:
            return _colored(path, numbers.values, drawn)
        except ImageError:
            pass
    if drawn == "jodi":
        return picture  # the job takes it for the nearest colours, and says where they are others
    if doubt := find_drawing_doubt(picture, drawn):
        logger.warning("%s: %s", path, doubt)
    return colorize(read_classes(picture, drawn))


def _whole(path: Path, values: Tensor) -> Tensor:
    if not values.is_floating_point():
        return values
    if not bool(values.isfinite().all()):
        raise ImageError(
            f"{path} has pixels without a number (NaN or infinity), and each has a class number; "
            "write 255 where there is no class"
        )
    if not bool((values == values.round()).all()):
        raise ImageError(f"{path} holds fractions, and class numbers are whole; save them so")
    return values.clamp(-(2.0**40), 2.0**40).to(torch.int64)


def _colored(path: Path, numbers: Tensor, drawn: str) -> Tensor:
    try:
        return colorize(convert_class_numbers(numbers, drawn))
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def explain_doubt(doubt: Doubt) -> str:
    """A doubt about a given picture, with the option that corrects it."""
    way = _WAYS.get((doubt.name, doubt.kind))
    return doubt.text if way is None else f"{doubt.text} ({way})"


def save_result(
    name: str, raw: Tensor, frame: Frame | None, start: Path, settings: dict, maps: Maps
) -> list[Path]:
    """Write the picture of one generated domain and return the files: `<start>_<name>.png`.

    raw: (1, 3, H, W) decoder output. frame: of the original to lay it back into, or None. Depth has
    16 bits; segmentation comes in colours and, in a second file, as class numbers.
    """
    of, path = find_named_domain(name), start.with_name(start.name + _ending(name))
    text = {"jodi": json.dumps({**settings, "domain": name})}
    raw = raw if frame is None else restore_map(of, raw, [frame])
    if of.kind == "palette":
        index = find_classes(raw)
        numbers = start.with_name(start.name + INDEX_ENDING)
        save_png(path, colorize(index)[0], text=text)
        save_png(numbers, index[0], text=text)
        return [path, numbers]
    if of.kind == "depth":
        save_png(path, make_depth_map(raw, near=maps.near)[0], bits=16, text=text)
    elif of.kind == "normal":
        save_png(path, make_normal_map(raw, maps.normals)[0], text=text)
    else:
        save_png(path, postprocess(of, raw)[0], text=text)
    return [path]


def list_endings(names: tuple[str, ...]) -> list[str]:
    """What `save_result` puts behind a stem for these domains."""
    found = [_ending(name) for name in names]
    return found + [INDEX_ENDING] * any(find_named_domain(name).kind == "palette" for name in names)


def _ending(name: str) -> str:
    """Behind a stem; the name of a model's own domain may hold what a file's cannot."""
    word = re.sub(r"[^\w-]", "_", name)
    if word != name:  # "a b" and "a_b" stay apart
        word += f"-{hashlib.sha256(name.encode()).hexdigest()[:4]}"
    return f"_{word}.png"
