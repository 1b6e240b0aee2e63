"""The pictures of `jodi label`, their names in the data set, and the lock on its folder."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..jodi_core.labelling.layout import OutputError
from ..jodi_core.labelling.plan import WORK, Plan, Source
from ..kit.errors import JodiError
from ..kit.pictures.files import SUFFIXES
from .inputs import Problem, find_pictures, name_apart
from .options import UsageError

LOCK = "lock"
ENDING = ".jpg.png"  # of the longest name that a picture or a map has


def list_pictures(folder: Path, root: Path) -> tuple[list[tuple[str, int]], list[Problem]]:
    """Pictures in a folder and those below it, as (file, bytes) by name, and what is no picture.

    Names are relative to the folder, with `/`. root: the data set, which is left out where it lies
    inside. Raises: UsageError for something that is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder that holds the pictures")
    problems: list[Problem] = []

    def failed(error: OSError) -> None:
        problems.append((str(error.filename), f"cannot be read: {error.strerror or error}"))

    found = []
    for place, folders, files in os.walk(folder, onerror=failed):
        folders[:] = [f for f in folders if f[0] != "." and Path(place, f).absolute() != root]
        if any(Path(name).suffix.lower() in SUFFIXES for name in files):
            found += find_pictures([Path(place)])[0]
    pictures = []
    for path in found:
        try:
            status = path.stat()
        except OSError as error:
            failed(error)
            continue
        if stat.S_ISREG(status.st_mode):
            pictures.append((path.relative_to(folder).as_posix(), status.st_size))
        else:
            problems.append((str(path), "is no file; expected a picture file"))
    return sorted(pictures), problems


def name_sources(found: Sequence[tuple[str, int]], begun: Plan | None) -> list[Source]:
    """The pictures with their names in the data set: old ones keep theirs, new ones get others."""
    stems = {} if begun is None else {source.file: source.stem for source in begun.sources}
    new = [file for file, _ in found if file not in stems]
    wanted = [*stems.values(), *(_stem(file) for file in new)]
    apart = name_apart(wanted, [ENDING], Path(), [])
    stems |= dict(zip(new, apart[len(stems) :], strict=True))
    return [Source(file, size, stems[file]) for file, size in found]


def _stem(file: str) -> str:
    """`trips/rome/a.jpg` -> `trips_rome_a`, without what some file systems or readers refuse."""
    stem = "_".join(PurePosixPath(file).with_suffix("").parts)
    return re.sub(r'[\x00-\x1f\x7f<>:"\\|?*\ud800-\udfff]', "_", stem).strip(" .") or "picture"


@contextlib.contextmanager
def hold_lock(root: Path) -> Iterator[None]:
    """Keeps a second run out of a data set; the lock of a run that was killed is none.

    Raises: JodiError when another run holds it, OutputError when the folder cannot be written to.
    """
    path = root / WORK / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")  # noqa: SIM115  (closed below, before it is removed)
    except OSError as error:
        raise OutputError(f"could not write {path}: {error.strerror or error}") from error
    try:
        if not _take(file):
            raise JodiError(f"another `jodi label` is at work in {root}; wait for it, or stop it")
    except JodiError:
        file.close()
        raise
    try:
        yield
    finally:
        file.close()
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # fails where an interrupted run left its lines
            root.rmdir()  # fails but where nothing was begun


def _take(file) -> bool:
    """Whether this process has the file for itself now, until it ends."""
    try:
        if os.name == "nt":
            import msvcrt  # noqa: PLC0415  (on Windows only)

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415  (everywhere else)

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # a network disk that knows no locks must not keep anybody from working
        return error.errno not in (11, 13, 35, 36)
    return True
