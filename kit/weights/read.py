"""Reading weight files. Whatever is not one is named for what it is.

Safetensors files are mapped into memory, not copied. Pickles are read as tensors only
(`weights_only=True`), since a full pickle can run any program.
"""

import json
import logging
import re
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError

logger = logging.getLogger("jodi")

AGAIN = "Download or copy the file again"


class StateFile(NamedTuple):
    """The content of a weight file: tensors by name, and the text metadata (empty for pickles)."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_state_dict(path) -> StateFile:
    """Tensors of a safetensors file or a torch pickle, bare or wrapped in `state_dict` or `model`.

    A prefix that every key carries (`module.`, `model.diffusion_model.`, ...) is removed, and so is
    a stored positional table `pos_embed`: Jodi computes its own.

    Returns: tensors on the CPU in the file's own dtypes; a safetensors file stays mapped, so
        nothing is read until a tensor is used.
    Raises: CheckpointError when the file is missing, empty, a folder, truncated, a git-LFS pointer,
        a web page or another kind of file, refused as unsafe, or holds no tensors.
    Source: containers as github VIPL-GENUN/Jodi @ c21bdcb, pipeline.py and utils/checkpoint.py.
    """
    path = Path(path)
    head, size = _read_head(path)
    metadata: dict[str, str] = {}
    if _begins_like_safetensors(head):
        tensors, metadata = _read_safetensors(path, size)
    elif head.startswith(_ZIP):
        tensors = _tensors_of(_read_zip_pickle(path, size), path)
    elif head.startswith(_LEGACY_PICKLE):
        tensors = _tensors_of(_load_pickle(path, mmap=False), path)
    else:
        raise CheckpointError(_describe_foreign(path, head, size))
    tensors = plain_keys(tensors)
    if not tensors:
        raise CheckpointError(
            f"{path} is a readable weight file, but holds no tensors. Expected the weights of a "
            "model; write it again from the original."
        )
    return StateFile(tensors, metadata)


_PREFIXES = (
    *("module.", "_orig_mod.", "model.diffusion_model.", "diffusion_model.", "base_model."),
    *("model.", "net.", "transformer.", "vae.", "autoencoder.", "first_stage_model."),
)
_STORED_TABLES = ("pos_embed", "base_model.pos_embed", "model.pos_embed")


def plain_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without a prefix that all keys share and without stored `pos_embed` tables.

    A prefix carried by only some keys stays: it tells parts of a larger file apart.
    """
    while True:
        tensors = {k: v for k, v in tensors.items() if k not in _STORED_TABLES}
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None)
        if prefix is None or not tensors:
            return tensors
        tensors = {k[len(prefix) :]: v for k, v in tensors.items()}


# Safetensors: 8 bytes little-endian header length, JSON header, then the tensors' bytes.
_HEADER_LIMIT = 100_000_000


def _begins_like_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**40


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    _check_safetensors_size(path, size)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} begins like safetensors but cannot be read as such ({str(error)[:120]}). "
            f"{AGAIN}, or update the safetensors package if a newer program wrote it."
        ) from error


def _check_safetensors_size(path: Path, size: int):
    """Compare the lengths that the header promises with the file's length."""
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        if header_bytes > _HEADER_LIMIT:
            raise CheckpointError(
                f"{path} names a safetensors header of {header_bytes:,} bytes; at most "
                f"{_HEADER_LIMIT:,} are allowed, so its first bytes are damaged. {AGAIN}."
            )
        if 8 + header_bytes > size:
            raise CheckpointError(
                f"{path} is truncated: its safetensors header needs {8 + header_bytes:,} bytes, "
                f"the whole file has {size:,}. {AGAIN}."
            )
        header = file.read(header_bytes)
    try:
        entries = json.loads(header)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
        needed = 8 + header_bytes + max(ends, default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} has a damaged safetensors header ({type(error).__name__}: {error}). {AGAIN}."
        ) from error
    if needed > size:
        raise CheckpointError(
            f"{path} is truncated: its tensors need {needed:,} bytes, the file has {size:,} "
            f"({needed - size:,} missing). {AGAIN}."
        )
    if needed < size:
        raise CheckpointError(
            f"{path} is damaged: its tensors end at byte {needed:,}, but the file goes on to "
            f"{size:,}; a resumed download may have written a part twice. {AGAIN}."
        )


_ZIP = b"PK\x03\x04"
_LEGACY_PICKLE = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def _read_zip_pickle(path: Path, size: int):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path} is truncated: it begins like a torch file, but the list of contents at its "
            f"end is missing after {size:,} bytes. {AGAIN}."
        ) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a state dict. Expected plain weights; save "
            "module.state_dict() with safetensors where you have the model."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a zip archive of {len(names)} files ({few(names)}), not a weight file. "
            "Unpack it and give the weight file inside."
        )
    return _load_pickle(path, mmap=True)


def _load_pickle(path: Path, mmap: bool):
    safely = {"map_location": "cpu", "weights_only": True}
    try:
        if mmap and path.suffix != ".safetensors":
            return torch.load(path, mmap=True, **safely)
        # An open file, because newer torch takes a path that ends in .safetensors at its word.
        with path.open("rb") as file:
            return torch.load(file, **safely)
    except Exception as error:  # a damaged pickle can raise anything
        text = str(error)
        if "weights_only" in text or "Unsupported" in text:
            raise CheckpointError(_describe_refusal(path, text)) from error
        raise CheckpointError(
            f"{path} begins like a torch pickle but breaks off or is damaged "
            f"({type(error).__name__}: {text.splitlines()[0] if text else 'no detail'}). {AGAIN}."
        ) from error


def _describe_refusal(path: Path, text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported class ([\w.]+)", text)
    name = (found.group(1) or found.group(2)).removeprefix("builtins.") if found else ""
    asks = f"it asks for {name}" if name else "or it is damaged"
    return (
        f"{path} is a pickle that holds more than tensors ({asks}): a full training checkpoint "
        "with optimizer and random state, or an unsafe file. Only tensors are read from a pickle, "
        "because a pickle can run any program. If you trust its origin, take the weights out "
        "once, in Python: torch.save({'state_dict': torch.load(file, weights_only=False)"
        "['state_dict']}, 'weights.pth'), and give that file."
    )


def _tensors_of(content, path: Path) -> dict[str, Tensor]:
    """The tensors of an unpickled object, taken out of the usual wrappings."""
    for key in ("state_dict", "model", "module", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return _tensors_of(content[key], path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is a pickle of a {type(content).__name__}, not of named tensors. Expected a "
            "state dict, bare or under 'state_dict' or 'model'; save module.state_dict()."
        )
    tensors = {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path} is a pickle without tensors at its top; it holds {few(content)}. Expected a "
            "state dict, bare or under 'state_dict' or 'model'."
        )
    if len(tensors) < len(content):
        others = [str(k) for k in content if str(k) not in tensors]
        logger.info("%s: left out what is not a tensor: %s", path, few(others))
    return tensors


def _read_head(path: Path) -> tuple[bytes, int]:
    """First bytes and length; named errors for what is not a readable file."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)
        offer = f"It holds {few(inside)}; give one of these." if inside else "Give the file in it."
        raise CheckpointError(f"{path} is a folder; expected one weight file. {offer}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no file {path}. Expected a weight file (.safetensors, .pth); check the name."
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be opened ({error.strerror or error}). Expected a readable weight "
            "file; check its permissions and the disk."
        ) from error
    if size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes). Expected a weight file. {AGAIN}.")
    return head, size


_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin")
_MAGIC = (
    (b"GGUF", "a GGUF file, whose quantised weights are not read here. Use the original weights"),
    (b"\x1f\x8b", "a gzip archive. Unpack it and give the weight file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive. Unpack it and give the weight file inside"),
    (b"Rar!", "a RAR archive. Unpack it and give the weight file inside"),
    (b"\x93NUMPY", "a single NumPy array. Give the weight file of the model"),
    (b"\x89HDF", "an HDF5 file. Give the model's safetensors or torch file"),
    (b"\x89PNG", "a PNG picture. Give the weight file of the model"),
    (b"\xff\xd8\xff", "a JPEG picture. Give the weight file of the model"),
)


def _describe_foreign(path: Path, head: bytes, size: int) -> str:
    if head.startswith(b"version https://git-lfs"):
        real = re.search(rb"size (\d+)", head)
        stands_for = f" that stands for {int(real.group(1)):,} bytes" if real else ""
        return (
            f"{path} is a git-LFS pointer{stands_for}, a note of {size} bytes in place of the "
            "weights. Run `git lfs pull` in its folder, or download the file itself."
        )
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"{path} is {what}."
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            f"{path} is a web page ({size:,} bytes), not weights: the download was answered with "
            "an error or a login page. Download it again from the file's own link, logged in if "
            "the model asks for it."
        )
    if b'"weight_map"' in head or b'"total_size"' in head:
        return (
            f"{path} is the index of a model split into several files. Expected one file; join "
            "its parts into one safetensors file, or use the release in one file."
        )
    if not head.strip(b"\0"):
        return (
            f"{path} begins with zeros only: a download that reserved {size:,} bytes and stopped. "
            f"{AGAIN}."
        )
    if _is_text(head):
        line = head.decode("utf-8", "replace").strip().splitlines()[0][:60] if start else ""
        return f"{path} is a text file (it begins {line!r}), not weights. {AGAIN}."
    if size < 16:
        return f"{path} is truncated: only {size} bytes of it are there. {AGAIN}."
    return (
        f"{path} is no weight file: it begins with the bytes {head[:8].hex(' ')}. Expected "
        "safetensors, or a pickle written by torch.save."
    )


def _is_text(head: bytes) -> bool:
    try:
        text = head[:256].decode("ascii")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\r\n\t" for c in text)


def few(names, count: int = 5) -> str:
    """The first names of many, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
