"""Cryptomatte: named mattes of a picture as float channels that compositing programs pick from.

Each name has an id, its 32-bit MurmurHash3 read as a float; a pixel stores (id, coverage) pairs,
two to a layer of four channels. Here a pixel belongs to one name, so the first pair holds all.
Source: the Cryptomatte specification 1.2 (github Psyop/Cryptomatte).
"""

import json
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ImageError

_MASK = 0xFFFFFFFF


def hash_murmur3(data: bytes, seed: int = 0) -> int:
    """The 32-bit MurmurHash3 (x86) of some bytes, 0..2^32 - 1.

    Source: Austin Appleby, MurmurHash3_x86_32 (public domain).
    """
    state = seed
    whole = len(data) // 4 * 4
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        state ^= _scrambled(block)
        state = (_rotated(state, 13) * 5 + 0xE6546B64) & _MASK
    tail = data[whole:]
    if tail:
        state ^= _scrambled(int.from_bytes(tail, "little"))
    state ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        state = ((state ^ (state >> shift)) * factor) & _MASK
    return state


def _scrambled(block: int) -> int:
    return (_rotated((block * 0xCC9E2D51) & _MASK, 15) * 0x1B873593) & _MASK


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def hash_name(name: str) -> np.float32:
    """The id of a name: its hash read as a float that is neither subnormal, infinite nor NaN."""
    return np.frombuffer(struct.pack("<I", _id_bits(name)), "<f4")[0]


def _id_bits(name: str) -> int:
    bits = hash_murmur3(name.encode("utf-8"))
    return bits ^ (1 << 23) if (bits >> 23) & 255 in (0, 255) else bits


def make_mattes(
    layer: str, index: np.ndarray, names: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Channels of a Cryptomatte and the header entries that describe it.

    Shapes: index (H, W) integers, places in `names` -> channels `<layer>00.R` (id), `.G`
    (coverage, 1 everywhere), `.B` and `.A` (no second name, 0), each (H, W) float32.
    Raises: ImageError for an index without a name.
    """
    if index.ndim != 2 or index.size == 0 or index.min() < 0 or index.max() >= len(names):
        raise ImageError(
            f"expected an index (height, width) of 0..{len(names) - 1}, got shape {index.shape}"
        )
    ids = np.array([hash_name(name) for name in names], dtype=np.float32)
    empty = np.zeros(index.shape, dtype=np.float32)
    planes = {"R": ids[index], "G": np.ones_like(empty), "B": empty, "A": empty}
    channels = {f"{layer}00.{letter}": plane for letter, plane in planes.items()}
    manifest = {name: f"{_id_bits(name):08x}" for name in names}
    key = f"cryptomatte/{hash_murmur3(layer.encode('utf-8')):08x}"[: len("cryptomatte/") + 7]
    return channels, {
        f"{key}/name": layer,
        f"{key}/hash": "MurmurHash3_32",
        f"{key}/conversion": "uint32_to_float32",
        f"{key}/manifest": json.dumps(manifest),
    }


def read_matte(
    channels: Mapping[str, np.ndarray], header: Mapping[str, object], name: str
) -> np.ndarray:
    """Coverage (H, W) float32 of one name, decoded from a file's channels and header.

    Raises: ImageError when the file has no Cryptomatte with that name.
    """
    for key, layer in header.items():
        if not (key.startswith("cryptomatte/") and key.endswith("/name")):
            continue
        manifest = json.loads(str(header[key.removesuffix("name") + "manifest"]))
        if name not in manifest:
            continue
        wanted = np.frombuffer(bytes.fromhex(manifest[name]), ">f4")[0]
        total = None
        for rank in range(100):
            pairs = [f"{layer}{rank:02d}.{c}" for c in "RGBA"]
            if pairs[0] not in channels:
                break
            for ids, cover in (pairs[:2], pairs[2:]):
                part = np.where(channels[ids] == wanted, channels[cover], np.float32(0))
                total = part if total is None else total + part
        if total is not None:
            return total
    raise ImageError(f"the file has no Cryptomatte with the name {name!r}")
