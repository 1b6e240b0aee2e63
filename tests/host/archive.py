"""The files that ComfyUI's registry hands to users: all but what two ignore files name."""

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

from ..hosts import ROOT

IGNORES = (".gitignore", ".comfyignore")


def files(root: Path = ROOT) -> list[Path]:
    """Relative paths, sorted.

    Raises: ValueError for a pattern beyond the part of gitignore's syntax that is read here.
    """
    patterns = [pattern for name in IGNORES for pattern in _patterns(root / name)]
    found = []
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _ignored(here / name, True, patterns)]
        found += [here / name for name in names if not _ignored(here / name, False, patterns)]
    return sorted(found)


def unpack(target: Path) -> Path:
    """Copy the archive's files into a folder, as an installation does."""
    for file in files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target / file)
    return target


def _patterns(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    for pattern in patterns:
        loose = "/" in pattern.rstrip("/") and not pattern.startswith("/")
        if loose or pattern.startswith("!") or "**" in pattern:
            raise ValueError(f"{file.name}: write {pattern} as /folder/ or as a plain name")
    return patterns


def _ignored(path: Path, is_folder: bool, patterns: list[str]) -> bool:
    for pattern in patterns:
        if pattern.endswith("/") and not is_folder:
            continue
        subject = path.as_posix() if pattern.startswith("/") else path.name
        if fnmatch(subject, pattern.strip("/")):
            return True
    return False
