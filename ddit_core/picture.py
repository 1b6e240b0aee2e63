"""Pictures as the network was trained on them, and the latent scale of its VAE.

Shapes: B pictures, H W pixels in, h w out, z latent channels.
"""

import torch.nn.functional as F
from torch import Tensor

from ..kit.errors import ImageError

SIDE = 512
LATENT_SCALE, LATENT_SHIFT = 1.5305, 0.0609  # Stable Diffusion 3's


def fit_picture(picture: Tensor, side: int = SIDE, *, multiple: int = 16, whole: bool = False):
    """The picture at the size the network was trained on, (B, 3, h, w) float32 in [0, 1].

    Bicubic with antialiasing, so that the shorter side is `side`, then cropped to the square in the
    middle. whole: keep the shape instead, with sides cut to a `multiple`; the network was trained
    on squares only.
    Raises: ImageError for something that is no picture (B, 3, H, W).
    Source: github zijieli-Jlee/Dual-Diffusion @ bbf06bf, dual_diff_pipeline.py, transforms.
    """
    if picture.dim() != 4 or picture.shape[1] != 3 or 0 in picture.shape:
        raise ImageError(
            f"a picture must be (batch, 3, height, width) in [0, 1], got {tuple(picture.shape)}"
        )
    h, w = picture.shape[-2:]
    short = min(h, w)
    size = (side, side * w // short) if h == short else (side * h // short, side)
    picture = picture.float()
    if size != (h, w):
        picture = F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(0, 1)
    kept = tuple(s - s % multiple for s in size) if whole else (side, side)
    top, left = (round((s - k) / 2) for s, k in zip(size, kept, strict=True))
    return picture[..., top : top + kept[0], left : left + kept[1]]


def scale_latents(raw: Tensor) -> Tensor:
    """Latents as the network reads them, from what the VAE's encoder gives."""
    return (raw - LATENT_SHIFT) * LATENT_SCALE


def unscale_latents(latents: Tensor) -> Tensor:
    """Latents as the VAE's decoder reads them."""
    return latents / LATENT_SCALE + LATENT_SHIFT
