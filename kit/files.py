"""Files that are written whole or not at all, and small ones that are checked when read."""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import CheckpointError


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


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """The text of a file. A pipe, which would be waited for, or a device is refused.

    Raises: OSError as the system does, and for what is no file; UnicodeDecodeError.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no file on a disk", str(path))
    return path.read_text(encoding=encoding)


def read_json(path: str | os.PathLike, keys: Iterable[str] = ()) -> dict:
    """The object in a JSON file that this program wrote.

    Raises: CheckpointError when the file is missing, damaged, no object, or lacks one of the keys.
    """
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _damaged(path, reason) from None
    if not isinstance(values, dict):
        raise _damaged(path, "it holds no JSON object")
    missing = [key for key in keys if key not in values]
    if missing:
        raise _damaged(path, f"it has no {', '.join(missing)}")
    return values


def _damaged(path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read ({reason}); remove it and start over")
