"""What travels on ComfyUI's wires beyond their own contents, and the shapes it has there.

IMAGE is (B, H, W, C) in [0, 1], MASK (B, H, W), LATENT samples (B, z, L, h, w); the core wants
channels or domains second. Nothing here touches ComfyUI.
Shapes: B rows, L domains, z latent channels, h w latent grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..jodi_core.domains import DOMAIN_NAMES, Domain, domain, domain_index
from ..jodi_core.errors import ImageError, RoleError, ShapeError
from ..jodi_core.exchange import read_classes
from ..jodi_core.images import Frame
from ..jodi_core.roles import Role
from ._agree import alike, check_latent, check_roles, names_of
from ._facts import VAEFacts

# Entries of CONDITIONING with one row for each row of the batch, or one for all.
_PER_ROW = ("attention_mask", "pooled_output", "mask", "jodi_roles", "jodi_clean")


@dataclass(frozen=True)
class Job:
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
        return domain_index(name, self.names)

    def role(self, index: int) -> Role | None:
        return None if self.roles is None else Role(self.roles[index])


def job_entry(
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


def read_job(latent: Mapping) -> Job:
    """The job of a LATENT, as far as it is known.

    Raises: ShapeError when the samples are not those of a joint model, or are over other domains
    than the entry says.
    """
    samples = latent["samples"]
    if samples.ndim != 5:
        raise ShapeError(
            "expected a LATENT of Jodi with the domains on its third axis, got samples of shape "
            f"{tuple(samples.shape)}; connect the LATENT of Jodi Roles or Jodi Sampler"
        )
    rows, count = samples.shape[0], samples.shape[2]
    entry = latent.get("jodi") or {}
    names = tuple(entry.get("names") or (names_of(count) if count > 8 else DOMAIN_NAMES))
    if len(names) != count:
        raise ShapeError(
            f"expected a LATENT with {len(names)} domains ({', '.join(names)}), got {count}; "
            "connect the LATENT of Jodi Roles or Jodi Sampler"
        )
    if _of_several_jobs(len(entry.get("roles", [])), latent.get("batch_index"), rows):
        return Job(names, None, (None,) * rows, entry.get("vae"))
    roles = {tuple(row) for row in entry.get("roles", [])}
    frames = _frames(list(entry.get("frames", [])), latent.get("batch_index"), rows)
    return Job(names, roles.pop() if len(roles) == 1 else None, frames, entry.get("vae"))


def _of_several_jobs(known: int, batch_index: Sequence[int] | None, rows: int) -> bool:
    """Whether rows of other jobs were put behind those of this one, whose entry was kept.

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


def domain_of(name: str, index: int) -> Domain:
    """The domain of that name; one that only an extended model has is read as plain colour."""
    if name in DOMAIN_NAMES:
        return domain(name)
    return Domain(name, index, name.replace("_", " ").capitalize(), "color", "")


def picture_of(image: Tensor, name: str) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, 3, H, W) float32; grey is repeated, opacity left out.

    Raises: ImageError, naming the socket, for anything else.
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ImageError(f"{name}: expected an IMAGE (batch, height, width, 3), got {shape}")
    if not len(image):
        raise ImageError(f"{name}: the IMAGE holds no pictures; connect one with at least one")
    picture = image[..., :3].movedim(-1, 1).to(torch.float32)
    return picture.expand(-1, 3, -1, -1)


def image_of(picture: Tensor) -> Tensor:
    """(B, 3, H, W) -> IMAGE (B, H, W, 3), contiguous float32."""
    return picture.movedim(1, -1).to(torch.float32).contiguous()


def mask_of(picture: Tensor, kind: str = "gray") -> Tensor:
    """(B, 3, H, W) of a domain of that kind -> MASK (B, H, W): brightness, or any class at all."""
    if kind == "palette":
        return (read_classes(picture) > 0).to(torch.float32)
    return picture.mean(dim=1)


def shared_rows(counts: Mapping[str, int], batch: int) -> int:
    """Rows of a job: whatever has one entry serves all rows, all others must agree.

    counts: entries by input name. batch: rows asked for; 1 takes what the inputs bring.
    Raises: ShapeError, naming the inputs.
    """
    rows = max(batch, *counts.values()) if counts else batch
    wrong = {name: n for name, n in counts.items() if n not in (1, rows)}
    if batch not in (1, rows):
        wrong["batch"] = batch
    if wrong:
        largest = [name for name, n in counts.items() if n == rows] or ["batch"]
        listed = ", ".join(f"{name} {n}" for name, n in wrong.items())
        raise ShapeError(
            f"{' and '.join(largest)} asks for {rows} rows, but there are: {listed}; every input "
            f"needs 1 entry or {rows}"
        )
    return rows


def with_extras(conditioning: list, **extras) -> list:
    """CONDITIONING with further entries; the input is not changed."""
    return [[cond, {**values, **extras}] for cond, values in conditioning]


def row_numbers(latent: Mapping, *conditionings: list) -> list[int]:
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


def _same_pictures(samples: Tensor, values: Mapping, numbers: Sequence[int]) -> bool:
    """Whether the given domains of a LATENT are those of these rows of the conditions."""
    clean, roles = values.get("jodi_clean"), values.get("jodi_roles")
    if clean is None or roles is None or clean.shape[1:] != samples.shape[1:]:
        return True  # nothing to compare here; the model checks shapes
    given = (rows_of(roles, numbers) == Role.CONDITION)[:, None, :, None, None]
    return alike(samples, rows_of(clean, numbers), given)


def check_together(latent: Mapping, job: Job, numbers: Sequence[int], **conditionings) -> None:
    """Whether a LATENT and CONDITIONINGs, by the names of their sockets, are of one job.

    numbers: for each row of the LATENT its row in them.
    Raises: ShapeError that names the wires which disagree.
    """
    for wire, conditioning in conditionings.items():
        for _, values in conditioning:
            roles, clean = values.get("jodi_roles"), values.get("jodi_clean")
            first = roles_of(conditionings["positive"])
            if roles is None or (len(first) == len(roles) == 1 and not torch.equal(first, roles)):
                check_roles(first[0].tolist(), roles, wire, "positive")
            if job.roles is not None:
                check_roles(job.roles, roles, wire, "the LATENT")
            clean = None if clean is None else rows_of(clean, numbers)
            check_latent(latent["samples"], rows_of(roles, numbers), clean, job.names)


def rows_of(value: Tensor, numbers: Sequence[int]) -> Tensor:
    """These rows of a tensor whose rows repeat over the batch, as the host repeats them."""
    if len(value) == 1:
        return value
    return value[torch.tensor([n % len(value) for n in numbers], device=value.device)]


def conditioning_rows(conditioning: list, numbers: Sequence[int]) -> list:
    """CONDITIONING of these rows of a batch."""

    def of(key: str, value):
        per_row = key in _PER_ROW and isinstance(value, Tensor)
        return rows_of(value, numbers) if per_row else value

    return [
        [rows_of(cond, numbers), {key: of(key, value) for key, value in values.items()}]
        for cond, values in conditioning
    ]


def latent_rows(latent: Mapping, start: int, stop: int) -> dict:
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
    # one mask of fewer dimensions is the host's to spread
    part["noise_mask"] = rows_of(mask, range(start, stop)) if mask.ndim == 5 else mask
    return part


def roles_of(conditioning: list) -> Tensor:
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


def row_seeds(latent: Mapping, seed: int, fixed: bool) -> list[int]:
    """A seed for each row: seed + row, of the batch it was picked from; fixed: the same for all."""
    rows = len(latent["samples"])
    numbers = latent.get("batch_index")
    if fixed or numbers is None or len(numbers) != rows:
        numbers = [0] * rows if fixed else range(rows)
    return [seed + int(number) for number in numbers]
