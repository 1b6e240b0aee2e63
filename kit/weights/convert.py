"""Rewriting a weight file as safetensors that says what it is."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...jodi_core.model.checkpoint import checked_transformer
from ...jodi_core.model.config import JODI_1600M, TransformerConfig
from ..autoencoder import keys as autoencoder_keys
from ..autoencoder.checkpoint import checked_autoencoder
from ..autoencoder.config import AutoencoderConfig
from ..errors import CheckpointError
from . import kinds as file_kind
from .kinds import identify
from .loading import cast, float_dtype
from .read import read_state_dict
from .write import Progress, checked_destination, write_state_dict

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
    config: TransformerConfig | AutoencoderConfig


def convert(
    src,
    dst,
    *,
    dtype: torch.dtype | str | None = None,
    force: bool = False,
    config: TransformerConfig | AutoencoderConfig | None = None,
    naming: str = autoencoder_keys.MIT_HAN_LAB,
    progress: Progress | None = None,
) -> Conversion:
    """Rewrite a transformer or an autoencoder as safetensors, checked strictly, with its sizes.

    The metadata gets `kind`, `config` (JSON), `jodi_format`, `source`, `source_sha256`, `dtype` and
    for a transformer of the eight domains `trained_roles`; what else it held stays. `dst` is
    written whole or not at all, and never over an existing file without `force`.

    dtype: of floating weights; None keeps the file's own (the widest, where they are mixed).
    config: sizes, for a file whose own cannot be inferred.
    naming: of the autoencoder's keys, "mit-han-lab" or "diffusers".
    progress: called with (bytes written, bytes in all).
    Raises: CheckpointError for whatever keeps `src` from loading or `dst` from being written, and
        for values that the dtype cannot hold.
    """
    src, dst = Path(src), Path(dst)
    dtype = parse_dtype(dtype)
    if dst.suffix not in (".safetensors", ".sft"):
        raise CheckpointError(f"{dst.name} will be a safetensors file; let its name end so.")
    checked_destination(dst, force=force)
    state, metadata = read_state_dict(src)
    kind, state, config = _checked(state, metadata, config, naming, str(src))
    dtype = dtype or float_dtype(state)
    sha256 = file_sha256(src)
    described = {
        **metadata,
        "format": "pt",
        "jodi_format": FORMAT_VERSION,
        "kind": kind,
        "config": config.to_json(),
        "source": src.name,
        "source_sha256": sha256,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if isinstance(config, TransformerConfig) and config.num_domains == JODI_1600M.num_domains:
        described.setdefault("trained_roles", "published")
    size = write_state_dict(
        dst, state, described, dtype=dtype, convert=cast, force=force, progress=progress
    )
    return Conversion(
        kind=kind,
        source=src,
        destination=dst,
        source_sha256=sha256,
        dtype=described["dtype"],
        tensors=len(state),
        parameters=sum(t.numel() for t in state.values()),
        bytes=size,
        config=config,
    )


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A weight dtype from its name ("bf16", "bfloat16", ...); None stays None.

    Raises: CheckpointError for any other.
    """
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and found not in DTYPES.values():
        raise CheckpointError(f"weights cannot be stored as {dtype}; use {', '.join(DTYPES)}")
    return found


def file_sha256(path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _checked(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], config, naming: str, source: str
) -> tuple[str, Mapping[str, Tensor], TransformerConfig | AutoencoderConfig]:
    """Kind, tensors under the names to write, sizes, all proved to load."""
    if identify(state) in (file_kind.DCAE, file_kind.DCAE_DIFFUSERS):
        _check_config_type(config, AutoencoderConfig)
        state, config = checked_autoencoder(state, metadata, config=config, source=source)
        return file_kind.DCAE.name, autoencoder_keys.to_naming(state, naming), config
    _check_config_type(config, TransformerConfig)
    state, config = checked_transformer(state, metadata, config=config, source=source)
    return file_kind.JODI.name, state, config


def _check_config_type(config, wanted: type):
    if config is not None and not isinstance(config, wanted):
        raise CheckpointError(
            f"the config passed is a {type(config).__name__}, the file needs a {wanted.__name__}."
        )
