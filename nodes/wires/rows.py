"""Rows of LATENT and CONDITIONING: found, taken, compared, and extended by further entries.

IMAGE is (B, H, W, C) in [0, 1], MASK (B, H, W), LATENT samples (B, z, L, h, w); the core wants
channels or domains second. Nothing here touches ComfyUI.
Shapes: B rows, L domains, z latent channels, h w latent grid.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...jodi_core.roles import Role
from ...kit.errors import RoleError, ShapeError

ALIKE = 1e-4  # of the squares; half precision loses a tenth of it
# Entries of CONDITIONING with one row for each row of the batch, or one for all.
_PER_ROW = ("attention_mask", "pooled_output", "mask", "jodi_roles", "jodi_clean")


def add_extras(conditioning: list, **extras) -> list:
    """CONDITIONING with further entries; the input is not changed."""
    return [[cond, {**values, **extras}] for cond, values in conditioning]


def find_row_numbers(latent: Mapping, *conditionings: list) -> list[int]:
    """For each row of a LATENT its row in the CONDITIONING that was made with it.

    They are the same, unless a node between picked or repeated rows of the LATENT.
    Raises: ShapeError when there is no telling, or when their pictures are not the same ones.
    """
    rows = len(latent["samples"])
    entries = [values for conditioning in conditionings for _, values in conditioning]
    made = {len(v[key]) for v in entries for key in ("jodi_roles", "jodi_clean") if key in v}
    made -= {1, rows}
    if not made:
        return list(range(rows))
    picked = latent.get("batch_index") or ()
    if len(picked) == rows and max(picked) < min(made):
        numbers = list(picked)
    else:
        numbers = list(range(rows))  # repeated as a whole
    known = len(picked) == rows or all(rows % count == 0 for count in made)
    if not known or not all(_same_pictures(latent["samples"], v, numbers) for v in entries):
        raise ShapeError(
            f"the LATENT has {rows} rows, the CONDITIONING was made for {max(made)}, and their "
            "pictures do not match; make both with one Jodi Roles, and pick or repeat rows after "
            "sampling"
        )
    return numbers


def are_alike(samples: Tensor, wanted: Tensor, where: Tensor) -> bool:
    """Whether two tensors hold the same but for rounding, as far as the mask `where` goes."""
    wanted = (wanted.to(samples) * where).expand_as(samples)
    return bool((samples * where - wanted).square().sum() <= ALIKE * wanted.square().sum())


def _same_pictures(samples: Tensor, values: Mapping, numbers: Sequence[int]) -> bool:
    """Whether the given domains of a LATENT are those of these rows of the conditions."""
    clean, roles = values.get("jodi_clean"), values.get("jodi_roles")
    if clean is None or roles is None or clean.shape[1:] != samples.shape[1:]:
        return True  # nothing to compare here; the model checks shapes
    given = (take_rows(roles, numbers) == Role.CONDITION)[:, None, :, None, None]
    return are_alike(samples, take_rows(clean, numbers), given)


def take_rows(value: Tensor, numbers: Sequence[int]) -> Tensor:
    """These rows of a tensor; where it has fewer rows, they repeat, as the host repeats them."""
    if len(value) == 1:
        return value
    return value[torch.tensor([n % len(value) for n in numbers], device=value.device)]


def take_conditioning_rows(conditioning: list, numbers: Sequence[int]) -> list:
    """CONDITIONING of these rows of a batch."""

    def of(key: str, value):
        per_row = key in _PER_ROW and isinstance(value, Tensor)
        return take_rows(value, numbers) if per_row else value

    return [
        [take_rows(cond, numbers), {key: of(key, value) for key, value in values.items()}]
        for cond, values in conditioning
    ]


def take_latent_rows(latent: Mapping, start: int, stop: int) -> dict:
    """LATENT of rows start..stop-1: samples and mask.

    A mask for each row (B, 1, H, W), as Set Latent Noise Mask makes it, becomes one over all
    domains: the host would read its rows as domains.
    """
    samples = latent["samples"]
    part = {"samples": samples[start:stop]}
    mask = latent.get("noise_mask")
    if mask is None:
        return part
    if mask.ndim < 5 and mask.shape[0] == len(samples) > 1:
        flat = mask.reshape(len(mask), 1, *mask.shape[-2:]).float()
        flat = F.interpolate(flat, samples.shape[-2:], mode="bilinear")
        mask = flat[:, :, None].expand(-1, -1, samples.shape[2], -1, -1)
    # the host spreads a mask of fewer dimensions itself
    part["noise_mask"] = take_rows(mask, range(start, stop)) if mask.ndim == 5 else mask
    return part


def read_roles(conditioning: list) -> Tensor:
    """Roles (rows, L) that Jodi Roles put into CONDITIONING.

    Raises: RoleError when it did not come from there.
    """
    for _, values in conditioning:
        if "jodi_roles" in values:
            return values["jodi_roles"]
    raise RoleError(
        "this CONDITIONING holds no roles, so the model would not know what to generate; connect "
        "positive and negative of Jodi Roles (text goes into Jodi Roles)"
    )


def make_row_seeds(latent: Mapping, seed: int, fixed: bool) -> list[int]:
    """A seed for each row: seed + row, of the batch it was picked from; fixed: the same for all."""
    rows = len(latent["samples"])
    numbers = latent.get("batch_index")
    if fixed or numbers is None or len(numbers) != rows:
        numbers = [0] * rows if fixed else range(rows)
    return [seed + int(number) for number in numbers]
