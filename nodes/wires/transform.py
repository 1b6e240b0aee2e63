"""A Jodi LATENT mirrored, turned, cut, pasted and resized, domain by domain.

Cutting and pasting whole cells change no number. Mirroring, turning and resizing go through the
pictures: latents of a mirrored picture are no mirrored latents, and normals and left and right of
figures change their meaning.
Shapes: B rows, z latent channels, L domains, h w latent grid.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ...jodi_core.domains import Domain, find_model_domain
from ...jodi_core.exits.turn import TURNS, move_pixels, resize, turn
from ...kit.errors import JodiError, ShapeError
from .agreement import find_filled_rows
from .job import find_left_out, read_job
from .places import MADE

log = logging.getLogger("jodi")

OPERATIONS = (*TURNS, "crop", "paste", "resize")
"""In the order of the node's list, which saved graphs depend on."""


@dataclass(frozen=True)
class Area:
    """Pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    def cells(self, factor: int) -> "Area":
        """The same in latent cells, rounded; sides are one cell at least."""
        x, y = round(self.x / factor), round(self.y / factor)
        width, height = round(self.width / factor), round(self.height / factor)
        return Area(x, y, max(1, width), max(1, height))


def transform(
    latent: Mapping,
    operation: str,
    area: Area,
    factor: int,
    decode: Callable[[Tensor, int], Tensor],
    encode: Callable[[Tensor], Tensor],
    other: Mapping | None = None,
) -> dict:
    """The LATENT after one operation; ignored domains stay empty.

    area: what is cut out, where `other` is pasted (its x and y), or the new size. factor: pixels
    to a cell. decode: (samples, domain) -> (B, 3, H, W) in [-1, 1]; encode: the way back.
    Raises: ShapeError for areas outside, or latents that do not belong together; JodiError for an
    unknown operation.
    """
    if operation not in OPERATIONS:
        raise JodiError(f"unknown operation {operation!r}; use one of {', '.join(OPERATIONS)}")
    read_job(latent)
    if operation == "crop":
        result = _cropped(latent, area.cells(factor))
    elif operation == "paste":
        result = _pasted(latent, other, area.cells(factor))
    else:
        result = _redrawn(latent, operation, area.cells(factor), factor, decode, encode)
    samples = result["samples"]
    if "jodi" in latent:
        size = tuple(side * factor for side in samples.shape[-2:])
        result["jodi"] = {**latent["jodi"], "size": size}
        if operation != "paste":
            result["jodi"]["frames"] = [None] * len(samples)
    MADE.remember(samples)
    return result


def _cropped(latent: Mapping, cells: Area) -> dict:
    samples = latent["samples"]
    height, width = samples.shape[-2:]
    _check_inside(cells, height, width)
    rows = slice(cells.y, cells.y + cells.height)
    columns = slice(cells.x, cells.x + cells.width)
    result = {**latent, "samples": samples[..., rows, columns].clone()}
    _with_mask(result, (height, width), lambda mask: mask[..., rows, columns].clone())
    return result


def _pasted(latent: Mapping, other: Mapping | None, cells: Area) -> dict:
    if other is None:
        raise ShapeError("nothing to paste; connect the LATENT to paste as `other`")
    samples, part = latent["samples"], other["samples"]
    job, its = read_job(latent), read_job(other)
    if job.names != its.names or samples.shape[1] != part.shape[1] or job.vae != its.vae:
        raise ShapeError(
            "the two LATENTs are of different models; paste only LATENTs made with the same "
            "MODEL and VAE"
        )
    for index, name in enumerate(job.names):
        if bool(find_filled_rows(samples, index).any()) != bool(
            find_filled_rows(part, index).any()
        ):
            raise ShapeError(
                f"{name} is part of one of the two LATENTs only; paste LATENTs whose Jodi Roles "
                "take part in the same domains"
            )
    if len(part) not in (1, len(samples)):
        raise ShapeError(
            f"{len(part)} rows cannot be pasted into {len(samples)}; paste one for all, or one "
            "for each"
        )
    height, width = part.shape[-2:]
    _check_inside(Area(cells.x, cells.y, width, height), *samples.shape[-2:])
    out = samples.clone()
    out[..., cells.y : cells.y + height, cells.x : cells.x + width] = part.to(out)
    return {**latent, "samples": out}


def _redrawn(latent: Mapping, operation: str, cells: Area, factor: int, decode, encode) -> dict:
    samples = latent["samples"]
    job = read_job(latent)
    size = (cells.height * factor, cells.width * factor)
    results: dict[int, Tensor] = {}
    for index, name in enumerate(job.names):
        if not find_filled_rows(samples, index).any():
            continue
        picture = (decode(samples, index).clamp(-1, 1) + 1) / 2
        picture = _changed(find_model_domain(name, index), picture, operation, size)
        results[index] = encode(picture * 2 - 1).to(samples)
    grid = samples.shape[-2:]
    if operation == "resize":
        grid_now = (cells.height, cells.width)
    else:
        grid_now = grid if operation not in ("rotate 90", "rotate 270") else (grid[1], grid[0])
    out = samples.new_zeros((*samples.shape[:3], *grid_now))
    out = out.masked_fill(find_left_out(samples)[:, None, :, None, None], -0.0)
    for index, values in results.items():
        out[:, :, index] = values
    result = {**latent, "samples": out}
    if operation == "resize":
        _with_mask(result, grid, lambda mask: _nearest(mask, grid_now))
    else:
        _with_mask(result, grid, lambda mask: move_pixels(mask, operation))
    return result


def _changed(of: Domain, picture: Tensor, operation: str, size: tuple[int, int]) -> Tensor:
    return resize(of, picture, size) if operation == "resize" else turn(of, picture, operation)


def _nearest(mask: Tensor, size: tuple[int, int]) -> Tensor:
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    return F.interpolate(flat, size, mode="nearest-exact").reshape(*mask.shape[:-2], *size)


def _with_mask(result: dict, grid, change: Callable[[Tensor], Tensor]) -> None:
    mask = result.get("noise_mask")
    if mask is None:
        return
    if tuple(mask.shape[-2:]) == tuple(grid):
        result["noise_mask"] = change(mask)
    else:
        log.warning("the LATENT's mask is not of its size; it is left out")
        del result["noise_mask"]


def _check_inside(cells: Area, height: int, width: int) -> None:
    if not (0 <= cells.x <= width - cells.width and 0 <= cells.y <= height - cells.height):
        raise ShapeError(
            f"{cells.width} x {cells.height} cells from ({cells.x}, {cells.y}) on do not lie "
            f"inside the LATENT of {width} x {height} cells; change x, y, width or height"
        )
