"""From role choices, pictures and text on wires to one job's conditioning and latents.

Nothing here touches ComfyUI: what only a host can do (encoding, its progress bar) is handed in.
Shapes: B rows, L domains, z latent channels, h w latent grid, H W pixels.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...jodi_core.auto_roles import choose_roles, find_kept_domains
from ...jodi_core.domains import DOMAIN_NAMES, find_domain_index, find_model_domain
from ...jodi_core.job.checks import agree_on_rows
from ...jodi_core.job.given import Given, differ_in_proportions, prepare
from ...jodi_core.job.plausible import Doubt
from ...jodi_core.job.region import lay_region_on_grid, make_change_mask
from ...jodi_core.job.size import DEFAULT_SIZE
from ...jodi_core.labels.maps import preprocess
from ...jodi_core.model.facts import ModelFacts, VAEFacts
from ...jodi_core.roles import RolePlan
from ...kit.errors import JodiError, RoleError
from .agreement import apply_prompt_mask, check_vae_wire
from .job import make_job_entry, mark_empty, mark_ignored
from .pictures import are_none, to_picture
from .places import MADE
from .rows import add_extras

NEGATIVE_MASKS = ("as released", "own")
SLICE = 16  # pictures of a batch that are fitted and encoded at a time: long videos fit in memory

# The node that corrects what is odd about a given picture.
_WAYS = {
    ("depth", "inverted"): "Jodi Depth, source near black or distance, before Jodi Roles",
    ("depth", "flat"): "Jodi Depth stretches it",
    ("normal", "directx"): "Jodi Normal, source directx and target jodi, before Jodi Roles",
    ("normal", "opengl"): "Jodi Normal, source opengl and target jodi, before Jodi Roles",
    ("lineart", "polarity"): "put ComfyUI's Invert Image before Jodi Roles",
    ("edge", "polarity"): "put ComfyUI's Invert Image before Jodi Roles",
    ("segmentation", "classes"): "Jodi Segmentation, before Jodi Roles",
    ("segmentation", "unlabeled"): "Load Image turns class numbers of 16 bits into black",
}


@dataclass(frozen=True)
class Request:
    """What is set and connected on Jodi Roles. domains: (name, role choice, IMAGE or None)."""

    domains: Sequence[tuple[str, str, Tensor | None]]
    positive: list | None = None
    negative: list | None = None
    repaint_mask: Tensor | None = None
    hold: str = ""
    size: str = DEFAULT_SIZE
    width: int = 0
    height: int = 0
    fit: str = "crop"
    batch: int = 1
    negative_mask: str = "as released"


@dataclass(frozen=True)
class Planned:
    """A request checked against a model, before any network runs.

    held: domains that keep their picture everywhere. rows: of the batch.
    """

    plan: RolePlan
    given: Given
    rows: int
    held: tuple[str, ...]


def plan_request(request: Request, facts: ModelFacts) -> Planned:
    """The plan of a request for a model: roles, size, rows, and the pictures to encode.

    Raises: RoleError, ShapeError, ImageError or JodiError saying what to connect or set.
    """
    choices, pictures = _by_name(request.domains, facts.names)
    held = _held_names(request.hold, facts.names)
    repaint = request.repaint_mask is not None
    plan = choose_roles(choices, pictures, names=facts.names, repaint=repaint, held=held)
    used = {name: pictures[name] for name in plan.active_names if name in pictures}
    rows = agree_on_rows(_counts(used, request), request.batch if request.batch != 1 else None)
    given = prepare(
        used,
        request.size,
        factor=facts.factor,
        native=facts.native_size,
        explicit=(request.height, request.width),
        mode=request.fit,
        names=facts.names,
    )
    return Planned(plan, given, rows, held)


def encode_request(
    request: Request,
    facts: ModelFacts,
    vae: VAEFacts,
    *,
    encode: Callable[[Tensor], Tensor],
    null_text: Callable[[], list],
    watched: Callable[[list], Iterable] = iter,
) -> tuple[list, list, dict, str]:
    """positive and negative CONDITIONING, LATENT and a summary for people.

    encode: pictures (B, 3, H, W) in [-1, 1] -> (B, z, h, w) unscaled. null_text: CONDITIONING of
    the empty prompt. watched: goes through a list of work, for a progress bar.
    Raises: as `plan_request`; ShapeError when the VAE is not the model's.
    """
    check_vae_wire(facts, vae)
    planned = plan_request(request, facts)
    plan, given = planned.plan, planned.given
    grid = (given.size[0] // facts.vae_factor, given.size[1] // facts.vae_factor)
    shape = (facts.latent_channels, len(facts.names), *grid)
    clean, start = _encoded(planned, shape, encode, watched)
    samples = mark_empty(mark_ignored(start, planned.plan.as_tensor()))
    MADE.remember(samples)
    latent = {
        "samples": samples,
        "jodi": make_job_entry(facts.names, plan.roles, given.frame, given.size, planned.rows, vae),
    }
    regions = _regions(planned, request, grid)
    if regions:
        latent["noise_mask"] = make_change_mask(plan, grid, regions)
    extras = {"jodi_roles": plan.as_tensor(), "jodi_clean": clean, "jodi_vae": vae}
    positive, negative = _conditioning(null_text, request, extras)
    return positive, negative, latent, _summary(facts, planned, request, regions)


def _by_name(domains, names: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Role choices and pictures (B, 3, H, W), under the model's own names."""
    choices, pictures = {}, {}
    for name, choice, image in domains:
        image = None if are_none(image) else image  # of an ignored domain
        if name in DOMAIN_NAMES and name not in names and image is None and choice != "generate":
            continue  # a domain that the model lacks, and that nothing is asked of
        try:
            name = names[find_domain_index(name, names)]
        except JodiError as error:
            raise RoleError(str(error)) from None
        if name in choices:
            raise RoleError(f"the domain {name} comes twice; remove one Jodi Extra Domain")
        choices[name] = choice
        if image is not None:
            pictures[name] = to_picture(image, name)
    return choices, pictures


def _held_names(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    try:
        return tuple(names[find_domain_index(part, names)] for part in parts)
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


def _encoded(planned: Planned, shape, encode, watched) -> tuple[Tensor, Tensor]:
    """Latents of the given pictures: of conditions (1 or B, z, L, h, w), of all (B, z, L, h, w)."""
    plan, given = planned.plan, planned.given
    counts = [len(given.pictures[name]) for name in plan.condition_names]
    clean = torch.zeros(max(counts, default=1), *shape)
    start = torch.zeros(planned.rows, *shape)
    work = [
        (name, first)
        for name, picture in given.pictures.items()
        for first in range(0, len(picture), SLICE)
    ]
    parts: dict[str, list[Tensor]] = {name: [] for name in given.pictures}
    for name, first in watched(work):
        domain = find_model_domain(name, plan.names.index(name))
        fitted = given.fitted(name, slice(first, first + SLICE))
        parts[name].append(encode(preprocess(domain, fitted)).cpu())
    for name, encoded in parts.items():
        index = plan.names.index(name)
        start[:, :, index] = torch.cat(encoded)
        if index in plan.conditions:
            clean[:, :, index] = torch.cat(encoded)
    return clean, start


def _regions(planned: Planned, request: Request, grid) -> dict[int, Tensor]:
    """Where each kept domain may change, (M, h, w) by index; empty when nothing is kept."""
    plan, given = planned.plan, planned.given
    regions = {plan.names.index(name): torch.zeros(1, *grid) for name in planned.held}
    if request.repaint_mask is not None:
        free = lay_region_on_grid(request.repaint_mask, given.size, grid, request.fit)
        for index in find_kept_domains(plan, given.pictures):
            regions.setdefault(index, free)
        if set(regions) >= set(plan.generated) and not any(r.any() for r in regions.values()):
            raise RoleError(
                "the repaint mask is all black and nothing else is generated, so nothing would "
                "change; paint the area to change white (Load Image's MASK of a picture without "
                "opacity is all black)"
            )
    return regions


def _conditioning(
    null_text: Callable[[], list], request: Request, extras: Mapping
) -> tuple[list, list]:
    if request.negative_mask not in NEGATIVE_MASKS:
        raise JodiError(
            f"negative_mask is {request.negative_mask!r}; use {' or '.join(NEGATIVE_MASKS)}"
        )
    # an empty prompt and no prompt are the same to the model
    positive = request.positive or null_text()
    negative = request.negative or null_text()
    if request.negative_mask == "as released":
        negative = apply_prompt_mask(positive, negative)
    return add_extras(positive, **extras), add_extras(negative, **extras)


def _summary(facts: ModelFacts, planned: Planned, request: Request, regions) -> str:
    plan, given = planned.plan, planned.given
    pictures = "1 picture" if planned.rows == 1 else f"{planned.rows} pictures"
    height, width = given.size
    lines = [
        plan.summary(facts.trained_roles),
        f"{width} x {height} pixels (width x height), {pictures}",
    ]
    for name, frame in list(given.frames.items())[:1]:
        if not frame.unchanged:
            done = "cropped" if frame.mode == "crop" else "padded"
            resized = (frame.resized_h, frame.resized_w)
            how = f"scaled and {done}" if resized != (frame.height, frame.width) else "scaled"
            lines.append(f"{name} of {frame.original_w} x {frame.original_h} is {how} to fit")
    lines += [
        f"{name}: its wire holds no pictures (an ignored domain) and counts as not connected"
        for name, _, image in request.domains
        if are_none(image)
    ]
    lines += [explain_doubt(doubt) for doubt in given.doubts]
    lines += _kept(planned, request, regions)
    if request.positive and not plan.uses_text:
        lines.append("the prompt has no effect: the model reads no text when the image is given")
    return "\n".join(lines)


def _kept(planned: Planned, request: Request, regions) -> list[str]:
    """Lines that say what becomes of pictures connected to generated domains."""
    plan, frames, lines = planned.plan, planned.given.frames, []
    for index in find_kept_domains(plan, frames):
        name = plan.names[index]
        if index not in regions:
            lines.append(
                f"{name}: the connected picture only counts with denoise below 1, a repaint mask "
                "or hold"
            )
        elif request.repaint_mask is not None and regions[index].any():
            h, w = request.repaint_mask.shape[-2:]
            if differ_in_proportions((h, w), (frames[name].original_h, frames[name].original_w)):
                lines.append(
                    f"repaint_mask of {w} x {h} has another shape than {name}; it may not lie "
                    "over it"
                )
    for index, region in regions.items():
        changes = bool(region.any())
        what = "changes inside the repaint mask only" if changes else "keeps its picture"
        lines.append(f"{plan.names[index]} {what}")
    return lines


def explain_doubt(doubt: Doubt) -> str:
    """A doubt about a given picture, with the node that corrects it."""
    way = _WAYS.get((doubt.name, doubt.kind))
    return doubt.text if way is None else f"{doubt.text} ({way})"
