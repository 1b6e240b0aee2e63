"""Whether the wires of a job belong together, told by what they hold.

Wires of two jobs of one size fit each other in shape. Sampling them would make a picture of
neither, and decoding would name it by the wrong roles.
Shapes: B rows, L domains, z latent channels, h w latent grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..jodi_core.domains import DOMAIN_NAMES
from ..jodi_core.errors import ShapeError
from ..jodi_core.roles import Role

EMPTY = 1e-4  # some samplers leave rounding errors where the model says zero
ALIKE = 1e-4  # of the squares: what half precision loses is a tenth of it
TOGETHER = "take positive, negative and the LATENT from the same Jodi Roles"


def names_of(count: int) -> tuple[str, ...]:
    """Names of `count` domains where nothing says them: the eight, then `domain 9` and so on."""
    return (
        *DOMAIN_NAMES[:count],
        *(f"domain {n}" for n in range(len(DOMAIN_NAMES) + 1, count + 1)),
    )


def check_finite(values: Tensor, what: str) -> None:
    """Raises: ShapeError when there is anything that is no number. what: begins the message."""
    if not values.isfinite().all():
        raise ShapeError(
            f"{what} values that are not finite (NaN or infinity), so there is no picture in it; "
            "most likely half precision overflowed: run model and VAE in bf16 or fp32, not in fp16"
        )


def filled_rows(samples: Tensor, index: int) -> Tensor:
    """Which rows of (B, z, L, h, w) hold anything in one domain: (B,) bool."""
    return samples[:, :, index].abs().flatten(1).amax(1) > EMPTY


def alike(samples: Tensor, wanted: Tensor, where: Tensor) -> bool:
    """Whether two tensors hold the same but for rounding, as far as the mask `where` goes."""
    wanted = (wanted.to(samples) * where).expand_as(samples)
    return bool((samples * where - wanted).square().sum() <= ALIKE * wanted.square().sum())


def check_latent(
    samples: Tensor, roles: Tensor, clean: Tensor | None, names: Sequence[str] | None = None
) -> None:
    """Whether a LATENT is of the job that a CONDITIONING describes.

    Shapes: samples (B, z, L, h, w); roles (1 or B, L); clean as samples, or with one row. A LATENT
    without any content passes: it is what empty latents of other nodes are.
    Raises: ShapeError, naming the domain.
    """
    if not samples.any():
        return
    names = names or names_of(samples.shape[2])
    roles = roles.to(samples.device)
    for index, name in enumerate(names):
        filled = filled_rows(samples, index)
        if (filled & (roles[:, index] == Role.IGNORE)).any():
            raise ShapeError(
                f"the LATENT holds something in {name}, which the CONDITIONING leaves out; "
                f"{TOGETHER} (if they are, a node between flipped, turned or cropped the domains)"
            )
        given = (roles[:, index] == Role.CONDITION)[:, None, None, None]
        if clean is None or clean.shape[1:] != samples.shape[1:] or not given.any():
            continue
        if not alike(samples[:, :, index], clean[:, :, index], given):
            raise ShapeError(
                f"the LATENT and the CONDITIONING hold different pictures of {name}; {TOGETHER}"
            )


def check_roles(roles: Sequence[int], other: Tensor | None, wire: str, whose: str) -> None:
    """Whether `other` (1 or B, L) are these roles in every row.

    Raises: ShapeError naming the wires: `wire` has the other roles, `whose` has these.
    """
    known = torch.tensor([int(role) for role in roles])
    if other is not None and other.shape[-1] == len(known) and (other.cpu() == known).all():
        return
    if other is None:
        problem = f"{wire} holds no roles, while {whose} does"
    else:
        problem = f"the roles of {wire} are not those of {whose}"
    raise ShapeError(f"{problem}; {TOGETHER}")
