"""Jobs for the MODEL wire: by the host, and the same by the core."""

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import torch
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.nodes.parts import AE, GUIDANCE, parts, prompt_features, text

NAMES = parts()[2].names


GRID = (6, 5)


def relative(ours, theirs) -> float:
    return ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()


def job(generate, condition=(), rows=2, seed=0):
    """(plan, positive, negative, latent, clean): wires of a job, and its scaled clean latents."""
    pipeline = parts()[2]
    plan = pipeline.plan(generate, condition)
    shape = (rows, 8, AE.latent_channels, *GRID)
    clean = torch.zeros(shape)
    for index in plan.conditions:
        clean[:, index] = randn(*shape[:1], *shape[2:], seed=seed + index)
    wire = clean.transpose(1, 2) / AE.scaling_factor
    extra = {"jodi_roles": plan.as_tensor(), "jodi_clean": wire}
    positive, negative = (
        [[features, {**more, **extra}] for features, more in conditioning]
        for conditioning in (text(tokens=7, seed=1), text(tokens=4, seed=2))
    )
    return plan, positive, negative, {"samples": torch.zeros_like(wire)}, clean


def noise_like(latent, seed=5):
    return comfy.sample.prepare_noise(latent["samples"], seed)


@torch.inference_mode()
def sample(positive, negative, latent, *, model=None, steps=3, guidance=GUIDANCE, **options):
    return _host.run_sampler(
        model or parts()[0],
        positive,
        negative,
        latent,
        **{
            "noise": noise_like(latent),
            "sampler": _host.make_jodi_sampler(),
            "sigmas": _host.make_jodi_sigmas(steps),
            "guidance": guidance,
            **options,
        },
    )


@torch.inference_mode()
def ksample(name, scheduler, positive, negative, latent, *, steps=3, guidance=1.0):
    """What the host's KSampler node does."""
    return comfy.sample.sample(
        parts()[0],
        noise_like(latent),
        steps,
        guidance,
        name,
        scheduler,
        positive,
        negative,
        latent["samples"],
        seed=5,
    )


@torch.inference_mode()
def by_the_core(plan, positive, negative, clean, noise, *, pipeline=None, steps=3, **options):
    """The same job by the core pipeline, as unscaled (B, z, L, h, w)."""
    latents = (pipeline or parts()[2]).sample(
        plan,
        clean,
        prompt_features(positive),
        prompt_features(negative),
        steps=steps,
        noise=noise.transpose(1, 2),
        **{"guidance": GUIDANCE, "own_mask": True, **options},
    )
    return latents.transpose(1, 2) / AE.scaling_factor
