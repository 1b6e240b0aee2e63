"""Where a labelled data set keeps what: the folders, files and keys of Joint-1.6M.

    image/NAME.jpg                        the picture
    annotation_depth/NAME.png             a label of it, at the picture's own size
    metadata.jsonl                        a line for each picture

Labels are PNG where the published files are JPEG: depth with 16 bits, classes as numbers with the
palette that shows them.

Shapes: H W pixels.
Source: the sample of Joint-1.6M that its authors published; github VIPL-GENUN/Jodi @ c21bdcb.
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.files import replace_file
from ...kit.pictures.files import encode_png, to_uint8
from ...kit.pictures.palettes import SEGMENTATION_PALETTE
from ..domains import Domain
from ..labels.depth import make_depth_map
from ..labels.maps import postprocess
from ..labels.segmentation import find_classes

METADATA = "metadata.jsonl"
IMAGE = "image"

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_PLAIN_FORMATS, _PLAIN_MODES = {"JPEG": ".jpg", "PNG": ".png"}, ("RGB", "L")


class OutputError(JodiError):
    """The data set's folder cannot be written to: that ends all work until it is mended."""


def name_key(label: str) -> str:
    """The key of a label in a line of metadata, which is its folder too."""
    return f"annotation_{'seg_12colors' if label == 'segmentation' else label}"


def name_map(label: str, stem: str) -> str:
    """Where the map of a label of a picture lies in the data set."""
    return f"{name_key(label)}/{stem}.png"


def encode_map(of: Domain, raw: Tensor) -> bytes:
    """The file of a map as the data set holds it, in the model's own conventions.

    raw: (1, 3, H, W) decoder output, about [-1, 1]. Depth: 16 bits, near is bright, stretched;
    normals: unit vectors in the model's axes; segmentation: class numbers with their palette.
    """
    if of.kind == "palette":
        return encode_png(find_classes(raw)[0], palette=SEGMENTATION_PALETTE)
    if of.kind == "depth":
        return encode_png(make_depth_map(raw)[0], bits=16)
    picture = postprocess(of, raw)[0]
    return encode_png(picture[0] if of.kind == "gray" else picture)


def encode_image(data: bytes, seen: Tensor) -> tuple[bytes, str]:
    """The file of a picture as the data set holds it, and its ending.

    The given file itself where any program sees the same in it as the model did; else a PNG of what
    the model saw: upright, in sRGB, without transparency. data: the given file. seen: what is in
    it, (3, H, W) in [0, 1].
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            ending = _PLAIN_FORMATS.get(image.format or "")
            upright = image.getexif().get(0x0112, 1) == 1
            if ending and upright and image.mode in _PLAIN_MODES:
                plain = np.asarray(image.convert("RGB"))
                if np.array_equal(plain, to_uint8(seen).permute(1, 2, 0).numpy()):
                    return data, ending
    return encode_png(seen), ".png"


def write_file(path: Path, data: bytes) -> None:
    """Replace a file in one step; folders are made. Raises: OutputError saying why it failed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"could not write {path}: {error.strerror or error}") from error


def make_record(
    image: str, size: tuple[int, int], labels: Sequence[str], captions: Mapping[str, str]
) -> dict:
    """A picture's line of metadata.

    image: its file in the data set. size: (height, width). captions: a text for each model's name.
    """
    stem = Path(image).stem
    return {
        "image": image,
        "info": {"height": size[0], "width": size[1]},
        "caption": dict(captions),
        **{name_key(label): name_map(label, stem) for label in labels},
    }


def is_whole(root: Path, line: Mapping, labels: Sequence[str], source_bytes: int) -> bool:
    """Whether all files of a line of metadata are in the data set, as they were written.

    A file that was cut short, emptied or replaced by one of another size is not. source_bytes: of
    the picture that was given, which may be the data set's own file of it.
    """
    try:
        image, info = line["image"], line["info"]
        size, stem = (info["height"], info["width"]), Path(image).stem
        whole = _ends_as_png(root / image, size) or (root / image).stat().st_size == source_bytes
        return whole and all(
            line[name_key(label)] == name_map(label, stem)
            and _ends_as_png(root / name_map(label, stem), size)
            for label in labels
        )
    except (OSError, KeyError, TypeError, ValueError):
        return False


def _ends_as_png(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file begins as a PNG of that size (height, width), and ends as one."""
    with open(path, "rb") as file:
        start = file.read(24)
        if start[:8] != _PNG_START:
            return False
        file.seek(-len(_PNG_END), 2)
        end = file.read()
    width, height = (int.from_bytes(start[at : at + 4], "big") for at in (16, 20))
    return end == _PNG_END and (height, width) == tuple(size)


def read_lines(path: Path) -> list[dict]:
    """The objects of a JSONL file, without lines that are none; nothing where there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def write_lines(path: Path, lines: Sequence[Mapping]) -> None:
    """Replace a JSONL file in one step. Raises: OutputError."""
    write_file(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode("ascii"))
