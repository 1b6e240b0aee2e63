"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block ends, and vanishes if it fails.

    It is flushed to the disk before it gets its name, so that a crash leaves the old file or the
    new one. Raises: OSError as the system does.
    """
    path = Path(path)
    partial = path.with_name(f".{secrets.token_hex(8)}.part")  # short: room for any name's folder
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        # also after Ctrl-C; once renamed there is nothing left to remove
        with contextlib.suppress(OSError, ValueError):
            partial.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a text file in one step; folders are made. Raises: OSError as the system does."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))
