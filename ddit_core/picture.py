"""Pictures as the network was trained on them.

Shapes: B pictures, H W pixels in, h w out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kit.errors import ImageError
from .model.facts import RELEASED


def fit_picture(
    picture: Tensor,
    side: int = RELEASED.native_size,
    *,
    multiple: int = 16,
    whole: bool = False,
    longest: int | None = None,
) -> Tensor:
    """The picture at the size the network was trained on, (B, 3, h, w) float32 in [0, 1].

    Bicubic with antialiasing, so that the shorter side is `side`, then the middle of it: what lies
    outside a square is not seen. whole: keep the shape instead, but for sides cut to a `multiple`;
    the network was trained on squares only. longest: side that the network can take.
    Raises: ImageError for something that is no picture (B, 3, H, W), values that are not finite,
        and a whole picture that is too long and thin.
    Source: github zijieli-Jlee/Dual-Diffusion @ bbf06bf, dual_diff_pipeline.py, transforms.
    """
    if picture.dim() != 4 or picture.shape[1] != 3 or 0 in picture.shape:
        raise ImageError(
            f"a picture must be (batch, 3, height, width) in [0, 1], got {tuple(picture.shape)}"
        )
    if not torch.isfinite(picture).all():
        raise ImageError(
            "the picture holds values that are not finite (NaN or infinity), so nothing can be "
            "seen on it; look at the node that made it"
        )
    h, w = picture.shape[-2:]
    if whole and longest is not None and side * max(h, w) // min(h, w) > longest:
        raise ImageError(
            f"a picture of {w} x {h} is too long and thin to be seen whole: with {side} pixels on "
            f"its short side the long one may have {longest} at most. Turn whole_picture off, or "
            "cut the picture"
        )
    if not whole:
        picture = _cut_far_ends(picture)
        h, w = picture.shape[-2:]
    short = min(h, w)
    size = (side, side * w // short) if h == short else (side * h // short, side)
    picture = picture.float()
    if size != (h, w):
        picture = F.interpolate(picture, size, mode="bicubic", antialias=True)
    kept = tuple(s - s % multiple for s in size) if whole else (side, side)
    top, left = (round((s - k) / 2) for s, k in zip(size, kept, strict=True))
    return picture[..., top : top + kept[0], left : left + kept[1]].clamp(0, 1)


_FAR = 32  # times the short side, of which the middle square is seen


def _cut_far_ends(picture: Tensor) -> Tensor:
    """Without what lies so far from the middle that enlarging it would only take memory."""
    for axis in (-2, -1):
        length, kept = picture.shape[axis], _FAR * min(picture.shape[-2:])
        if length > kept:
            kept += (length - kept) % 2  # so that the middle stays the middle
            picture = picture.narrow(axis, (length - kept) // 2, kept)
    return picture
