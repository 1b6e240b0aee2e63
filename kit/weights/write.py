"""Writing safetensors files, one tensor at a time, so that a file is either whole or not there."""

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import replace_file

Progress = Callable[[int, int], None]

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_state_dict(
    path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    convert: Callable[[str, Tensor, torch.dtype], Tensor] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a safetensors file and return its size in bytes.

    The bytes go to a temporary file beside `path`, are flushed to the disk, and take the name at
    the end; the temporary file is removed on any failure, Ctrl-C included. Tensors are converted
    one by one as they are written, so that no second copy of a model is held.

    dtype: for floating tensors, None keeps theirs; others are written as they are.
    convert: (name, floating tensor, dtype) -> tensor, in place of a plain cast; may refuse by
        raising.
    progress: called with (bytes written, bytes in all) after each tensor; may raise to stop.
    Raises: CheckpointError when `path` exists and `force` is not set, is no place for a file, its
        folder is missing or the disk is full.
    """
    path = check_destination(path, force=force)
    # Widest elements first: every tensor then starts at a multiple of its element size.
    plan = sorted(
        ((name, _stored_dtype(name, tensor, dtype)) for name, tensor in tensors.items()),
        key=lambda item: (-item[1].itemsize, item[0]),
    )
    header, total = _header(plan, tensors, metadata)
    _check_space(path, len(header) + total)
    with replace_weights_file(path, force=force) as file:
        file.write(header)
        written = 0
        for name, stored in plan:
            tensor = tensors[name].detach()
            if convert is not None and tensor.is_floating_point():
                tensor = convert(name, tensor, stored)
            data = tensor.to(stored).contiguous().cpu().flatten().view(torch.uint8).numpy()
            file.write(data.data)
            written += data.nbytes
            if progress is not None:
                progress(written, total)
    return len(header) + total


@contextlib.contextmanager
def replace_weights_file(path, *, force: bool = False):
    """A binary file to write to that becomes `path` when the block ends, and vanishes if it fails.

    Raises: CheckpointError as `write_state_dict`.
    """
    path = check_destination(path, force=force)
    try:
        with replace_file(path) as file:
            yield file
            # Another program may have made the file in the meantime.
            check_destination(path, force=force)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}); nothing was left behind. "
            "Free some space, or choose a place that can be written to."
        ) from error


def check_destination(path, *, force: bool = False) -> Path:
    """The path, if a file may be written there.

    Raises: CheckpointError for a folder, a missing folder, a name that no file can have, or an
        existing file without `force`.
    """
    path = Path(path)
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # too long, through a file, with a NUL byte
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"no file can be written as {str(path)[:200]!r} ({reason}); choose another name"
        ) from None
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the name of the file to write.")
    if not path.parent.is_dir():
        raise CheckpointError(
            f"there is no folder {path.parent} to write {path.name} into; make it."
        )
    if path.exists() and not force:
        raise CheckpointError(
            f"{path} exists and is left as it is. Give another name, or force to replace it."
        )
    return path


def _stored_dtype(name: str, tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    stored = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    if stored not in _DTYPE_NAMES:
        raise CheckpointError(
            f"{name} cannot be written as {stored}; expected one of "
            f"{', '.join(str(d).removeprefix('torch.') for d in _DTYPE_NAMES)}."
        )
    return stored


def _header(plan, tensors, metadata) -> tuple[bytes, int]:
    # Sorted, as safetensors hands metadata out in any order: one source makes one file.
    about = {str(key): str(metadata[key]) for key in sorted(metadata)}
    entries: dict[str, object] = {"__metadata__": about}
    end = 0
    for name, stored in plan:
        start, end = end, end + tensors[name].numel() * stored.itemsize
        entries[name] = {
            "dtype": _DTYPE_NAMES[stored],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, end


def _check_space(path: Path, needed: int):
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise CheckpointError(
            f"{path} needs {needed:,} bytes, its disk has {free:,} free. Free some space, choose "
            "another disk, or a smaller dtype."
        )
