"""What a LATENT says of its job: the entry that travels beside it, and marks in its samples.

Ignored domains hold zeros. Jodi Roles and every sampling make them negative zeros, which count as
zero in all arithmetic and survive what other nodes do to a LATENT: picking, repeating and joining
rows, moving to another device, saving and loading. So even an empty LATENT says which domains it
was made for; the entry beside the samples does not reach the MODEL.
Shapes: B rows, z latent channels, L domains, h w latent grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...jodi_core.domains import DOMAIN_NAMES, find_domain_index, name_domains
from ...jodi_core.model.facts import VAEFacts
from ...jodi_core.roles import Role
from ...kit.errors import ShapeError
from ...kit.pictures.frame import Frame
from .places import INSTEAD, MADE

# For a LATENT of one picture, as VAE Encode makes it for other models.
PICTURE_INSTEAD = (
    "To start from a picture, connect it to Jodi Roles as image, set image_role = generate there "
    "and denoise below 1 on the sampler; to change a part of it, connect repaint_mask too"
)


@dataclass(frozen=True)
class LatentJob:
    """What a LATENT says of the job it belongs to.

    names: its domains. roles: one tuple for all rows, or None when that is not known (a node
    dropped it, or rows differ). frames: one per row, None where the original is not known. vae:
    whose latents they are, where that is known.
    """

    names: tuple[str, ...]
    roles: tuple[int, ...] | None
    frames: tuple[Frame | None, ...]
    vae: VAEFacts | None = None

    def index(self, name: str) -> int:
        """Place of a domain. Raises: JodiError, listing the names, when there is none."""
        return find_domain_index(name, self.names)

    def role(self, index: int) -> Role | None:
        return None if self.roles is None else Role(self.roles[index])


def make_job_entry(
    names: Sequence[str],
    roles: Sequence[int],
    frame: Frame | None,
    size: tuple[int, int],
    rows: int,
    vae: VAEFacts,
) -> dict:
    """The `jodi` entry of a LATENT whose rows share one role plan and one frame."""
    return {
        "names": list(names),
        "roles": [[int(role) for role in roles]] * rows,
        "frames": [frame] * rows,
        "size": tuple(size),
        "vae": vae,
    }


def read_job(latent: Mapping) -> LatentJob:
    """The job of a LATENT, as far as it is known.

    Raises: ShapeError when the samples are not those of a joint model, are over other domains
    than the entry says, or were moved about by nodes for flat pictures.
    """
    samples = latent["samples"]
    if samples.ndim != 5:
        raise ShapeError(
            "expected a LATENT of Jodi with the domains on its third axis, got samples of shape "
            f"{tuple(samples.shape)}; connect the LATENT of Jodi Roles or Jodi Sampler. "
            f"{PICTURE_INSTEAD}"
        )
    MADE.check(samples)
    rows, count = samples.shape[0], samples.shape[2]
    entry = latent.get("jodi") or {}
    names = tuple(entry.get("names") or (name_domains(count) if count > 8 else DOMAIN_NAMES))
    if len(names) != count:
        raise ShapeError(
            f"expected a LATENT with {len(names)} domains ({', '.join(names)}), got {count}; "
            "connect the LATENT of Jodi Roles or Jodi Sampler"
        )
    if _of_several_jobs(len(entry.get("roles", [])), latent.get("batch_index"), rows):
        return LatentJob(names, None, (None,) * rows, entry.get("vae"))
    roles = {tuple(row) for row in entry.get("roles", [])}
    frames = _frames(list(entry.get("frames", [])), latent.get("batch_index"), rows)
    return LatentJob(names, roles.pop() if len(roles) == 1 else None, frames, entry.get("vae"))


def _of_several_jobs(known: int, batch_index: Sequence[int] | None, rows: int) -> bool:
    """Whether rows of other jobs were joined to the rows of this job, whose entry was kept.

    Joined batches count their rows anew, so numbers repeat. The same number for all of the job's
    own rows only asks for the same noise.
    """
    if batch_index is None or len(batch_index) != rows:
        return False
    numbers = set(batch_index)
    return len(numbers) < rows and not (len(numbers) == 1 and rows == known)


def _frames(known: list, batch_index: Sequence[int] | None, rows: int) -> tuple[Frame | None, ...]:
    """A frame for each row: nodes that pick rows of a LATENT leave this entry as it was."""
    if len(set(known)) == 1:
        return (known[0],) * rows
    if len(known) != rows and batch_index is not None and len(batch_index) == rows:
        known = [known[i] if i < len(known) else None for i in batch_index]
    return tuple(known) if len(known) == rows else (None,) * rows


def mark_ignored(samples: Tensor, roles: Tensor) -> Tensor:
    """Samples (B, z, L, h, w) with negative zeros in the domains that roles (1 or B, L) ignore."""
    ignored = (roles.to(samples.device) == Role.IGNORE)[:, None, :, None, None]
    return samples.masked_fill(ignored, -0.0)


def mark_empty(samples: Tensor) -> Tensor:
    """Samples (B, z, L, h, w) whose empty domains, to be made, say that they come from Jodi Roles.

    Their first channel is negative zero, the others are not, so `find_left_out` does not count
    them. Nodes that cut such a LATENT keep that.
    """
    if samples.shape[1] < 2:
        return samples
    empty = (samples == 0).movedim(2, 1).flatten(2).all(2) & ~find_left_out(samples)
    marked = samples.clone()
    marked[:, 0] = marked[:, 0].masked_fill(empty[:, :, None, None], -0.0)
    return marked


def check_uncut(samples: Tensor, domains: int) -> None:
    """Pass unless an empty LATENT (B, z, L, h, w) is what is left of one of Jodi Roles.

    Empty LATENTs of other nodes hold no negative zeros.
    Raises: ShapeError.
    """
    if samples.shape[2] != domains and torch.signbit(samples).any():
        raise ShapeError(
            f"a node cut the LATENT of Jodi Roles along its domains: {samples.shape[2]} are left "
            f"instead of {domains}, and they are made together. {INSTEAD}"
        )


def find_left_out(samples: Tensor) -> Tensor:
    """Which domains (B, z, L, h, w) leaves out: (B, L) bool, all False where it does not say."""
    negative = (samples == 0) & torch.signbit(samples)
    marked = negative.movedim(2, 1).flatten(2).all(2)
    return marked & ~marked.all(1, keepdim=True)
