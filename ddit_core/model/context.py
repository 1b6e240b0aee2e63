"""What is computed once for a job and read at every step.

Shapes: as in `transformer`.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from .blocks import Read


@dataclass(frozen=True)
class Modulations:
    """The modulation of both streams at N times.

    blocks: for each block, image and text (N, 6, C). image_head: (N, 2, C), scale and shift.
    """

    blocks: list[tuple[Tensor, Tensor]]
    image_head: Tensor | None

    def row(self, index: int) -> "Modulations":
        """The modulation of one time."""
        return self._each(lambda part: part[index : index + 1])

    def repeated(self, times: int) -> "Modulations":
        """One modulation per row, repeated for each text; that of a single time is not repeated."""
        return self._each(lambda part: part if len(part) == 1 else part.repeat(times, 1, 1))

    def _each(self, change) -> "Modulations":
        head = None if self.image_head is None else change(self.image_head)
        return Modulations([(change(i), change(t)) for i, t in self.blocks], head)


@dataclass(frozen=True)
class TextContext:
    """Context of a picture job: text stream (texts * rows, L, C) and modulation of known levels."""

    text: Tensor
    rows: int
    texts: int
    known: dict[float, int]
    modulations: Modulations | None


@dataclass(frozen=True)
class PictureContext:
    """Context of a text job: image tokens (B, T, C), and the first block's queries, keys and values
    of them.

    read: None for a model of a single block, which does not need it.
    """

    modulations: Modulations
    image: Tensor
    read: Read | None

    def select(self, rows: Tensor) -> "PictureContext":
        """The pictures of some rows (R,); a single picture for all rows stays single."""
        if len(self.image) == 1:
            return self
        return self._each(lambda part: part[rows])

    def expanded(self, rows: int) -> "PictureContext":
        """One picture as `rows` rows, without a copy."""
        if len(self.image) == rows:
            return self
        return self._each(lambda part: part.expand(rows, *part.shape[1:]))

    def _each(self, change) -> "PictureContext":
        read = self.read
        if read is not None:
            q, k, v = (change(part) for part in read)
            read = q, k, v
        return replace(self, image=change(self.image), read=read)
