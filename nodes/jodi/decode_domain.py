"""From one domain of a LATENT to its picture.

Shapes: B rows, H W pixels.
"""

import logging
from collections.abc import Mapping

from torch import Tensor

from ...jodi_core.domains import Domain, find_model_domain
from ...jodi_core.job.restore import restore_map
from ...jodi_core.labels.maps import postprocess
from ...jodi_core.roles import Role
from ...kit.errors import JodiError, RoleError, ShapeError
from ..host.sampler import decode_domain, read_vae_facts
from ..wires.agreement import TOGETHER, check_finite, check_sampled, find_filled_rows
from ..wires.job import LatentJob

log = logging.getLogger("jodi")

VALUES = ("as published", "raw")


def explain_ignored(domain: Domain) -> str:
    """The message for a domain that was asked for and that the job left out."""
    return (
        f"{domain.name} is not part of this job: its role is ignore. Set the role of "
        f"{domain.title} to generate on Jodi Roles"
    )


def explain_left_out(latent: Mapping, job: LatentJob, index: int) -> str | None:
    """Why there is nothing to decode in one domain, or None.

    Told by the samples as well as by the roles: a decoder makes plausible maps of nothing at all.
    Raises: ShapeError when the two do not fit each other, or when samples are not finite.
    """
    domain = find_model_domain(job.names[index], index)
    samples, role = latent["samples"], job.role(index)
    check_finite(samples[:, :, index], f"the LATENT holds, for {domain.name},")
    check_sampled(samples, job)
    filled = find_filled_rows(samples, index)
    if role == Role.IGNORE or (role is None and not filled.any()):
        return explain_ignored(domain)
    if filled.all():
        return None
    if role is None:
        rows = ", ".join(str(n) for n, full in enumerate(filled.tolist()) if full)
        return (
            f"{domain.name} is part of rows {rows} of this batch only (counted from 0); pick them "
            "with Latent From Batch, or decode each job by itself"
        )
    raise ShapeError(
        f"{domain.name} has the role {role.name.lower()}, but the LATENT holds nothing there: "
        "it was not sampled yet, or with the CONDITIONING of another Jodi Roles, or a node "
        f"flipped, turned or cropped its domains; {TOGETHER}, and decode what the sampler gives"
    )


def check_active(latent: Mapping, job: LatentJob, index: int) -> Domain:
    """The domain at `index`. Raises: RoleError when the job left it out; as `explain_left_out`."""
    reason = explain_left_out(latent, job, index)
    if reason is not None:
        raise RoleError(reason)
    return find_model_domain(job.names[index], index)


def decode_picture(
    vae, latent: Mapping, job: LatentJob, index: int, values: str, original: bool, tile: int = 0
) -> Tensor:
    """One domain of a LATENT -> (B, 3, H, W) float32 in [0, 1].

    values: "as published" as the released model shows it, "raw" the decoder's own values, which
    differ for all but pictures, albedo and skeletons. original: in the frame of the picture that
    came in. tile: pixels per side, 0 decodes whole and tiles when memory runs out.
    Raises: ShapeError when the latents are of another VAE; JodiError as `read_vae_facts`.
    """
    if values not in VALUES:
        raise JodiError(f"values is {values!r}; use {' or '.join(VALUES)}")
    reads = read_vae_facts(vae)
    if job.vae is not None and not job.vae.equals(reads):
        raise ShapeError(
            f"the LATENT holds latents of {job.vae}; this VAE reads {reads}. Connect the VAE "
            "that Jodi Roles used"
        )
    domain = find_model_domain(job.names[index], index)
    x = decode_domain(vae, latent["samples"], index, tile=tile or None)
    x = x.movedim(-1, 1).float()
    if original:
        frames = [frame for frame in job.frames if frame is not None]  # all: see knows_original
        x = restore_map(domain, x, frames, exact=values == VALUES[0])
    return postprocess(domain, x) if values == VALUES[0] else ((x + 1) / 2).clamp_(0, 1)


def knows_original(job: LatentJob) -> bool:
    """Whether the maps can be put back in their original frame; says so in the log if not."""
    known = all(frame is not None for frame in job.frames)
    if not known:
        log.warning(
            "the LATENT does not say how pictures were fitted (none was connected, or a node "
            "between left it out), so the maps keep their own size"
        )
    return known
