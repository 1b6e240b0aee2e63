"""The reading network: a small U-shaped convolutional network and one head that all nouns share.

Every cell of a 32 x 32 grid says which noun and which colour word it belongs to; a noun's cells are
pooled, and from what they have in common the head says whether the noun is there, how many of it
there are and which colours it has.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenes.captions import COLOR_WORDS, NOUNS
from .claims import MOST

SIZE = 64
COLORS = tuple(COLOR_WORDS)
WIDTHS = (32, 56, 80)
FEATURES = 48  # of a cell
EMBEDDING = 16  # of a noun
HIDDEN = 64
GROUPS = 8  # of channels that are normalised together
SURENESS, WORN_SHARE = 3.0, 0.25  # see `ReadingNetwork.forward`


@dataclass(frozen=True)
class Reading:
    """What the network says of B pictures, with N nouns, K colours and G x G cells.

    nouns: (B, N, G, G) logits of a cell's noun; colors: (B, K + 1, G, G) of its colour word, the
    last for none; presence: (B, N) logits; counts: (B, N, MOST) logits of 1, 2, ...;
    amount: (B, N) sum of the cells' densities, about the count; worn: (B, N, K) logits of a noun's
    colours; middle: (B, N) mean x of a noun's cells, 0 to 1.
    """

    nouns: Tensor
    colors: Tensor
    presence: Tensor
    counts: Tensor
    amount: Tensor
    worn: Tensor
    middle: Tensor


class Block(nn.Module):
    """Two convolutions around a residual; the second begins at zero."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_out(F.silu(self.conv_in(F.silu(self.norm(x)))))


class ReadingNetwork(nn.Module):
    """(B, 3, 64, 64) pictures in [0, 1] -> `Reading`."""

    def __init__(self):
        super().__init__()
        narrow, middle, wide = WIDTHS
        self.stem = nn.Conv2d(3, narrow, 4, stride=2, padding=1)
        self.fine = Block(narrow)
        self.down = nn.Conv2d(narrow, middle, 3, stride=2, padding=1)
        self.medium = nn.Sequential(Block(middle), Block(middle))
        self.deeper = nn.Conv2d(middle, wide, 3, stride=2, padding=1)
        self.coarse = nn.Sequential(Block(wide), Block(wide))
        self.up = nn.Conv2d(wide + middle, middle, 1)
        self.top = nn.Conv2d(middle + narrow, FEATURES, 1)
        self.last = Block(FEATURES)
        self.norm = nn.GroupNorm(GROUPS, FEATURES)
        self.cells = nn.Conv2d(FEATURES, len(NOUNS) + len(COLORS) + 2, 1)
        self.embedding = nn.Parameter(torch.randn(len(NOUNS), EMBEDDING) * 0.3)
        pooled = FEATURES + len(COLORS) + 1 + 7 + EMBEDDING
        self.head = nn.Sequential(
            nn.Linear(pooled, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()
        )
        self.answers = nn.Linear(HIDDEN, 1 + MOST + len(COLORS))

    def forward(self, pictures: Tensor) -> Reading:
        cells = self._cells(pictures * 2 - 1)
        nouns, colors, density = self.cells(cells).split((len(NOUNS), len(COLORS) + 1, 1), dim=1)
        weight = nouns.softmax(1).flatten(2)  # (B, N, cells)
        area = weight.sum(2, keepdim=True)
        mean = weight / (area + 1e-3)
        per_cell = torch.cat([cells, colors.softmax(1)], dim=1).flatten(2)
        pooled = torch.einsum("bnp,bdp->bnd", mean, per_cell)
        amount = (weight * F.softplus(density - 4).flatten(2)).sum(2)
        sure = weight.square()  # leaves out cells that are only a little of a noun
        shape, middle = _shape(sure / (sure.sum(2, keepdim=True) + 1e-4), cells.shape[-2:])
        facts = torch.cat([(area + 0.1).log(), weight.amax(2, keepdim=True), shape], dim=2)
        facts = torch.cat([facts, amount.unsqueeze(2)], dim=2)
        embedding = self.embedding.expand(len(pictures), -1, -1)
        hidden = self.head(torch.cat([pooled, facts, embedding], dim=2))
        presence, counts, worn = self.answers(hidden).split((1, MOST, len(COLORS)), dim=2)
        # The head corrects what the cells say already: a colour that a share of them has is worn.
        share = pooled[..., FEATURES:-1]
        worn = worn + SURENESS * ((share + 1e-3) / WORN_SHARE).log()
        return Reading(nouns, colors, presence.squeeze(2), counts, amount, worn, middle)

    def _cells(self, x: Tensor) -> Tensor:
        fine = self.fine(self.stem(x))
        medium = self.medium(self.down(fine))
        coarse = self.coarse(self.deeper(medium))
        medium = self.up(torch.cat([_twice(coarse), medium], dim=1))
        top = self.last(self.top(torch.cat([_twice(medium), fine], dim=1)))
        return F.silu(self.norm(top))


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _shape(mean: Tensor, size) -> tuple[Tensor, Tensor]:
    """Middle and spread of every noun's cells: (B, N, 4) and the middle's x (B, N)."""
    height, width = size
    y = (torch.arange(height, device=mean.device) + 0.5) / height
    x = (torch.arange(width, device=mean.device) + 0.5) / width
    grid = torch.stack([x.repeat(height), y.repeat_interleave(width)])
    first = torch.einsum("bnp,kp->bnk", mean, grid)
    second = torch.einsum("bnp,kp->bnk", mean, grid.square())
    spread = (second - first.square()).clamp_min(0).add(1e-6).sqrt()
    return torch.cat([first, spread], dim=2), first[..., 0]
