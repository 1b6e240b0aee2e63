"""How closely a picture keeps to the label it was made from, read back by an independent network.

The network never is the model itself. The reader (`kit/reader`) knows classes, colours and people,
so it reads back segmentation, albedo and joints; any program that makes maps (`real.Infer`) reads
back the labels it knows. What the network says of the true picture is the floor; what it says of
another scene's picture is chance.

    segmentation   share of pixels whose class is another one
    albedo         share of pixels whose colour word is another one
    openpose       share of visible joints where no person is
    by a program: depth AbsRel; normal mean angle in degrees; edge, lineart 1 - F; albedo RMSE;
    segmentation 1 - mean IoU; openpose 1 - PCK
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ...kit.reader.claims import INDEX
from ...kit.reader.network import COLORS
from ...kit.reader.reader import Cells, Reader
from ...kit.scenes.captions import COLOR_TOLERANCE, COLOR_WORDS, NOUNS, find_noun_class
from ...kit.scenes.render import SceneBatch
from .real import Infer, fit_map
from .scores import Tally, Values, make_tally, ratio

UNLABELED = SEGMENTATION_CLASSES.index("unlabeled")
NEAR = 1
"""Cells around a joint where a person counts as being there."""

_CLASS_OF_NOUN = torch.tensor([find_noun_class(noun) for noun in NOUNS])


class CellTally(Tally):
    """The error of one label as the reader reads it back: a share of pixels, or of joints."""

    headline = ("error",)

    def __init__(self, reader: Reader, name: str):
        super().__init__()
        self._reader, self._count = reader, BY_READER[name]

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        return self._count(self._reader.read_cells(picture), truth)

    def _summarise(self, total: np.ndarray) -> Values:
        return {"error": ratio(total[..., 0], total[..., 1])}


class ProgramTally(Tally):
    """The error of one label as another program reads it back."""

    headline = ("error",)

    def __init__(self, infer: Infer, name: str):
        super().__init__()
        self._infer, self._name, self._tally = infer, name, make_tally(name)

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        maps = [self._infer(p[None], (self._name,))[self._name] for p in picture]
        drawn = [fit_map(m, picture.shape[-2:], self._name) for m in maps]
        return self._tally._measure(torch.stack(drawn), truth)

    def _summarise(self, total: np.ndarray) -> Values:
        measure = self._tally.headline[0]
        value = self._tally._summarise(total)[measure]
        if measure == "psnr":
            return {"error": 10 ** (-value / 20)}
        return {"error": value if measure in ("absrel", "mean_deg") else 1 - value}


def make_error_tally(name: str, reader: Reader, infer: Infer | None = None) -> Tally | None:
    """What reads back a label; `infer` goes before the reader. None where nothing can."""
    if infer is not None:
        return ProgramTally(infer, name)
    return CellTally(reader, name) if name in BY_READER else None


def _count_classes(cells: Cells, truth: SceneBatch) -> np.ndarray:
    known = truth.classes.cpu() != UNLABELED
    read = _enlarge(_CLASS_OF_NOUN[cells.nouns], known.shape[-2:])
    return _counts(known & (read != truth.classes.cpu()), known)


def _count_colors(cells: Cells, truth: SceneBatch) -> np.ndarray:
    words = find_color_words(truth.albedo.cpu())
    known = words != len(COLORS)
    return _counts(known & (_enlarge(cells.colors, known.shape[-2:]) != words), known)


def _count_joints(cells: Cells, truth: SceneBatch) -> np.ndarray:
    """Visible joints whose cell, and those within `NEAR` of it, are no person's; all of them."""
    rows = []
    height, width = truth.depth.shape[-2:]
    for nouns, people in zip(cells.nouns, truth.keypoints.cpu(), strict=True):
        person, missed, seen = nouns == INDEX["person"], 0, 0
        for x, y, visible in people.flatten(0, -2).tolist():
            if visible:
                i, j = (y + 0.5) / height * len(person), (x + 0.5) / width * person.shape[1]
                own = person[
                    max(0, int(i) - NEAR) : int(i) + NEAR + 1,
                    max(0, int(j) - NEAR) : int(j) + NEAR + 1,
                ]
                missed, seen = missed + int(not own.any()), seen + 1
        rows.append((missed, seen))
    return np.array(rows, dtype=np.float64)


BY_READER: dict[str, Callable[[Cells, SceneBatch], np.ndarray]] = {
    "segmentation": _count_classes,
    "albedo": _count_colors,
    "openpose": _count_joints,
}
"""Labels that the reader reads back: rows (wrong, of how many) of each picture."""


def find_color_words(albedo: Tensor) -> Tensor:
    """Number of each pixel's colour word, the nearest of those within the tolerance on every
    channel; `len(COLORS)` for none. (B, 3, H, W) in [0, 1] -> (B, H, W)."""
    words = torch.tensor([COLOR_WORDS[word] for word in COLORS])
    away = (albedo.unsqueeze(1) - words.view(1, -1, 3, 1, 1)).abs().amax(dim=2)
    distance, nearest = away.min(dim=1)
    return torch.where(distance <= COLOR_TOLERANCE, nearest, len(COLORS))


def _enlarge(cells: Tensor, size) -> Tensor:
    """(B, G, G) numbers -> (B, H, W), each pixel that of its cell."""
    rows = torch.arange(size[0]) * cells.shape[-2] // size[0]
    columns = torch.arange(size[1]) * cells.shape[-1] // size[1]
    return cells[:, rows][:, :, columns]


def _counts(wrong: Tensor, known: Tensor) -> np.ndarray:
    return torch.stack([wrong.sum(dim=(1, 2)), known.sum(dim=(1, 2))], dim=1).double().numpy()
