"""Whether the wires of a job belong together, judged by their contents.

Wires of two jobs of equal size fit each other in shape, but sampling them together would make a
picture of neither job, and decoding would use the wrong roles. Jodi Sampler checks before it starts
(`check_together`), the MODEL in every sampling (`check_latent`, `check_domains`, `check_entries`,
`check_vae_wire`), the decoders before they decode (`check_sampled`).
Shapes: B rows, L domains, z latent channels, h w latent grid.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...jodi_core.domains import name_domains
from ...jodi_core.model import facts
from ...jodi_core.model.facts import ModelFacts, VAEFacts, name_vae
from ...jodi_core.roles import Role
from ...kit.errors import RoleError, ShapeError
from .job import LatentJob, find_left_out
from .rows import are_alike, read_roles, take_rows

EMPTY = 1e-4  # some samplers leave rounding errors where the model says zero
TOGETHER = "take positive, negative and the LATENT from the same Jodi Roles"


def check_finite(values: Tensor, what: str) -> None:
    """Pass when all values are finite. what: begins the message. Raises: ShapeError."""
    if not values.isfinite().all():
        raise ShapeError(
            f"{what} values that are not finite (NaN or infinity), so there is no picture in it; "
            "most likely half precision overflowed: run model and VAE in bf16 or fp32, not in fp16"
        )


def find_filled_rows(samples: Tensor, index: int) -> Tensor:
    """Which rows of (B, z, L, h, w) hold content in one domain: (B,) bool."""
    return samples[:, :, index].abs().flatten(1).amax(1) > EMPTY


def check_latent(
    samples: Tensor, roles: Tensor, clean: Tensor | None, names: Sequence[str] | None = None
) -> None:
    """Pass when a LATENT is of the job that a CONDITIONING describes.

    Shapes: samples (B, z, L, h, w); roles (1 or B, L); clean as samples, or with one row. A LATENT
    without any content passes, since other nodes make such empty latents.
    Raises: ShapeError, naming the domain.
    """
    if not samples.any():
        return
    names = names or name_domains(samples.shape[2])
    roles = roles.to(samples.device)
    for index, name in enumerate(names):
        filled = find_filled_rows(samples, index)
        if (filled & (roles[:, index] == Role.IGNORE)).any():
            raise ShapeError(
                f"the LATENT holds something in {name}, which the CONDITIONING leaves out; "
                f"{TOGETHER} (if they are, a node between flipped, turned or cropped the domains)"
            )
        given = (roles[:, index] == Role.CONDITION)[:, None, None, None]
        if clean is None or clean.shape[1:] != samples.shape[1:] or not given.any():
            continue
        if not are_alike(samples[:, :, index], clean[:, :, index], given):
            raise ShapeError(
                f"the LATENT and the CONDITIONING hold different pictures of {name}; {TOGETHER}"
            )


def check_domains(samples: Tensor, roles: Tensor | None, names: Sequence[str]) -> None:
    """Pass when a LATENT, still empty, leaves out the domains that a CONDITIONING ignores.

    Shapes: samples (B, z, L, h, w); roles (1 or B, L), None for text that came by itself. A LATENT
    that does not say what it leaves out passes (`job.find_left_out`).
    Raises: RoleError for text by itself; ShapeError, naming the domain, for other roles.
    """
    missing = find_left_out(samples)
    if not missing.any():
        return
    if roles is None:
        raise RoleError(
            "positive and negative hold no roles, while the LATENT comes from Jodi Roles; connect "
            "the text to Jodi Roles, and its positive and negative to the sampler"
        )
    if len(roles) not in (1, len(missing)):
        return  # another number of rows: the model refuses it
    differs = (missing != (roles.to(missing.device) == Role.IGNORE)) & missing.any(1, keepdim=True)
    if differs.any():
        index = int(differs.any(0).nonzero()[0])
        says = "leaves out" if missing[:, index].any() else "is for"
        raise ShapeError(f"the LATENT {says} {names[index]}, the CONDITIONING does not; {TOGETHER}")


def check_entries(first: Tensor | None, roles: Tensor | None) -> None:
    """Pass when two entries of one sampling have the same roles, (1 or B, L) or None.

    Raises: ShapeError.
    """
    if first is None or roles is None:
        for known in (first, roles):
            if known is not None:
                check_roles(known[0].tolist(), None, "positive or negative", "the other")
    elif first.shape != roles.shape or not torch.equal(first.cpu(), roles.cpu()):
        check_roles(first[0].tolist(), roles, "negative, or a part of it,", "positive")


def check_given(first: Tensor | None, clean: Tensor | None, names: Sequence[str]) -> None:
    """Pass when two entries of one sampling hold the same given pictures.

    Shapes: (1 or B, z, L, h, w), or None where nothing is given.
    Raises: ShapeError, naming the domain.
    """
    if first is None or clean is None or first is clean or first.shape[1:] != clean.shape[1:]:
        return
    one, other = torch.broadcast_tensors(first.to(clean), clean)
    for index, name in enumerate(names):
        if not are_alike(one[:, :, index], other[:, :, index], torch.ones((), device=other.device)):
            raise ShapeError(
                f"positive and negative, or parts of them, hold different pictures of {name}; "
                f"{TOGETHER}"
            )


def check_sampled(samples: Tensor, job: LatentJob) -> None:
    """Pass when a LATENT (B, z, L, h, w) holds nothing in the domains that its job ignores.

    Raises: ShapeError, naming the domain.
    """
    for index, name in enumerate(job.names):
        if job.role(index) == Role.IGNORE and find_filled_rows(samples, index).any():
            raise ShapeError(
                f"{name} has the role ignore, but the LATENT holds something there: it was "
                "sampled with the CONDITIONING of another Jodi Roles, or a node flipped, turned or "
                f"cropped its domains; {TOGETHER}"
            )


def check_roles(roles: Sequence[int], other: Tensor | None, wire: str, whose: str) -> None:
    """Pass when `other` (1 or B, L) are these roles in every row.

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


BUILT_IN = "built-in jodi-nano"  # the choice in the loaders


def check_made_for(model: ModelFacts, made_by: VAEFacts | None) -> None:
    """Pass when the wires hold latents of the model's VAE.

    made_by: the VAE that made them.
    Raises: ShapeError.
    """
    wanted = model.vae
    if made_by is not None and not made_by.equals(wanted):
        raise ShapeError(
            f"the CONDITIONING and the LATENT were made for a model that works on latents of "
            f"{made_by}; this model, {model.title}, works on {wanted}. Connect the same MODEL to "
            "Jodi Roles and to the sampler"
        )


def check_vae_wire(model: ModelFacts, vae: VAEFacts) -> None:
    """Pass when the VAE is the model's.

    Raises: ShapeError that names the VAE which belongs to the model.
    """
    name = name_vae(model.vae)
    where = _WHERE.get(name, "in models/vae (Load Jodi or Load Jodi VAE)")
    facts.check_vae(model, vae, f"Connect the VAE that belongs to it: {name} {where}")


_WHERE = {"the built-in one": f"of Load Jodi ({BUILT_IN})"}


def apply_prompt_mask(positive: list, negative: list) -> list:
    """The negative CONDITIONING, read only as far as the prompt is long, as published.

    The released code masks both halves of the guidance with the prompt's mask. Entries of another
    length, or a prompt in several entries, keep their own masks.
    """
    if len(positive) != 1:
        return negative
    mask = positive[0][1].get("attention_mask")
    if mask is None:
        return negative
    shared = {"attention_mask": mask}
    return [
        [cond, {**extra, **shared} if cond.shape[1] == mask.shape[-1] else extra]
        for cond, extra in negative
    ]


def check_together(
    latent: Mapping, job: LatentJob, numbers: Sequence[int], **conditionings
) -> None:
    """Pass when a LATENT and CONDITIONINGs, by the names of their sockets, are of one job.

    numbers: for each row of the LATENT its row in them.
    Raises: ShapeError that names the wires which disagree.
    """
    for wire, conditioning in conditionings.items():
        for _, values in conditioning:
            roles, clean = values.get("jodi_roles"), values.get("jodi_clean")
            first = read_roles(conditionings["positive"])
            if roles is None or (len(first) == len(roles) == 1 and not torch.equal(first, roles)):
                check_roles(first[0].tolist(), roles, wire, "positive")
            if job.roles is not None:
                check_roles(job.roles, roles, wire, "the LATENT")
            assert roles is not None  # or check_roles had raised
            clean = None if clean is None else take_rows(clean, numbers)
            check_domains(latent["samples"], take_rows(roles, numbers), job.names)
            check_latent(latent["samples"], take_rows(roles, numbers), clean, job.names)
