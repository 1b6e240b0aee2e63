"""Rewriting a weight file as safetensors that says what it is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..config import JsonConfig
from ..errors import CheckpointError
from .kinds import require_kind
from .loading import Checked, Format, cast, check, find_float_dtype, name_dtype, name_source
from .read import read_state_dict
from .write import Progress, check_destination, write_state_dict

FORMAT_VERSION = "1"
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Conversion:
    """What was converted: for a report, and equal to what stands in the new file's metadata."""

    kind: str
    source: Path
    destination: Path
    source_sha256: str
    dtype: str
    tensors: int
    parameters: int
    bytes: int
    config: JsonConfig


def convert(
    src,
    dst,
    formats: Sequence[Format],
    *,
    dtype: torch.dtype | str | None = None,
    force: bool = False,
    config: JsonConfig | None = None,
    naming: str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Rewrite a file of one of these formats as safetensors, checked strictly, with its sizes.

    The metadata gets `kind`, `config` (JSON), `jodi_format`, `source`, `source_sha256`, `dtype` and
    what the format adds; what else it held stays. `dst` is written whole or not at all, and never
    over an existing file without `force`.

    dtype: of floating weights; None keeps the file's own (the widest, where they are mixed).
    config: sizes, for a file whose own cannot be inferred.
    naming: of the tensors, for a format that knows several; None is ours.
    progress: called with (bytes written, bytes in all).
    Raises: CheckpointError for whatever keeps `src` from loading or `dst` from being written, and
        for values that the dtype cannot hold.
    """
    src, dst = Path(src), Path(dst)
    dtype = parse_dtype(dtype)
    if dst.suffix not in (".safetensors", ".sft"):
        raise CheckpointError(f"{dst.name} will be a safetensors file; let its name end so.")
    check_destination(dst, force=force)
    content = read_state_dict(src)
    wanted = tuple(kind for format in formats for kind in format.fits)
    kind = require_kind(content.tensors, wanted, str(src))
    format = next(format for format in formats if kind in format.fits)
    _check_config_type(config, format.config)
    checked = check(content, format, kind=kind, config=config, source=str(src))
    dtype = dtype or find_float_dtype(checked.state)
    described = _describe(checked, format, src, dtype)
    state = format.other_names(checked.state, naming)

    def cast_named(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        with name_source(str(src)):
            return cast(name, tensor, dtype)

    size = write_state_dict(
        dst, state, described, dtype=dtype, convert=cast_named, force=force, progress=progress
    )
    return Conversion(
        kind=format.kind.name,
        source=src,
        destination=dst,
        source_sha256=described["source_sha256"],
        dtype=described["dtype"],
        tensors=len(state),
        parameters=sum(t.numel() for t in state.values()),
        bytes=size,
        config=checked.config,
    )


def _describe(checked: Checked, format: Format, src: Path, dtype: torch.dtype) -> dict[str, str]:
    """The metadata of the new file."""
    return {
        **format.adds(checked.config),
        **checked.metadata,
        "format": "pt",
        "jodi_format": FORMAT_VERSION,
        "kind": format.kind.name,
        "config": checked.config.to_json(),
        "source": src.name,
        "source_sha256": hash_file(src),
        "dtype": name_dtype(dtype),
    }


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A weight dtype from its name ("bf16", "bfloat16", ...); None stays None.

    Raises: CheckpointError for any other.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise CheckpointError(f"weights cannot be stored as {dtype}; use {', '.join(DTYPES)}")
    return found


def hash_file(path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _check_config_type(config, wanted: type):
    if config is not None and not isinstance(config, wanted):
        raise CheckpointError(
            f"the config passed is a {type(config).__name__}, the file needs a {wanted.__name__}."
        )
