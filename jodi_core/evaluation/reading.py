"""What the independent reader finds of a caption in the picture made from it."""

import numpy as np
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ...kit.reader.claims import Claims
from ...kit.reader.reader import Reader
from ...kit.scenes.captions import find_noun_class, read_caption
from .scores import Tally, Values, ratio


class ReadingTally(Tally):
    """Shares of the classes and of the colours that captions name which the reader finds.

    As `consistency.check_captions`, with the reader's word in place of segmentation and albedo: it
    knows pictures of scenes alone, no model and no label.
    """

    headline = ("classes", "colors")

    def __init__(self, reader: Reader):
        super().__init__()
        self.reader = reader

    def add_pictures(self, pictures: Tensor, captions: list[str]) -> None:
        """Pictures (B, 3, H, W) in [0, 1] and what each was made from."""
        claims = self.reader.read(pictures.detach().float().cpu())
        rows = [count_found(*pair) for pair in zip(claims, captions, strict=True)]
        self._rows.append(np.array(rows, dtype=np.float64))

    def _summarise(self, total: np.ndarray) -> Values:
        return {
            "classes": ratio(total[..., 0], total[..., 1]),
            "colors": ratio(total[..., 2], total[..., 3]),
        }


def count_found(claims: Claims, caption: str) -> tuple[int, int, int, int]:
    """Classes found, classes named, colours found, colours named.

    "Unlabeled" things have no class of their own and are left out; a colour is found when any noun
    of its class has it.
    """
    facts = [f for f in read_caption(caption) if SEGMENTATION_CLASSES[f[2]] != "unlabeled"]
    classes = {find_noun_class(noun) for noun in claims.classes}
    colors = {(find_noun_class(noun), color) for noun, color in claims.colors}
    named = {index for _, _, index in facts}
    worn = [(index, color) for color, _, index in facts if color is not None]
    return len(named & classes), len(named), sum(pair in colors for pair in worn), len(worn)
