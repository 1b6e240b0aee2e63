"""Reading pictures: load the trained network, and turn what it says into claims."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import JodiError
from ..scenes.captions import NOUNS, is_counted
from ..weights.read import read_state_dict
from .claims import INDEX, LEFT_MARGIN, MOST, Claims
from .network import COLORS, SIZE, Reading, ReadingNetwork

WEIGHTS = Path(__file__).parent / "reader.safetensors"
KIND = "scene reader"
SOFTNESS = 0.02  # of the margin of "left of", as a share of the width: the network's own error
BATCH = 64
COUNTED = tuple(noun for noun in NOUNS if is_counted(noun))


@dataclass(frozen=True)
class Cells:
    """What each of G x G cells of N pictures shows. nouns (N, G, G): numbers in `NOUNS`; colors
    (N, G, G): numbers in `COLORS`, or `len(COLORS)` for no colour word."""

    nouns: Tensor
    colors: Tensor


class Reader:
    """Says what pictures of rendered scenes show; knows nothing of who made them.

    errors: its own precision and recall on held-out scenes, by "rendered" or "round_trip" and kind
    of claim.
    """

    def __init__(self, network: ReadingNetwork, errors: dict | None = None):
        self.network, self.errors = network.eval(), errors or {}

    @torch.inference_mode()
    def read(self, pictures: Tensor) -> list[Claims]:
        """The claims of each picture.

        pictures: (N, 3, H, W) in [0, 1]; other sizes than 64 x 64 are resampled to it.
        Raises: JodiError for another shape, or values that are not finite.
        """
        claims = []
        for said in self._say(pictures):
            claims += [_claims(said, index) for index in range(len(said.presence))]
        return claims

    @torch.inference_mode()
    def read_cells(self, pictures: Tensor) -> Cells:
        """The likeliest noun and colour word of each cell; pictures and errors as for `read`."""
        said = [(r.nouns.argmax(1).cpu(), r.colors.argmax(1).cpu()) for r in self._say(pictures)]
        nouns, colors = zip(*said, strict=True)
        return Cells(torch.cat(nouns), torch.cat(colors))

    def _say(self, pictures: Tensor) -> Iterator[Reading]:
        if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.isfinite().all():
            raise JodiError(
                f"the reader takes finite pictures (N, 3, H, W), got {tuple(pictures.shape)}"
            )
        for chunk in pictures.float().clamp(0, 1).split(BATCH):
            if chunk.shape[-2:] != (SIZE, SIZE):
                chunk = F.interpolate(chunk, (SIZE, SIZE), mode="bilinear", antialias=True)
            yield self.network(chunk.to(self.network.embedding.device))


def load_reader(path: str | Path = WEIGHTS) -> Reader:
    """The trained reader; float32, on the CPU.

    Raises: CheckpointError when there is no such file or it is damaged; JodiError when its weights
    are those of another network.
    """
    content = read_state_dict(path)
    network = ReadingNetwork()
    try:
        network.load_state_dict({name: t.float() for name, t in content.tensors.items()})
    except RuntimeError as error:
        raise JodiError(
            f"{path} holds no {KIND} of this version ({str(error)[:80]}); train one with "
            "`jodi train reader`, or install the package again"
        ) from None
    return Reader(network, json.loads(content.metadata.get("errors", "{}")))


def _claims(said: Reading, index: int) -> Claims:
    presence = said.presence[index].sigmoid().tolist()
    counts = said.counts[index].softmax(-1)
    worn = said.worn[index].sigmoid().tolist()
    middle = said.middle[index].tolist()
    there = [noun for noun in NOUNS if presence[INDEX[noun]] >= 0.5]
    classes = {
        noun: 1 + int(counts[INDEX[noun]].argmax()) if noun in COUNTED else 1 for noun in there
    }
    colors = {
        (noun, color): presence[INDEX[noun]] * worn[INDEX[noun]][k]
        for noun in NOUNS
        for k, color in enumerate(COLORS)
    }
    left = {
        (one, other): _left(presence, middle, INDEX[one], INDEX[other])
        for one in COUNTED
        for other in COUNTED
        if one != other
    }
    seen = set(there)
    return Claims(
        classes,
        {pair for pair, p in colors.items() if pair[0] in seen and p >= 0.5},
        {pair for pair, p in left.items() if seen.issuperset(pair) and p >= 0.5},
        dict(zip(NOUNS, presence, strict=True)),
        {noun: tuple(counts[INDEX[noun]].tolist()) for noun in COUNTED},
        colors,
        left,
    )


def _left(presence: list[float], middle: list[float], one: int, other: int) -> float:
    apart = (middle[other] - middle[one] - LEFT_MARGIN) / SOFTNESS
    return presence[one] * presence[other] * float(torch.tensor(apart).sigmoid())


__all__ = ["COUNTED", "MOST", "WEIGHTS", "Cells", "Reader", "load_reader"]
