"""What happens around every sampling of a Jodi MODEL, by the host's wrappers.

Before: wires that cannot work are refused in a sentence, and areas and masks of CONDITIONING are
made to fit a LATENT with domains. After: ignored domains hold exact zeros, whichever sampler or
patch left a trace there, and given domains what was given.
Shapes: B rows, z latent channels, L domains, h w latent grid.
"""

import logging

import comfy.patcher_extension
import torch
from torch import Tensor

from ...jodi_core.roles import Role
from ...kit.errors import JodiError, RoleError
from ..wires.agreement import check_domains
from ..wires.job import mark_ignored
from ..wires.regions import spread_region
from .flow import check_flow
from .jodi_model import CLEAN, ROLES

log = logging.getLogger("jodi")

KEY = "jodi"


def attach(patcher):
    """The MODEL with these wrappers; they go with it through every clone."""
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in (
        (kinds.OUTER_SAMPLE, _before_sampling),
        (kinds.SAMPLER_SAMPLE, _clear_traces),
    ):
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)
    return patcher


def _before_sampling(executor, noise, latent_image, *args, **kwargs):
    guider = executor.class_obj
    patcher = guider.model_patcher
    model = patcher.model
    check_flow(patcher.get_model_object("model_sampling"))
    _check_patches(guider.model_options)
    model.check_shape(latent_image)
    for name, entries in guider.conds.items():
        for values in entries:
            _check_entry(values, name)
        guider.conds[name] = [
            spread_region(values, latent_image.shape, model.facts.vae_factor) for values in entries
        ]
    roles = [values.get(ROLES) for entries in guider.conds.values() for values in entries]
    for known in [r for r in roles if r is not None] or [None]:  # the MODEL compares entries
        check_domains(latent_image, known, model.facts.names)
    return executor(noise, latent_image, *args, **kwargs)


def _clear_traces(executor, guider, sigmas, extra_args, callback, *args, **kwargs):
    roles, clean = _roles_and_clean(guider.conds)
    if roles is None:
        return executor(guider, sigmas, extra_args, callback, *args, **kwargs)

    def report(step, x0, x, total):
        return callback(step, mark_ignored(x0, roles), x, total)

    shown = report if callback is not None else None
    finished = len(sigmas) > 0 and sigmas[-1] == 0  # asked now, since some samplers write into them
    samples = executor(guider, sigmas, extra_args, shown, *args, **kwargs)
    if clean is not None and finished:
        given = (roles.to(samples.device) == Role.CONDITION)[:, None, :, None, None]
        samples = torch.where(given, clean.to(samples), samples)
    return mark_ignored(samples, roles)


def _roles_and_clean(conds: dict) -> tuple[Tensor | None, Tensor | None]:
    """Roles (1 or B, L) and scaled clean latents of a sampling, equal in all entries."""
    for entries in conds.values():
        for values in entries:
            tensors = values.get("model_conds", {})
            if ROLES in tensors:
                clean = tensors.get(CLEAN)
                return tensors[ROLES].cond, None if clean is None else clean.cond
    return None, None


def _check_entry(values: dict, name: str) -> None:
    """Pass when the CONDITIONING holds nothing that only works on other models.

    Raises: RoleError.
    """
    for key, what in (("control", "a ControlNet"), ("gligen", "GLIGEN")):
        if values.get(key) is not None:
            raise RoleError(
                f"{name} carries {what}, which is made for another model. Jodi takes maps itself: "
                "connect them to Jodi Roles (depth, edge, openpose and so on)"
            )


def _check_patches(model_options: dict) -> None:
    """Pass when no node exchanged attention layers, which Jodi does not have. Raises: JodiError."""
    options = model_options.get("transformer_options", {})
    if any(options.get("patches_replace", {}).values()):
        raise JodiError(
            "a node on the MODEL exchanges attention inside a U-Net (Self-Attention Guidance and "
            "IPAdapter do so); Jodi has no such layers, so it would have no effect or fail. Take "
            "it away from the MODEL"
        )
    unused = sorted(name for name, patches in options.get("patches", {}).items() if patches)
    if unused:
        log.warning(
            "patches on the MODEL have no effect on Jodi, which has no such layers: %s",
            ", ".join(unused),
        )
