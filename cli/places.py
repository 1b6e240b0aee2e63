"""Where results go, looked at before anything is computed."""

import os
from pathlib import Path

from .inputs import LONGEST_NAME
from .options import UsageError


def check_folder(folder: Path, option: str = "--out") -> None:
    """Pass when results can be written there, in a folder that exists or can be made.

    Raises: UsageError otherwise, naming the option.
    """
    _check_name(folder, option, "folder")
    for place in (folder, *folder.parents):
        if not os.path.lexists(place):
            continue
        if not place.is_dir():
            raise UsageError(f"{option} {folder}: {place} is no folder; choose another name")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(
                f"{option} {folder}: nothing may be written in {place}; choose another"
            )
        return


def check_file(path: Path, option: str) -> None:
    """Pass when a file can be written there; an existing one may be replaced.

    Raises: UsageError otherwise, naming the option.
    """
    _check_name(path, option, "file")
    if path.is_dir():
        raise UsageError(f"{option} {path}: this is a folder; give the name of a file in it")
    check_folder(path.parent, option)


def _check_name(path: Path, option: str, what: str) -> None:
    name = str(path)
    if "\0" in name or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UsageError(f"{option}: no {what} can be called {name[:80]!r}; choose another name")
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # free, or found out below
    except OSError as error:  # a loop of links, a way longer than the system takes
        raise UsageError(
            f"{option} {name[:80]}: {error.strerror or error}; choose another name"
        ) from None
