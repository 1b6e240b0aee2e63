"""Reading weight files. A file that holds no weights is refused with what it is.

Files up to `WHOLE` bytes are read into memory, so that later changes of the file have no effect.
Larger safetensors and torch files are mapped, since a copy of a large model may not fit: such a
file can be replaced by another under its name while it is in use, but a program that shortens it in
place ends ours (SIGBUS), as it would any program that maps files.
"""

import json
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import parse_json
from ..errors import CheckpointError, JodiError, shorten
from .foreign import AGAIN, describe_foreign
from .pickles import begins_like_pickle, read_pickle

WHOLE = 1 << 30  # bytes; larger files are mapped into memory


class StateFile(NamedTuple):
    """The content of a weight file: tensors by name, and the text metadata (empty for pickles)."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_state_dict(path, bare: str | None = None) -> StateFile:
    """Tensors of a safetensors file or a torch pickle, bare or wrapped in `state_dict` or `model`.

    A prefix that every key carries (`module.`, `model.diffusion_model.`, ...) is removed, and so is
    a stored positional table `pos_embed`: Jodi computes its own. Metadata that stands in a tensor
    (`ABOUT`) joins the file's own.

    bare: the name for a tensor that is all a pickle holds; None refuses such a file.
    Returns: dense tensors on the CPU in the file's own dtypes.
    Raises: CheckpointError when the file is missing, empty, a folder or a device, truncated, a
        git-LFS pointer, a web page or another kind of file, claims more than it holds, is refused
        as unsafe, or holds no tensors.
    Source: containers as github VIPL-GENUN/Jodi @ c21bdcb, pipeline.py and utils/checkpoint.py.
    """
    path, head, size = _read_head(path)
    metadata: dict[str, str] = {}
    if _begins_like_safetensors(head):
        tensors, metadata = _read_safetensors(path, size)
    elif begins_like_pickle(head):
        tensors = read_pickle(path, head, size, mapped=size > WHOLE, bare=bare)
    else:
        raise CheckpointError(describe_foreign(path, head, size))
    tensors = simplify_keys(tensors)
    if ABOUT in tensors:
        metadata = {**_unpack_metadata(tensors.pop(ABOUT), path), **metadata}
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
_DEEPEST = 8  # prefixes on one another


def simplify_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without a prefix that all keys share and without stored `pos_embed` tables.

    A prefix carried by only some keys stays: it tells parts of a larger file apart.
    """
    for _ in range(_DEEPEST):
        tensors = {k: v for k, v in tensors.items() if k not in _STORED_TABLES}
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None)
        if prefix is None or not tensors:
            break
        tensors = {k[len(prefix) :]: v for k, v in tensors.items()}
    return tensors


# A host saves tensors and its own metadata, nothing of ours: what a file must say of itself then
# stands in a tensor of bytes.
ABOUT = "jodi_metadata"
_ABOUT_LIMIT = 1 << 20


def pack_metadata(metadata: dict[str, str]) -> dict[str, Tensor]:
    """Metadata as a tensor (bytes,) uint8 under the name `ABOUT`, which `read_state_dict` reads."""
    text = json.dumps(metadata, sort_keys=True).encode()
    return {ABOUT: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def _unpack_metadata(tensor: Tensor, path: Path) -> dict[str, str]:
    try:
        if tensor.dtype != torch.uint8 or tensor.ndim != 1 or tensor.numel() > _ABOUT_LIMIT:
            raise JodiError(f"it is {tensor.dtype} of shape {tuple(tensor.shape)}")
        values = parse_json(bytes(tensor.tolist()).decode("utf-8", "replace"), "its text")
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise JodiError("its text is no JSON object of texts")
    except JodiError as error:
        raise CheckpointError(
            f"{path}: the tensor {ABOUT}, in which a saved file describes itself, cannot be read: "
            f"{error}. Save the file again."
        ) from None
    return values


# Safetensors: 8 bytes little-endian header length, JSON header, then the tensors' bytes.
_HEADER_LIMIT = 32_000_000


def _begins_like_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**40


def _read_safetensors(path: Path, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with path.open("rb") as file:
            metadata = _check_header(path, file, size)
            if size <= WHOLE:
                file.seek(0)
                return safetensors.torch.load(file.read()), metadata
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except CheckpointError:
        raise
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        RuntimeError,
        OverflowError,
    ) as error:
        raise CheckpointError(
            f"{path} begins like safetensors but cannot be read as such ({str(error)[:120]}). "
            f"{AGAIN}, or update the safetensors package if a newer program wrote it."
        ) from error


def _check_header(path: Path, file, size: int) -> dict[str, str]:
    """The metadata, when the lengths that the header promises are those of the file."""
    (header_bytes,) = struct.unpack("<Q", file.read(8))
    if header_bytes > _HEADER_LIMIT:
        raise CheckpointError(
            f"{path} names a safetensors header of {header_bytes:,} bytes; at most "
            f"{_HEADER_LIMIT:,} are read, so its first bytes are damaged. {AGAIN}."
        )
    if 8 + header_bytes > size:
        raise CheckpointError(
            f"{path} is truncated: its safetensors header needs {8 + header_bytes:,} bytes, "
            f"the whole file has {size:,}. {AGAIN}."
        )
    try:
        entries = json.loads(file.read(header_bytes))
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
        needed = 8 + header_bytes + max(ends, default=0)
        if not isinstance(needed, int) or needed > 2**62:
            raise ValueError("an end that no file reaches")
        metadata = {str(k): str(v) for k, v in (entries.get("__metadata__") or {}).items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} has a damaged safetensors header ({type(error).__name__}: "
            f"{str(error)[:120]}). {AGAIN}."
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
    return metadata


def _read_head(path) -> tuple[Path, bytes, int]:
    """The path, first bytes and length of a file; named errors for what is not a readable one."""
    try:
        path = Path(path)
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise CheckpointError(_describe_folder(path))
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe would wait for whoever writes to it, and a device may have no end.
            raise CheckpointError(
                f"{path} is a pipe, a socket or a device; expected a file on a disk. Save what it "
                "gives as a file, and give that."
            )
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no file {path}. Expected a weight file (.safetensors, .pth); check the name."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, JodiError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{shorten([path], width=200)!r} cannot be opened ({reason}). Expected a readable "
            "weight file; check its name, its permissions and the disk."
        ) from error
    if status.st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes). Expected a weight file. {AGAIN}.")
    return path, head, status.st_size


_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin")


def _describe_folder(path: Path) -> str:
    inside = sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)
    offer = f"It holds {shorten(inside)}; give one of these." if inside else "Give the file in it."
    return f"{path} is a folder; expected one weight file. {offer}"
