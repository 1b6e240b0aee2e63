"""Which model writes the captions of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..jodi_core.labelling.batch import Caption
from .options import UsageError


class Captioner(NamedTuple):
    """name: of the model, the key of its captions. files: its weights. write: see `Caption`."""

    name: str
    files: Sequence[Path]
    write: Caption


def load_captioner(device: torch.device) -> Captioner:
    """The captioner that comes with this package. Raises: UsageError where there is none."""
    raise UsageError(
        "--captions needs a model that writes them, and this version brings none (docs/ddit.md); "
        "leave --captions out"
    )
