"""PNG files at the level of their chunks: what Pillow refuses to read, and what it cannot write.

Source: the PNG specification, third edition (W3C), sections 4, 9 and 11.
"""

import contextlib
import io
import os
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXT_LIMIT = 1 << 20
"""Bytes that a text may unpack to and still be kept; beyond, Pillow calls the file damaged."""
TEXTS_LIMIT = 16 << 20
PROFILE_LIMIT = 64 << 20


def drop_large_chunks(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """A PNG without texts and colour profiles of over 1 MB, and the profile that was left out.

    ComfyUI stores whole workflows as texts, scanners large profiles; neither is needed for the
    pixels. Everything else stays as it is, damaged parts too. Without such chunks it is `file`.
    """
    kept, profile, last, texts = [], None, 0, 0
    for kind, start, data, end in _ancillary(file):
        limit = min(TEXT_LIMIT, TEXTS_LIMIT - texts)
        size = _unpacked_size(kind, data, limit)
        if size <= limit:
            texts += size
            continue
        if kind == b"iCCP":
            profile = _unpacked(data.partition(b"\0")[2][1:], PROFILE_LIMIT)
        kept.append((last, start))
        last = end
    file.seek(0)
    if not kept:
        return file, None
    whole = file.read()
    return io.BytesIO(b"".join(whole[a:b] for a, b in [*kept, (last, len(whole))])), profile


def _ancillary(file: BinaryIO):
    """(kind, start, data, end) of each text and profile chunk of a PNG; nothing for other files."""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        return
    length_of_file = file.seek(0, os.SEEK_END)
    at = 8
    while at + 12 <= length_of_file:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        end = at + 12 + length
        if end > length_of_file:
            return
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            yield kind, at, file.read(length), end
        at = end


def _unpacked_size(kind: bytes, data: bytes, limit: int) -> int:
    """Bytes that the chunk's contents unpack to; anything above `limit` for more than that."""
    rest = data.partition(b"\0")[2]
    if kind == b"tEXt":
        return len(rest)
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        if not packed:
            return len(rest)
    else:
        rest = rest[1:]
    unpacked = _unpacked(rest, limit)
    return limit + 1 if unpacked is None else len(unpacked)


def _unpacked(data: bytes, limit: int) -> bytes | None:
    """The data inflated; None where it is more than `limit`, nothing where it is damaged."""
    with contextlib.suppress(zlib.error):
        unpacked = zlib.decompressobj().decompress(data, limit + 1)
        return None if len(unpacked) > limit else unpacked
    return b""


def write_png16(out: BinaryIO, array: np.ndarray, info: PngImagePlugin.PngInfo) -> None:
    """Write (H, W) or (H, W, 3) uint16 with 16 bits per channel; Pillow cannot for colour."""

    def chunk(kind: bytes, data: bytes) -> None:
        out.write(struct.pack(">I", len(data)) + kind + data)
        out.write(struct.pack(">I", zlib.crc32(kind + data)))

    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else 3
    out.write(SIGNATURE)
    color_type = 0 if channels == 1 else 2
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
    for kind, data, *_ in info.chunks:
        chunk(kind, data)
    rows = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(height, -1)
    # filter 1: each byte less the one a pixel before it, which deflates far better
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1:] = rows
    filtered[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6))
    chunk(b"IEND", b"")
