"""Wires of different jobs, and what other nodes did to a LATENT. Run by test_nodes.py in a ComfyUI.

All of these once gave a picture without a word.
"""

import comfy.sample
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.kit.errors import RoleError, ShapeError
from jodi_pack.nodes.jodi.decode import JodiDecodeAll, JodiDecodeLabel
from jodi_pack.nodes.jodi.overview import JodiContactSheet
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler
from jodi_pack.nodes.wires.job import read_job
from jodi_pack.tests.nodes.parts import image, parts, raises, text

from nodes import (
    ConditioningCombine,
    ConditioningSetArea,
    ConditioningSetTimestepRange,
    LatentFlip,
    LatentRotate,
    LatentUpscaleBy,
)

MODEL, VAE, _ = parts()
A, B = image(1, 48, 48), image(1, 48, 48, seed=7)
TEXTS = {"positive": text(), "negative": text(seed=8)}


def job(**inputs):
    return JodiRoles.execute(MODEL, VAE, **inputs).args[:3]


def jodi(wires, **options) -> dict:
    return JodiSampler.execute(MODEL, *wires, 0, 2, 1.5, **options).args[0]


def ksampler(wires, noise=True, **options) -> dict:
    positive, negative, latent = wires
    samples = latent["samples"]
    drawn = comfy.sample.prepare_noise(samples, 7) if noise else torch.zeros_like(samples)
    args = (MODEL, drawn, 2, 1.5, "euler", "simple", positive, negative, samples)
    return {**latent, "samples": comfy.sample.sample(*args, disable_noise=not noise, **options)}


def check_wires_of_two_jobs_are_refused():
    """Sizes and rows are equal in all of them."""
    one, other = job(image=A, depth_role="generate"), job(image=B, depth_role="generate")
    for run in (jodi, ksampler):
        with raises(ShapeError, "different pictures of image", "same Jodi Roles"):
            run((*one[:2], other[2]))
        with raises(ShapeError, "same Jodi Roles"):
            run((one[0], other[1], one[2]))
        with raises(ShapeError, "negative", "same Jodi Roles"):
            run((one[0], job(image=A)[1], one[2]))
        with raises(ShapeError, "negative", "holds no roles"):
            run((one[0], text(), one[2]))
        with raises(ShapeError, "same Jodi Roles"):
            run((*job(**TEXTS)[:2], one[2]) if run is jodi else (*job(depth=A)[:2], one[2]))
    with raises(ShapeError, "not those of the LATENT"):
        jodi((*job(image=A, normal_role="generate")[:2], one[2]))


def check_wires_of_one_job_pass_through_other_nodes():
    positive, negative, latent = job(**TEXTS, depth=A)
    second = job(positive=text(seed=5), depth=A)[0]
    (area,) = ConditioningSetArea().append(second, 24, 24, 0, 0, 1.0)
    (timed,) = ConditioningSetTimestepRange().set_range(second, 0.0, 0.5)
    for extra in (area, timed):
        (combined,) = ConditioningCombine().combine(positive, extra)
        for run in (jodi, ksampler):
            once = run((combined, negative, latent))
            again = run((combined, negative, once), denoise=0.5)
            assert again["samples"].isfinite().all()
    half = ksampler((positive, negative, latent), last_step=1, force_full_denoise=False)
    rest = ksampler((positive, negative, half), noise=False, start_step=1)
    assert rest["samples"].isfinite().all(), "a LATENT in the middle of sampling holds noise"


def check_second_pass_at_a_larger_size():
    wires = job(**TEXTS)
    for method in ("nearest-exact", "bislerp"):
        for run in (jodi, ksampler):
            once = run(wires)
            (large,) = LatentUpscaleBy().upscale(once, method, 1.5)
            assert not large["samples"][:, :, 1:].any()  # domains do not mix
            out = run((*wires[:2], large), denoise=0.6)
            assert JodiDecodeLabel.execute(out, VAE, "image").args[0].shape == (1, 72, 72, 3)
    given = job(**TEXTS, depth=A)
    (large,) = LatentUpscaleBy().upscale(jodi(given), "bilinear", 1.5)
    for run in (jodi, ksampler):
        with raises(ShapeError, "another Jodi Roles", "width and height"):
            run((*given[:2], large), denoise=0.6)


def check_empty_domains_are_not_decoded_whatever_the_entry_says():
    done = jodi(job(image=A, depth_role="generate"))
    bare = {"samples": done["samples"]}
    with raises(RoleError, "normal is not part of this job"):
        JodiDecodeLabel.execute(bare, VAE, "normal")
    outputs = JodiDecodeAll.execute(bare, VAE).args
    shown = zip(DOMAIN_NAMES, outputs, strict=True)
    made = [name for name, pixels in shown if len(pixels)]
    assert made == ["image", "depth"]
    sheets = [JodiContactSheet.execute(wire, VAE).args[0] for wire in (bare, done)]
    assert sheets[0].shape == sheets[1].shape
    with raises(ShapeError, "depth has the role generate", "not sampled yet"):
        JodiDecodeLabel.execute(job(image=A, depth_role="generate")[2], VAE, "depth")


def check_values_that_are_no_numbers_are_refused():
    done = jodi(job(image=A, depth_role="generate"))
    samples = done["samples"].clone()
    samples[0, 0, 3, 0, 0] = float("nan")
    broken = {**done, "samples": samples}
    for values in ("as published", "raw"):
        with raises(ShapeError, "not finite", "bf16 or fp32"):
            JodiDecodeLabel.execute(broken, VAE, "depth", values=values)
    for run in (
        lambda: JodiDecodeAll.execute(broken, VAE),
        lambda: JodiContactSheet.execute(broken, VAE),
        lambda: VAE.decode(samples),
        lambda: VAE.decode(samples[:, :, 3]),
        lambda: VAE.decode_tiled(samples),
    ):
        with raises(ShapeError, "not finite", "bf16 or fp32"):
            run()


def check_flipped_and_turned_domains_are_noticed():
    done = jodi(job(image=A, depth_role="generate", size="width and height", width=64, height=64))
    (flipped,) = LatentFlip().flip(done, "x-axis: vertically")
    (turned,) = LatentRotate().rotate(done, "90 degrees")
    for wire in (flipped, turned):
        for name in ("depth", "albedo"):
            with raises(ShapeError, "flipped, turned or cropped"):
                JodiDecodeLabel.execute(wire, VAE, name)
    wires = job(image=A, depth_role="generate", size="width and height", width=64, height=64)
    for run in (jodi, ksampler):
        with raises(ShapeError, "same Jodi Roles"):
            run((*wires[:2], LatentFlip().flip(wires[2], "x-axis: vertically")[0]))


def check_joined_batches_belong_to_no_one_job():
    import comfy_extras.nodes_post_processing  # noqa: F401  (the next one needs it first)
    from comfy_extras.nodes_latent import LatentBatch

    depth = jodi(job(image=A, depth_role="generate"))
    normal = jodi(job(image=B, normal_role="generate"))
    both = LatentBatch.execute(depth, normal).args[0]
    known = read_job(both)
    assert known.roles is None and known.frames == (None, None)
    with raises(RoleError, "depth is part of rows 0 of this batch only"):
        JodiDecodeLabel.execute(both, VAE, "depth")
    assert JodiDecodeLabel.execute(both, VAE, "image").args[0].shape[0] == 2


def check_further_domains_without_names_are_numbered():
    of = parts(8, (*DOMAIN_NAMES, "roughness"))
    latent = JodiRoles.execute(*of[:2], image=A).args[2]
    bare = {"samples": torch.randn(latent["samples"].shape)}
    assert read_job(bare).names == (*DOMAIN_NAMES, "domain 9")
    pixels = JodiDecodeLabel.execute(bare, of[1], "image", other_domain="Domain 9").args[0]
    named = {**bare, "jodi": latent["jodi"]}
    wanted = JodiDecodeLabel.execute(named, of[1], "image", other_domain="roughness").args[0]
    assert torch.equal(pixels, wanted)
