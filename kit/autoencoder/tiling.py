"""Apply a network within the available memory: some rows at a time, or tiles of a large map."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..threads import short_waits

logger = logging.getLogger("jodi")

FALLBACK_TILE = 512  # pixels per side, when one whole picture does not fit into memory
SHARE = 0.5  # of the free memory of a device that a batch may take


@dataclass(frozen=True)
class Memory:
    """The memory of a device, as its manager (torch, or a host) reports it.

    free: bytes that a batch may take. exhausted: whether an error says that it ran out. clear: give
    back what is cached.
    """

    free: Callable[[], float]
    exhausted: Callable[[BaseException], bool]
    clear: Callable[[], None]

    @classmethod
    def of(cls, device: torch.device) -> "Memory":
        """Torch's own report: half of the free memory at once, nothing on a CPU."""
        cuda = device.type == "cuda"
        return cls(
            lambda: SHARE * measure_free_memory(device),
            lambda error: isinstance(error, torch.OutOfMemoryError),
            torch.cuda.empty_cache if cuda else lambda: None,
        )


def run_within_memory(
    network: Callable[..., Tensor],
    x: Tensor,
    *,
    bytes_per_row: int,
    tile: int | None,
    memory: Memory | None = None,
    output: torch.device | str = "cpu",
) -> Tensor:
    """network(part, tile=tile) over parts of the rows of x, as many at a time as memory allows.

    bytes_per_row: what one row needs at its peak. If memory runs out all the same, rows are done
    one at a time, then in tiles (close, not exact), with a warning. memory: of the device that the
    network runs on, as torch sees that of x unless said. Result: float32 on the device `output`.
    Raises: the error of the device when even a tile does not fit.
    """
    memory = memory or Memory.of(x.device)
    fit = max(1, min(len(x), int(memory.free() / max(1, bytes_per_row))))
    attempts = [(fit, tile), (1, tile), (1, min(tile or FALLBACK_TILE, FALLBACK_TILE))]
    while True:
        rows, tile = attempts.pop(0)
        try:
            with short_waits(x.device):
                parts = [network(p, tile=tile).float().to(output) for p in x.split(rows)]
            return torch.cat(parts)
        except Exception as error:
            if not memory.exhausted(error):
                raise
            attempts = [a for a in attempts if a != (rows, tile)]
            if not attempts:
                raise
            logger.warning("out of memory with %d pictures at a time; trying less", rows)
        # Outside the handler, whose error would keep the maps of the failed attempt alive.
        memory.clear()


def measure_free_memory(device: torch.device) -> float:
    """Bytes that tensors can still take on a CUDA device; 0 for any other device.

    On a CPU several pictures at once are no faster than one after another.
    """
    if device.type != "cuda":
        return 0
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


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
    for top in place_tiles(height, tile, step):
        for left in place_tiles(width, tile, step):
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


def place_tiles(length: int, tile: int, step: int) -> list[int]:
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
