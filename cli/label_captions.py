"""Which model writes the captions of a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..ddit_core.embedded import TEXT_ENCODER, TRANSFORMER, load_embedded_pipeline
from ..ddit_core.evaluation.nano import CAPTION_OPTIONS
from ..jodi_core.embedded import AUTOENCODER
from ..jodi_core.labelling.batch import Caption


class Captioner(NamedTuple):
    """name: of the model, the key of its captions. files: its weights. write: see `Caption`."""

    name: str
    files: Sequence[Path]
    write: Caption


def load_captioner(device: torch.device) -> Captioner:
    """The built-in ddit-nano, in float32."""
    pipeline, name = load_embedded_pipeline(str(device)), TRANSFORMER.stem

    def write(picture: Tensor, seed: int) -> dict[str, str]:
        (text,) = pipeline.caption(picture, options=CAPTION_OPTIONS, seed=seed).texts
        return {name: text}

    return Captioner(name, (TRANSFORMER, TEXT_ENCODER, AUTOENCODER), write)
