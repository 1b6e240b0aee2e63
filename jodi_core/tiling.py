"""Apply a network to overlapping tiles of a large map and blend the seams."""

from collections.abc import Callable

import torch
from torch import Tensor


def map_tiles(
    network: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, step: int, scale: float
) -> Tensor:
    """Run `network` on tiles of `x` and average their overlaps with linear ramps.

    Shapes: x (B, C, H, W), H and W multiples of `step` -> (B, C', H*scale, W*scale).
    tile: side of a tile in cells of x, a multiple of `step`; neighbours overlap by about a quarter.
    """
    height, width = x.shape[-2:]
    out: Tensor | None = None
    weight: Tensor | None = None
    for top in tile_starts(height, tile, step):
        for left in tile_starts(width, tile, step):
            piece = x[..., top : top + tile, left : left + tile]
            result = network(piece).float()
            if out is None or weight is None:
                size = (round(height * scale), round(width * scale))
                out = result.new_zeros(*result.shape[:2], *size)
                weight = result.new_zeros(1, 1, *size)
            y, x0 = round(top * scale), round(left * scale)
            h, w = result.shape[-2:]
            ramp = _ramp(h, result.device)[:, None] * _ramp(w, result.device)[None, :]
            out[..., y : y + h, x0 : x0 + w] += result * ramp
            weight[..., y : y + h, x0 : x0 + w] += ramp
    assert out is not None and weight is not None  # there is always a first tile
    return (out / weight).to(x.dtype)


def tile_starts(length: int, tile: int, step: int) -> list[int]:
    """First cell of each tile, so that tiles cover `length` and overlap by a quarter or more."""
    if length <= tile:
        return [0]
    stride = max(step, (tile * 3 // 4) // step * step)
    return [*range(0, length - tile, stride), length - tile]


def _ramp(length: int, device) -> Tensor:
    """Weights that rise from each end over a quarter; never zero, so one tile alone is exact."""
    rise = max(1, length // 4)
    position = torch.arange(length, device=device, dtype=torch.float32)
    edge = torch.minimum(position, length - 1 - position) + 1
    return (edge / rise).clamp(max=1.0)
