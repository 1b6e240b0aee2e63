"""Which domains a LATENT leaves out, told by the sign of their zeros.

Ignored domains hold zeros. Jodi Roles and every sampling make them negative zeros, which count as
zero in all arithmetic and survive what other nodes do to a LATENT: picking, repeating and joining
rows, moving to another device, saving and loading. A LATENT of no content at all so still says
which domains it was made for; the entry beside the samples does not reach the MODEL.
Shapes: B rows, z latent channels, L domains, h w latent grid.
"""

import torch
from torch import Tensor

from ...jodi_core.roles import Role


def mark_ignored(samples: Tensor, roles: Tensor) -> Tensor:
    """Samples (B, z, L, h, w) with negative zeros in the domains that roles (1 or B, L) ignore."""
    ignored = (roles.to(samples.device) == Role.IGNORE)[:, None, :, None, None]
    return samples.masked_fill(ignored, -0.0)


def left_out(samples: Tensor) -> Tensor:
    """Which domains (B, z, L, h, w) leaves out: (B, L) bool, all False where it does not say."""
    negative = (samples == 0) & torch.signbit(samples)
    marked = negative.movedim(2, 1).flatten(2).all(2)
    return marked & ~marked.all(1, keepdim=True)
