"""Seeded mutations of weight files: bytes in, bytes out. Used by tests outside and in a host."""

import json
import random
import struct

from ..jodi_core.domains import DOMAIN_NAMES

VALUES = (
    *(0, -1, 1, 3, 10**9, 2**63, 10**30, 1e308, -1e-320, float("nan"), float("inf"), True, None),
    *("", "x", "0", "-64", "nan", "１２", "any", "published", "[1, 2]", "a" * 10_000, "\0", "é"),
    *([], [1], [[]], {}, {"a": 1}, ["image"], list(DOMAIN_NAMES[::-1]), [None] * 8),
)


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 20))):
        at = draw.randrange(min(len(data), draw.choice((16, 400, len(data)))))
        changed[at] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    at, length = draw.randrange(len(data)), draw.randrange(1, 200)
    return draw.choice((data[:at], data[:at] + data[at + length :], data + data[at : at + length]))


def repeat(data: bytes, draw: random.Random) -> bytes:
    at, to, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 100)
    return data[:to] + data[at : at + length] + data[to:]


def change_header(data: bytes, draw: random.Random) -> bytes:
    """Another value, name or entry in a safetensors header; other files lose a byte."""
    if data[8:9] != b"{":
        return flip_bytes(data, draw)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about, names = header["__metadata__"], [n for n in header if n != "__metadata__"]
    name = draw.choice(names)
    entry = header[name]
    sort = draw.randrange(9)
    if sort == 0:
        about[draw.choice(list(about))] = str(draw.choice(VALUES))
    elif sort == 1:
        about[draw.choice(list(about))] = json.dumps(draw.choice(VALUES))
    elif sort == 2:
        config = json.loads(about.get("config", "{}"))
        config[draw.choice([*config, "more"])] = draw.choice(VALUES)
        about["config"] = json.dumps(config)
    elif sort == 3:
        about.pop(draw.choice(list(about)))
    elif sort == 4:
        entry["dtype"] = draw.choice(("F16", "BF16", "I32", "I16", "U8", "BOOL", "F8_E4M3", "F64"))
    elif sort == 5:
        entry["shape"] = draw.choice((entry["shape"][::-1], [], [0], [-1], [2**40], "x", None))
    elif sort == 6:
        changed = draw.choice((name + "x", name[1:], "module." + name, "blocks.99999.x", ""))
        header[changed] = header.pop(name)
    elif sort == 7:
        other = draw.choice(names)
        header[name], header[other] = header[other], header[name]
    else:
        header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


MUTATIONS = (flip_bytes, cut, repeat, change_header, change_header, change_header)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One mutation, of a kind drawn."""
    return draw.choice(MUTATIONS)(data, draw)
