"""Whether a LATENT was moved about by nodes that take its domains for its height.

The host's Latent Flip, Rotate, Crop and Composite work on the third and fourth axis. Those of a
Jodi LATENT are domains and height, so the nodes exchange domains, or do along the height what
they say of the width. Their result looks like any other LATENT. It is recognised by its content:
every strip (one domain, one line of the grid) of every recent LATENT is remembered as a number,
together with its place.
Shapes: B rows, z latent channels, L domains, h w latent grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kit.errors import ShapeError

STRIPS_KEPT = 1 << 18  # about 2 MB
INSTEAD = (
    "ComfyUI's Latent Flip, Rotate, Crop and Composite take a Jodi LATENT's domains for its "
    "height, so they do not do what their names say. Decode the LATENT first, and use the nodes of "
    "the same names for images; or take positive, negative and the LATENT from the same Jodi Roles "
    "as they are"
)


@dataclass(frozen=True)
class Sheet:
    """The strips of one LATENT: numbers (B, L, h), 0 where a strip holds nothing."""

    strips: Tensor
    channels: int
    width: int

    @classmethod
    def of(cls, samples: Tensor) -> "Sheet":
        bits = samples.detach().half().contiguous().view(torch.int16).long()
        channels, width = samples.shape[1], samples.shape[4]
        generator = torch.Generator().manual_seed(channels * 65537 + width)
        shape = (channels, 1, 1, width)
        factors = torch.randint(1, 1 << 31, shape, generator=generator).to(bits.device)
        numbers = torch.stack([(row * factors).sum((0, 3)) for row in bits])
        return cls((numbers * samples.ne(0).any(4).any(1)).cpu(), channels, width)


class Places:
    """Sheets of the LATENTs made lately; the oldest go first."""

    def __init__(self, limit: int = STRIPS_KEPT):
        self.limit = limit
        self._sheets: list[Sheet] = []

    def remember(self, samples: Tensor) -> None:
        """Keep where everything is in LATENT samples (B, z, L, h, w)."""
        self._sheets.append(Sheet.of(samples))
        while sum(sheet.strips.numel() for sheet in self._sheets[:-1]) > self.limit:
            self._sheets.pop(0)

    def check(self, samples: Tensor, *, pasted: bool = False) -> None:
        """Pass unless samples are a known LATENT that was flipped, turned or cropped.

        pasted: also look for parts of one LATENT put elsewhere into another.
        Raises: ShapeError that says what to do instead.
        """
        sheet = Sheet.of(samples)
        strips, filled = sheet.strips, sheet.strips != 0
        alike = [s for s in self._sheets if (s.channels, s.width) == (sheet.channels, sheet.width)]
        in_place = torch.zeros_like(filled)
        for known in alike:
            in_place |= _in_place(strips, known.strips)
        wanting = filled & ~in_place
        if not wanting.any():
            whole = [s for s in alike if s.strips.shape[2] == strips.shape[2]]
            if any((filled <= _in_place(strips, s.strips)).all() for s in whole):
                return
            longer = [s for s in alike if s.strips.shape[2] > strips.shape[2]]
            if filled.any() and any((filled <= _in_place(strips, s.strips)).all() for s in longer):
                raise ShapeError(f"the LATENT was flipped, turned or cropped. {INSTEAD}")
            return
        for known in alike:
            elsewhere = torch.isin(strips, known.strips)
            if elsewhere[filled].all():
                if known.strips.shape[2] < strips.shape[2]:
                    return  # enlarged, line by line
                raise ShapeError(f"the LATENT was flipped, turned or cropped. {INSTEAD}")
            if pasted and (elsewhere & wanting).any():
                raise ShapeError(f"a part of another LATENT was put into this one. {INSTEAD}")


def _in_place(strips: Tensor, known: Tensor) -> Tensor:
    """Which strips (B, L, h) some row of known (B', L', h') has in the same place."""
    found = torch.zeros_like(strips, dtype=torch.bool)
    domains, lines = (min(a, b) for a, b in zip(strips.shape[1:], known.shape[1:], strict=True))
    ours, theirs = strips[:, :domains, :lines], known[:, :domains, :lines]
    for row in theirs:
        found[:, :domains, :lines] |= ours == row
    return found


MADE = Places()


def check_pasted(samples: Tensor, hidden) -> None:
    """Whether Latent Composite put parts of one LATENT into another.

    Latent Composite moves parts down instead of to the right. Latent Composite Masked works
    correctly and can give the same LATENT: the node's hidden inputs (its graph as `prompt`) tell
    the two apart.
    Raises: ShapeError.
    """
    prompt = getattr(hidden, "prompt", None)
    if not prompt or any(node.get("class_type") == "LatentComposite" for node in prompt.values()):
        MADE.check(samples, pasted=True)
