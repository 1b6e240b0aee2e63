"""The best, the middle and the worst of what was scored, as pictures to look at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...kit.pictures.contact_sheet import draw_contact_sheet
from ..domains import find_domain

PLACES = ("best", "middle", "worst")


@dataclass(frozen=True)
class Example:
    """One scored map. scene: its seed or name. cells: titles and pictures (3, H, W) side by side,
    all in [0, 1]."""

    label: str
    place: str
    scene: str
    caption: str
    measure: str
    score: float
    cells: list[tuple[str, Tensor]]

    @property
    def file(self) -> str:
        return f"{self.label}_{self.place}.png"

    def describe(self) -> str:
        """One line: which label and scene, and how it scored."""
        about = f" ({self.caption})" if self.caption else ""
        title = find_domain(self.label).title
        return f"{title}, {self.place}: {self.scene}{about}, {self.measure} {self.score:.4g}"

    def draw(self) -> Tensor:
        """The pictures on one sheet, (3, H, W)."""
        return draw_contact_sheet([self.cells])


def pick_places(scores: Sequence[float], higher: bool) -> dict[str, int]:
    """Which of the scores are the best, the middle and the worst: place -> index.

    higher: whether a higher score is better. Scores that are not finite are left out; of an even
    number the middle is the worse one. Empty where no score is left. Of equal ones the first is
    the better.
    """
    known = [i for i, score in enumerate(scores) if math.isfinite(score)]
    if not known:
        return {}
    ranked = sorted(known, key=lambda i: -scores[i] if higher else scores[i])
    return dict(zip(PLACES, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True))
