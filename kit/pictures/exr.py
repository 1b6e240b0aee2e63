"""OpenEXR files of named float channels: many layers of one picture in one file.

The only place that knows OpenEXR's own Python library, which is optional.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import ImageError, JodiError
from ..files import replace_file

MISSING = (
    "EXR files need OpenEXR's own library, which this Python lacks; install it with "
    "`pip install OpenEXR` (ComfyUI: in the Python that runs it; command line: the extra "
    "`[exr]`), then start again"
)


def check_installed() -> None:
    """Raises: JodiError, saying what to install, when files cannot be written here."""
    _library()


def write_exr(
    path: str | os.PathLike,
    channels: Mapping[str, np.ndarray],
    metadata: Mapping[str, str | float] | None = None,
) -> None:
    """Write one scan-line EXR, whole or not at all; values keep all 32 bits.

    Shapes: channels, full name ("albedo.R") -> (H, W) float32, all of one size. metadata: header
    attributes, text or number. Compression is ZIP, which loses nothing. An existing file is
    replaced, folders are made.
    Raises: JodiError when OpenEXR is not installed; ImageError for channels that are no planes of
    one size, or when writing fails.
    """
    library = _library()
    _check(channels)
    header = {
        "compression": library.ZIP_COMPRESSION,
        "type": library.scanlineimage,
        **(metadata or {}),
    }
    planes = {name: np.ascontiguousarray(plane) for name, plane in channels.items()}
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            library.File(header, planes).write(file.name)
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageError(f"could not write {path}: {error}") from error


def read_exr(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Channels by full name, each (H, W) as stored, and the header of an EXR of one part.

    Raises: JodiError when OpenEXR is not installed; ImageError for an unreadable file.
    """
    library = _library()
    try:
        with library.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
            return channels, dict(file.header())
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageError(f"{path} is not an EXR file that can be read ({error})") from error


def _library():
    try:
        import OpenEXR  # noqa: PLC0415  (optional)
    except ImportError:
        raise JodiError(MISSING) from None
    if not hasattr(OpenEXR, "File"):  # bindings before 3.3
        raise JodiError("this OpenEXR is too old; install 3.3 or newer: `pip install -U OpenEXR`")
    return OpenEXR


def _check(channels: Mapping[str, np.ndarray]) -> None:
    if not channels:
        raise ImageError("an EXR file needs at least one channel, got none")
    sizes = {plane.shape for plane in channels.values()}
    if len(sizes) > 1 or any(len(size) != 2 or 0 in size for size in sizes):
        listing = ", ".join(f"{name} {plane.shape}" for name, plane in channels.items())
        raise ImageError(f"expected channels of one size (height, width), got {listing}")
    for name, plane in channels.items():
        if plane.dtype != np.float32:
            raise ImageError(f"channel {name}: expected float32 values, got {plane.dtype}")
