"""Areas and masks of CONDITIONING, which other nodes give for flat pictures, over all domains.

The host reads them as three-dimensional for a LATENT with domains, and fails on most.
Shapes: B rows, L domains, h w latent grid, H W pixels.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .rows import take_rows

HOST_FACTOR = 8  # the unit of areas in pixels, for every model


def spread_region(values: Mapping, shape: Sequence[int], factor: int) -> dict:
    """One entry of CONDITIONING with its area and mask spread over all domains.

    values: the entry; it is not changed. shape: of the LATENT, (B, z, L, h, w). factor: pixels to
    a latent cell. A mask (N, H, W) becomes (N, L, h, w); one that bounds its own area becomes mask
    and area; an area in percent or in units of 8 pixels becomes one in cells.
    """
    rows, _, domains, *grid = shape
    found = dict(values)
    area = found.get("area")
    if area is not None and area[0] == "percentage" and len(area) == 5:
        found["area"] = _in_cells(area[1:], grid, domains)
    elif area is not None and area[0] != "percentage" and len(area) == 4:
        found["area"] = tuple(round(side * HOST_FACTOR / factor) for side in area)
        found["area"] = (*(max(1, side) for side in found["area"][:2]), *found["area"][2:])
    mask = found.get("mask")
    if mask is not None and mask.ndim in (2, 3):
        flat = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float(), grid, mode="bilinear")
        if found.pop("set_area_to_bounds", False):
            found["area"] = _bounds(flat[:, 0].abs().amax(0), domains)
        flat = flat if len(flat) in (1, rows) else take_rows(flat, range(rows))
        found["mask"] = flat.expand(-1, domains, -1, -1)
    return found


def _in_cells(shares: Sequence[float], grid: Sequence[int], domains: int) -> tuple[int, ...]:
    height, width, y, x = (
        round(share * side) for share, side in zip(shares, [*grid, *grid], strict=True)
    )
    return (domains, max(1, height), max(1, width), 0, y, x)


def _bounds(mask: Tensor, domains: int) -> tuple[int, ...]:
    """The smallest area that holds all of a mask (h, w); one cell for an empty mask."""
    cells = torch.nonzero(mask)
    if not len(cells):
        return (domains, 1, 1, 0, 0, 0)
    (top, left), (bottom, right) = cells.amin(0).tolist(), cells.amax(0).tolist()
    return (domains, bottom - top + 1, right - left + 1, 0, top, left)
