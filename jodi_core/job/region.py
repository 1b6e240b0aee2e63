"""Regions of a picture on the latent grid."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kit.errors import ImageError
from ...kit.pictures.frame import Frame, fit
from ..roles import RolePlan


def lay_region_on_grid(
    mask: Tensor, size: tuple[int, int], grid: tuple[int, int], mode: str = "crop"
) -> Tensor:
    """A mask laid over the job's pictures, on the latent grid.

    Shapes: mask (M, H, W) in [0, 1] -> (M, h, w) float32. It is fitted into `size` as pictures are
    (`mode`); a latent cell takes the highest value in it, so that every touched cell counts.
    Raises: ImageError for something that is no mask.
    """
    if mask.ndim != 3 or mask.numel() == 0 or not mask.is_floating_point():
        raise ImageError(
            f"expected a mask of shape (batch, height, width) in 0..1, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}"
        )
    low, high = (float(v) for v in mask.aminmax())
    if not (low >= -0.01 and high <= 1.01):  # also true for NaN
        raise ImageError(f"expected a mask with values in 0..1, got {low:.4g} to {high:.4g}")
    values = mask.to(torch.float32).clamp(0, 1)[:, None]
    frame = Frame.fitting((mask.shape[-2], mask.shape[-1]), size, mode)
    if frame.resized_h <= frame.original_h and frame.resized_w <= frame.original_w:
        # means of whole pixels: the resize of pictures reaches over a border, and what lies behind
        # it would count as touched
        values = F.adaptive_avg_pool2d(values, (frame.resized_h, frame.resized_w))
    fitted, _ = fit(values, size, mode)
    region = F.adaptive_max_pool2d(fitted, grid)[:, 0]
    # resizing rounds: values very near 0 or 1 become exactly 0 or 1
    return region.masked_fill(region < 1e-3, 0.0).masked_fill(region > 1 - 1e-3, 1.0)


def make_change_mask(
    plan: RolePlan, grid: tuple[int, int], regions: Mapping[int, Tensor]
) -> Tensor:
    """Where sampling may change a latent: (M, 1, L, h, w) float32, 1 free, 0 kept.

    Generated domains are free, all others kept. regions: for some generated domains (M, h, w),
    where they are free.
    """
    count = max((len(region) for region in regions.values()), default=1)
    mask = torch.zeros(count, 1, len(plan.names), *grid)
    mask[:, :, list(plan.generated)] = 1
    for index, region in regions.items():
        mask[:, 0, index] = region
    return mask
