"""From role choices, pictures and text to one job's conditioning and latents.

Shapes: B rows, L domains, z latent channels, h w latent grid, H W pixels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...jodi_core import domains
from ...jodi_core.auto_roles import choose_roles, kept_domains
from ...jodi_core.domains import DOMAIN_NAMES, domain_index
from ...jodi_core.job.plausible import doubt
from ...jodi_core.job.region import change_mask, region_on_grid
from ...jodi_core.job.size import choose_size
from ...jodi_core.labels.maps import preprocess
from ...jodi_core.roles import RolePlan
from ...kit.errors import JodiError, RoleError
from ...kit.pictures.frame import Frame, fit
from ..host.sampler import check_cancel, encode_domain, jodi_facts, null_text, progress, vae_facts
from ..wires.agreement import check_vae, with_prompt_mask
from ..wires.job import job_entry
from ..wires.marks import empty_ignored
from ..wires.pictures import picture_of
from ..wires.places import MADE
from ..wires.rows import shared_rows, with_extras

NEGATIVE_MASKS = ("as released", "own")
SLICE = 16  # pictures of a batch that are fitted and encoded at a time: long videos fit in memory


@dataclass(frozen=True)
class Request:
    """What is set and connected on Jodi Roles. domains: (name, role choice, IMAGE or None)."""

    domains: Sequence[tuple[str, str, Tensor | None]]
    positive: list | None = None
    negative: list | None = None
    repaint_mask: Tensor | None = None
    hold: str = ""
    size: str = "trained shape"
    width: int = 1024
    height: int = 1024
    fit: str = "crop"
    batch: int = 1
    negative_mask: str = "as released"


@dataclass
class Latents:
    """Pictures of a job, encoded and unscaled.

    clean: (1 or B, z, L, h, w), those of conditions. start: (B, z, L, h, w), all of them. frame:
    how the first picture was fitted. fitted: size (H, W) of each picture as it came. doubts: what
    looks odd about them.
    """

    clean: Tensor
    start: Tensor
    frame: Frame | None = None
    fitted: dict[str, tuple[int, int]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def build_job(model, vae, request: Request) -> tuple[list, list, dict, str]:
    """positive and negative CONDITIONING, LATENT and a summary for people.

    Raises: RoleError, ShapeError, ImageError or JodiError saying what to connect or set.
    """
    facts = jodi_facts(model)
    kind = vae_facts(vae)
    check_vae(facts, kind)
    names = facts.names
    choices, pictures = _by_name(request.domains, names)
    held = _held_names(request.hold, names)
    plan = choose_roles(
        choices,
        pictures,
        names=names,
        repaint=request.repaint_mask is not None,
        held=held,
    )
    used = {name: pictures[name] for name in plan.active_names if name in pictures}
    rows = shared_rows(_counts(used, request), request.batch)
    first = next(iter(used.values()), None)
    size = choose_size(
        request.size,
        None if first is None else tuple(first.shape[-2:]),
        factor=facts.factor,
        native=facts.native_size,
        explicit=(request.height, request.width),
    )
    grid = (size[0] // facts.vae_factor, size[1] // facts.vae_factor)
    shape = (facts.latent_channels, len(names), *grid)
    latents = _encode(vae, plan, used, size, shape, rows, request.fit)
    samples = empty_ignored(latents.start, plan.as_tensor())
    MADE.remember(samples)
    latent = {
        "samples": samples,
        "jodi": job_entry(names, plan.roles, latents.frame, size, rows, kind),
    }
    regions = _regions(plan, used, held, request, size, grid)
    if regions:
        latent["noise_mask"] = change_mask(plan, grid, regions)
    extras = {"jodi_roles": plan.as_tensor(), "jodi_clean": latents.clean, "jodi_vae": kind}
    positive, negative = _conditioning(model, request, extras)
    return positive, negative, latent, _summary(facts, plan, request, latents, size, rows, regions)


def _by_name(domains, names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Role choices and pictures (B, 3, H, W), under the model's own names."""
    choices, pictures = {}, {}
    for name, choice, image in domains:
        if name in DOMAIN_NAMES and name not in names and image is None and choice != "generate":
            continue  # a model with fewer domains; nothing is asked of this one
        try:
            name = names[domain_index(name, names)]
        except JodiError as error:
            raise RoleError(str(error)) from None
        if name in choices:
            raise RoleError(f"the domain {name} comes twice; remove one Jodi Extra Domain")
        choices[name] = choice
        if image is not None:
            pictures[name] = picture_of(image, name)
    return choices, pictures


def _held_names(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    try:
        return tuple(names[domain_index(part, names)] for part in parts)
    except JodiError as error:
        raise RoleError(f"hold: {error}") from None


def _counts(used: Mapping[str, Tensor], request: Request) -> dict[str, int]:
    counts = {name: len(picture) for name, picture in used.items()}
    if request.repaint_mask is not None:
        counts["repaint_mask"] = len(request.repaint_mask)
    for name, text in (("positive", request.positive), ("negative", request.negative)):
        if text:
            counts[name] = max(len(cond) for cond, _ in text)
    return counts


def _encode(vae, plan: RolePlan, used, size, shape, rows: int, mode: str) -> Latents:
    given = [len(used[name]) for name in plan.condition_names]
    clean = torch.zeros(max(given, default=1), *shape)
    latents = Latents(clean, torch.zeros(rows, *shape))
    bar = progress(max(1, sum(-(-len(picture) // SLICE) for picture in used.values())))
    for name, picture in used.items():
        index = plan.names.index(name)
        domain, parts = domains.domain_of(name, index), []
        for part in picture.split(SLICE):
            check_cancel()
            fitted, frame = fit(part, size, mode, domain.kind == "palette")
            parts.append(encode_domain(vae, preprocess(domain, fitted)).cpu())
            bar.update(1)
        z = torch.cat(parts)
        latents.start[:, :, index] = z
        if index in plan.conditions:
            latents.clean[:, :, index] = z
        latents.frame = latents.frame or frame
        latents.fitted[name] = (frame.original_h, frame.original_w)
        if odd := doubt(name, picture):
            latents.doubts.append(odd)
    return latents


def _regions(plan, used, held, request: Request, size, grid) -> dict[int, Tensor]:
    """Where each kept domain may change, (M, h, w) by index; empty when nothing is kept."""
    regions = {plan.names.index(name): torch.zeros(1, *grid) for name in held}
    if request.repaint_mask is not None:
        free = region_on_grid(request.repaint_mask, size, grid, request.fit)
        for index in kept_domains(plan, used):
            regions.setdefault(index, free)
        if set(regions) >= set(plan.generated) and not any(r.any() for r in regions.values()):
            raise RoleError(
                "the repaint mask is all black and nothing else is generated, so nothing would "
                "change; paint the area to change white (Load Image's MASK of a picture without "
                "opacity is all black)"
            )
    return regions


def _conditioning(model, request: Request, extras: Mapping) -> tuple[list, list]:
    if request.negative_mask not in NEGATIVE_MASKS:
        raise JodiError(
            f"negative_mask is {request.negative_mask!r}; use {' or '.join(NEGATIVE_MASKS)}"
        )
    # an empty prompt and no prompt are the same to the model
    positive = request.positive or null_text(model)
    negative = request.negative or null_text(model)
    if request.negative_mask == "as released":
        negative = with_prompt_mask(positive, negative)
    return with_extras(positive, **extras), with_extras(negative, **extras)


def _summary(facts, plan, request: Request, latents, size, rows, regions) -> str:
    pictures = "1 picture" if rows == 1 else f"{rows} pictures"
    lines = [
        plan.summary(facts.trained_roles),
        f"{size[1]} x {size[0]} pixels (width x height), {pictures}",
    ]
    if latents.frame is not None and not latents.frame.unchanged:
        frame, name = latents.frame, next(iter(latents.fitted))
        done = "cropped" if frame.mode == "crop" else "padded"
        resized = (frame.resized_h, frame.resized_w)
        how = f"scaled and {done}" if resized != (frame.height, frame.width) else "scaled"
        lines.append(f"{name} of {frame.original_w} x {frame.original_h} is {how} to fit")
    sizes = iter(latents.fitted.items())
    first, reference = next(sizes, ("", (1, 1)))
    for name, other in sizes:
        if _other_shape(other, reference):
            done = "cropped" if request.fit == "crop" else "padded"
            lines.append(
                f"{name} of {other[1]} x {other[0]} is {done}; it may not lie over {first}"
            )
    for index in kept_domains(plan, latents.fitted):
        name = plan.names[index]
        if index not in regions:
            lines.append(
                f"{name}: the connected picture only counts with denoise below 1, a repaint mask "
                "or hold"
            )
        elif request.repaint_mask is not None and regions[index].any():
            h, w = request.repaint_mask.shape[-2:]
            if _other_shape((h, w), latents.fitted[name]):
                lines.append(
                    f"repaint_mask of {w} x {h} has another shape than {name}; it may not lie "
                    "over it"
                )
    lines += latents.doubts
    kept = {plan.names[i]: bool(region.any()) for i, region in regions.items()}
    for name, changes in kept.items():
        lines.append(
            f"{name} changes inside the repaint mask only"
            if changes
            else f"{name} keeps its picture"
        )
    if request.positive and not plan.uses_text:
        lines.append("the prompt has no effect: the model reads no text when the image is given")
    return "\n".join(lines)


def _other_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes differ in ratio by more than rounding."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > 0.02
