"""Masks of texts, found again after another node joined texts.

Conditioning Concat puts the features of two texts side by side and keeps the mask of the first. The
masks of recently encoded texts are kept here and found by their features.
Shapes: S text tokens, Cc text channels.
"""

import torch
from torch import Tensor

TEXTS_KEPT = 64


class Masks:
    """The masks of the texts encoded last, by content."""

    def __init__(self, limit: int = TEXTS_KEPT):
        self.limit = limit
        self._known: list[tuple[Tensor, Tensor]] = []

    def remember(self, features: Tensor, mask: Tensor) -> None:
        """Keep the mask (1, S) of features (1, S, Cc)."""
        number = _number(features)
        kept = [known for known in self._known if not torch.equal(known[0], number)]
        self._known = [*kept, (number, mask.detach().cpu())][-self.limit :]

    def complete(self, features: Tensor, mask: Tensor) -> Tensor | None:
        """The mask (rows, S) of joined features (rows, S, Cc), from that of the first text.

        None where a text behind the first is not known.
        """
        mask = mask.expand(len(features), -1)
        while mask.shape[1] < features.shape[1]:
            part = self._find(features[:, mask.shape[1] :])
            if part is None:
                return None
            mask = torch.cat([mask, part.to(mask)], dim=1)
        return mask

    def _find(self, rest: Tensor) -> Tensor | None:
        """The mask (rows, S) of a known text that features (rows, S', Cc) begin with."""
        for length in sorted({mask.shape[1] for _, mask in self._known}, reverse=True):
            if length > rest.shape[1]:
                continue
            rows = [self._mask_of(row[None, :length]) for row in rest]
            found = [mask for mask in rows if mask is not None]
            if len(found) == len(rows):
                return torch.cat(found)
        return None

    def _mask_of(self, features: Tensor) -> Tensor | None:
        number, length = _number(features), features.shape[1]
        for known, mask in self._known:
            if mask.shape[1] == length and torch.equal(known, number):
                return mask
        return None


def _number(features: Tensor) -> Tensor:
    """One number for features (1, S, Cc), from their values in half precision."""
    bits = features.detach().half().contiguous().cpu().view(torch.int16).long()
    generator = torch.Generator().manual_seed(features.shape[1] * 65537 + features.shape[2])
    factors = torch.randint(1, 1 << 31, features.shape[1:], generator=generator)
    return (bits * factors).sum()


ENCODED = Masks()
