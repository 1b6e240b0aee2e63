"""Numbers of TIFF files that Pillow does not read: floats of 16 and 64 bits, floats in colour.

The file's own strips or tiles are handed to Pillow once more as a grey 8-bit picture, as many bytes
wide as a row has: so every compression that Pillow knows is undone by it, and what is left is to
undo the predictor and to read the bytes as floats.
Source: TIFF 6.0 (Adobe 1992), its technical note 3 (floating-point predictor), BigTIFF.
"""

import io
import struct
from typing import BinaryIO

import numpy as np
from PIL import Image

from ..errors import ImageError

_SIZES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES = 256, 257, 258, 259, 274, 277
STRIPS, ROWS, STRIP_SIZES, PLANAR, PREDICTOR = 273, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES, FORMAT = 322, 323, 324, 325, 339
_KEPT = (COMPRESSION, HEIGHT, ROWS, TILE_HEIGHT)
_FLOATS = {16: "f2", 32: "f4", 64: "f8"}
ADVICE = "save it as a 32-bit float or 16-bit integer TIFF of one channel, or as a PNG"


def is_tiff(start: bytes) -> bool:
    """Whether a file that begins so is a TIFF or BigTIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_floats(file: BinaryIO, name: str, limit: int) -> tuple[np.ndarray, int]:
    """(H, W, channels) float32 of a floating-point TIFF's first page, and its EXIF orientation.

    Values that float32 cannot hold become infinite. limit: pixels it may have at most.
    Raises: ImageError for kinds that are not read, with what to save instead; other exceptions
    for damaged files.
    """
    file.seek(0)
    data = file.read()
    tags = _tags(data)
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    channels, bits = tags.get(SAMPLES, [1])[0], set(tags.get(BITS, [1]))
    form = set(tags.get(FORMAT, [1]))
    if form != {3} or not bits <= set(_FLOATS) or len(bits) != 1 or not 1 <= channels <= 4:
        kinds = {1: "unsigned", 2: "signed", 3: "float", 5: "complex integer", 6: "complex"}
        what = " and ".join(sorted(kinds.get(f, "undefined") for f in form))
        raise ImageError(
            f"{name} is a TIFF of {channels} channels of {'/'.join(map(str, sorted(bits)))} bits "
            f"({what}), which is not read here; {ADVICE}"
        )
    if width * height > limit:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height:,} pixels, the limit is {limit:,}; "
            "shrink it first"
        )
    planes = channels if tags.get(PLANAR, [1])[0] == 2 else 1
    kind = np.dtype(("<" if data[:2] == b"II" else ">") + _FLOATS[bits.pop()])
    parts = [_plane(data, tags, kind, channels // planes, p, planes, name) for p in range(planes)]
    with np.errstate(over="ignore"):
        values = np.concatenate(parts, axis=2).astype(np.float32)
    return values, tags.get(ORIENTATION, [1])[0]


def turn_upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) of an EXIF orientation 1 to 8, upright."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _tags(data: bytes) -> dict[int, list[int]]:
    """The integer tags of the first page."""
    order = "<" if data[:2] == b"II" else ">"
    large = data[2:4] in (b"+\0", b"\0+")
    counts, entry, inline, pointer = ("Q", 20, 8, "Q") if large else ("H", 12, 4, "I")

    def numbers(kind: str, at: int, count: int = 1) -> list[int]:
        return list(struct.unpack_from(f"{order}{count}{kind}", data, at))

    (start,) = numbers(pointer, 8 if large else 4)
    (length,) = numbers(counts, start)
    first = start + struct.calcsize(counts)
    tags = {}
    for at in range(first, first + entry * min(length, 4096), entry):
        tag, kind = numbers("H", at, 2)
        (count,) = numbers(pointer, at + 4)
        if kind not in _SIZES:
            continue
        place = at + entry - inline
        if count * struct.calcsize(_SIZES[kind]) > inline:
            (place,) = numbers(pointer, place)
        if count * struct.calcsize(_SIZES[kind]) > len(data) - place:
            raise ValueError(f"tag {tag} reaches beyond the end of the file")
        tags[tag] = numbers(_SIZES[kind], place, count)
    return tags


def _plane(
    data: bytes, tags: dict, kind: np.dtype, channels: int, plane: int, planes: int, name: str
) -> np.ndarray:
    """(H, W, channels) of the strips or tiles of one plane."""
    tiled = TILES in tags
    offsets, sizes = (tags[TILES], tags[TILE_SIZES]) if tiled else (tags[STRIPS], tags[STRIP_SIZES])
    count = len(offsets) // planes
    chosen = slice(plane * count, (plane + 1) * count)
    chunks = [data[o : o + n] for o, n in zip(offsets[chosen], sizes[chosen], strict=True)]
    wide = channels * kind.itemsize
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    fake = {
        WIDTH: [width * wide],
        **{tag: tags[tag] for tag in _KEPT if tag in tags},
        **{BITS: [8], 262: [1], SAMPLES: [1]},
    }
    if tiled:
        fake[TILE_WIDTH] = [tags[TILE_WIDTH][0] * wide]
        # tiles at the right edge are whole: the picture is read as wide as they are together
        fake[WIDTH] = [-(-width // tags[TILE_WIDTH][0]) * fake[TILE_WIDTH][0]]
    with Image.open(io.BytesIO(_container(fake, chunks, tiled)), formats=["TIFF"]) as picture:
        raw = np.asarray(picture)
    across = tags[TILE_WIDTH][0] if tiled else width
    predictor = tags.get(PREDICTOR, [1])[0]
    rows = raw.reshape(height, -1, across * wide)
    if predictor == 3:
        rows = _undo_float_predictor(rows, kind, channels)
    else:
        rows = np.ascontiguousarray(rows).view(kind).reshape(height, -1, across, channels)
        if predictor == 2:
            whole = rows.view(np.dtype(kind.str.replace("f", "u")))
            rows = np.add.accumulate(whole, axis=2, dtype=whole.dtype.newbyteorder("="))
            rows = rows.view(kind.newbyteorder("="))
        elif predictor != 1:
            raise ImageError(f"{name} is a TIFF with predictor {predictor}; {ADVICE}")
    return rows.reshape(height, -1, channels)[:, :width]


def _undo_float_predictor(rows: np.ndarray, kind: np.dtype, channels: int) -> np.ndarray:
    """Bytes were sorted by significance, the highest first, and differenced along the row."""
    height, parts, length = rows.shape
    summed = rows.reshape(height, parts, length // channels, channels)
    summed = np.add.accumulate(summed, axis=2, dtype=np.uint8)
    planes = summed.reshape(height, parts, kind.itemsize, -1)
    values = np.ascontiguousarray(planes.swapaxes(2, 3)).view(f">{kind.str[1:]}")
    return values.reshape(height, parts, -1, channels)


def _container(tags: dict[int, list[int]], chunks: list[bytes], tiled: bool) -> bytes:
    """A little-endian TIFF of these tags and of these strips or tiles."""
    starts, at = [], 8
    for chunk in chunks:
        starts.append(at)
        at += len(chunk)
    places = (TILES, TILE_SIZES) if tiled else (STRIPS, STRIP_SIZES)
    tags = {**tags, places[0]: starts, places[1]: [len(chunk) for chunk in chunks]}
    arrays, entries = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        values = struct.pack(f"<{len(tags[tag])}I", *tags[tag])
        if len(values) > 4:
            place = struct.pack("<I", behind + len(arrays))
            arrays += values
        else:
            place = values
        entries += struct.pack("<HHI", tag, 4, len(tags[tag])) + place
    head = b"II*\0" + struct.pack("<I", at)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4) + arrays
    return b"".join([head, *chunks, directory])
