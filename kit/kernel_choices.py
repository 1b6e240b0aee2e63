"""A file that remembers which kernels are faster on which card."""

import json
from pathlib import Path

from ..kernels import choices
from .files import write_text

NAME = "kernels.json"


def remember_kernels_in(folder: str | Path | None) -> None:
    """Keep what kernels' trials find in `folder`/kernels.json from now on; None: nowhere.

    The folder is made at the first write. What cannot be read or written costs a new trial and a
    line in the log, never the job.
    """
    choices.keep_in(None if folder is None else _JsonFile(Path(folder) / NAME))


class _JsonFile:
    """See `kernels.choices.Memory`."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> dict:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        if not isinstance(content, dict):
            raise ValueError(f"{self._path} holds no table of choices")
        return content

    def save(self, content: dict) -> None:
        write_text(self._path, json.dumps(content, indent=1, sort_keys=True) + "\n")
