"""Everything that stays constant over the sampling steps of a job, and how its rows are grouped."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kit.errors import ShapeError, TextError
from .attention import TextKeys, TwoKeys


@dataclass
class PreparedContext:
    """Made by `JodiTransformer.prepare`, read by `JodiTransformer.velocity`; bound to one shape.

    Rows with different role patterns are run in groups of equal patterns.
    """

    @dataclass
    class Group:
        """Rows that share a role pattern. Active domains are ordered generated, then conditions."""

        rows: Tensor  # (R,) indices into the batch
        generated: list[int]
        conditions: list[int]
        role_vector: Tensor  # (A, C)
        role_modulation: Tensor  # (A, 6, C)
        condition_tokens: Tensor | None  # (R, conditions, T, C)
        texts: list[tuple[TextKeys | TwoKeys, ...]]  # of every block: of all texts, or of each

    groups: list[Group]
    shape: tuple[int, ...]  # of the latents: (B, L, z, h, w)
    texts: int  # how many are evaluated: 1, or 2 with guidance
    grid: tuple[int, int]  # of tokens
    position: Tensor  # (T, C)
    round_timestep: bool
    times: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict)


def group_rows(role: Tensor) -> list[tuple[Tensor, tuple[int, ...]]]:
    """role (B, L) -> [(row indices, pattern), ...] in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, pattern in enumerate(role.tolist()):
        groups.setdefault(tuple(pattern), []).append(row)
    return [(torch.tensor(rows, device=role.device), pattern) for pattern, rows in groups.items()]


def select_text(
    caption: Tensor | None, mask: Tensor | None, rows: Tensor, batch: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Only the text tokens that some row may read, and which of them each row may.

    Shapes: caption (B or 1, 1, S, Cc) or (B or 1, S, Cc), mask (B or 1, S); rows (R,), the
    group's among the `batch` -> features (R or 1, S', Cc) and keep (R or 1, S') bool; one row
    where all rows read the same.
    Raises: TextError without text, or for a row whose mask keeps nothing; ShapeError for shapes
    that do not fit.
    """
    if caption is None:
        raise TextError(
            "no text was given, but the image is not a condition; encode a prompt (it may be "
            "empty) or pass stored text features"
        )
    if caption.dim() == 4 and caption.shape[1] == 1:
        caption = caption.squeeze(1)
    if mask is None:
        mask = torch.ones(caption.shape[:2], device=caption.device)
    if caption.dim() != 3 or mask.dim() != 2:
        raise ShapeError(
            "text features must be (rows, 1, tokens, channels) and their mask (rows, tokens), got "
            f"{tuple(caption.shape)} and {tuple(mask.shape)}"
        )
    if mask.shape[1] != caption.shape[1]:
        raise ShapeError(
            f"the text mask covers {mask.shape[1]} tokens, the features hold {caption.shape[1]}; "
            "encode both prompts to one length"
        )
    caption = _select_rows(caption, rows, batch, "text features").to(like)
    keep = _select_rows(mask, rows, batch, "text mask").to(like.device) > 0
    if not keep.any(1).all():
        raise TextError("a text mask keeps no token at all; at least the first must be kept")
    count = max(caption.shape[0], keep.shape[0])
    caption, keep = caption.expand(count, -1, -1), keep.expand(count, -1)
    columns = keep.any(0).nonzero().squeeze(1)
    if torch.equal(caption, caption[:1].expand_as(caption)) and bool((keep == keep[:1]).all()):
        caption, keep = caption[:1], keep[:1]
    return caption[:, columns], keep[:, columns]


def merge_equal_tokens(features: Tensor, keep: Tensor) -> tuple[Tensor, Tensor | None]:
    """Text tokens, fewer where that is exact, and what to add to their scores.

    An empty prompt, and so the published null text, is one token and then equal padding: m equal
    keys share one weight of the softmax, so one of them with a bias of ln m is the same.
    Shapes: features (R, S, Cc), keep (R, S) bool -> features (R, S', Cc), and a bias
    (R, 1, 1, S') float32 or wider, or None when it is zero.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    rest = features[:, 1:]
    equal = (rest == rest[:, :1]).all(-1) | ~keep[:, 1:]
    if features.shape[1] > 2 and bool(equal.all()) and bool(keep[:, :2].all()):
        count = keep[:, 1:].sum(1, keepdim=True).to(wide)
        bias = torch.cat([torch.zeros_like(count), count.log()], dim=1)
        return features[:, :2], bias[:, None, None]
    if keep.all():
        return features, None
    bias = torch.zeros(keep.shape, device=keep.device, dtype=wide)
    return features, bias.masked_fill(~keep, float("-inf"))[:, None, None]


def _select_rows(x: Tensor, rows: Tensor, batch: int, what: str) -> Tensor:
    if x.shape[0] == 1:
        return x
    if x.shape[0] != batch:
        raise ShapeError(
            f"the {what} came with {x.shape[0]} rows for a batch of {batch}; give 1 row or {batch}"
        )
    return x[rows.to(x.device)]
