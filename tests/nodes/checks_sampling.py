"""Sampling through Jodi Sampler, SamplerCustom and KSampler. Run by test_nodes.py in a ComfyUI."""

import contextlib

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, SamplerCustomAdvanced
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.kit.errors import JodiError, RoleError, ShapeError
from jodi_pack.kit.sampling import draw_noise
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler, JodiSamplerSelect, JodiScheduler
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.nodes.parts import AE, GUIDANCE, image, parts, prompt_features, raises, text

from nodes import LatentFromBatch, SetLatentNoiseMask

MODEL, VAE, CORE = parts()
BAR = 1e-4  # relative RMS to the core's own pipeline for the same noise


def job(**inputs):
    return JodiRoles.execute(MODEL, VAE, **inputs).args[:3]


def sample(wires, seed=0, steps=0, cfg=0.0, model=MODEL, **options) -> torch.Tensor:
    """Scaled latents (B, L, z, h, w), as the core gives them."""
    out = JodiSampler.execute(model, *wires, seed, steps, cfg, **options).args[0]
    return out["samples"].transpose(1, 2) * AE.scaling_factor


def core(plan: str, pictures=None, seed=0, **options) -> torch.Tensor:
    plan = RolePlan.parse(plan)
    pictures = {name: pixels.movedim(-1, 1) for name, pixels in (pictures or {}).items()}
    texts = {}
    if plan.uses_text:
        texts = {"text": prompt_features(text()), "negative_text": prompt_features(text(seed=8))}
    return CORE.run(plan, conditions=pictures, seed=seed, size=(48, 48), **texts, **options).latents


TEXTS = {"positive": text(), "negative": text(seed=8)}
A, D, N = image(1, 48, 48), image(1, 48, 48, seed=2), image(1, 48, 48, seed=4)
JOINT = ", ".join(f"{name}=generate" for name in DOMAIN_NAMES)


def check_every_task_is_the_cores_own():
    """Automatic steps and guidance are the core's defaults, so they are compared too."""
    to_image = {f"{name}_role": "generate" for name in DOMAIN_NAMES}
    for plan, inputs, pictures in (
        ("image=generate", TEXTS, {}),
        (JOINT, {**TEXTS, **to_image}, {}),
        ("image=generate, depth=condition", {**TEXTS, "depth": D}, {"depth": D}),
        ("image=condition, depth=generate", {"image": A, "depth_role": "generate"}, {"image": A}),
        (
            "image=ignore, depth=condition, normal=generate, edge=generate",
            {
                **TEXTS,
                "depth": D,
                "image_role": "ignore",
                "edge_role": "generate",
                "normal_role": "generate",
            },
            {"depth": D},
        ),
    ):
        ours = sample(job(**inputs), seed=11)
        assert relative_rms(ours, core(plan, pictures, seed=11)) < BAR, plan


def check_automatic_settings():
    steps_of = []

    def automatic(wires):
        with recorded_progress() as seen:
            result = sample(wires)
        steps_of.append(seen[-1][1])
        return result

    wires = job(image=A, depth_role="generate")
    assert torch.equal(automatic(wires), sample(wires, steps=10, cfg=1.0))
    # the image is given: guidance has no effect, and must not cost anything
    assert torch.equal(sample(wires, steps=2, cfg=5.0), sample(wires, steps=2, cfg=1.0))
    wires = job(**TEXTS)
    result = automatic(wires)
    assert torch.equal(result, sample(wires, steps=20, cfg=GUIDANCE))
    assert not torch.allclose(result, sample(wires, steps=20, cfg=1.0))
    assert steps_of == [10, 20]


def check_rows_are_the_same_in_any_batch_and_chunk():
    frames = image(5, 48, 48, seed=6)
    wires = job(image=frames, depth_role="generate", normal_role="generate")
    whole = sample(wires, seed=3, steps=3)
    for chunk in (1, 2, 4, 100):
        # The order of a product's sums follows its size on some processors, so bits may differ.
        assert relative_rms(sample(wires, seed=3, steps=3, chunk=chunk), whole) < 1e-5, chunk
    for row in (0, 4):
        alone = job(image=frames[row : row + 1], depth_role="generate", normal_role="generate")
        assert relative_rms(sample(alone, seed=3 + row, steps=3), whole[row : row + 1]) < 1e-5
    assert torch.equal(sample(wires, seed=3, steps=3), whole)
    assert not torch.allclose(sample(wires, seed=4, steps=3)[0], whole[0])


def check_rows_picked_before_sampling_are_the_same_rows():
    frames = image(5, 48, 48, seed=6)
    wires = job(image=frames, depth_role="generate")
    whole = sample(wires, seed=3, steps=2)
    (picked,) = LatentFromBatch().frombatch(wires[2], 2, 2)
    assert relative_rms(sample((*wires[:2], picked), seed=3, steps=2), whole[2:4]) < 1e-5
    without = {key: value for key, value in picked.items() if key != "batch_index"}
    with raises(ShapeError, "2 rows", "made for 5", "pick or repeat rows after sampling"):
        sample((*wires[:2], without), steps=2)
    with raises(ShapeError, "same Jodi Roles"):
        ksampler((*wires[:2], picked))


def check_masks_for_each_row_of_other_nodes():
    mask = torch.zeros(3, 48, 48)
    mask[0, :24], mask[1, 24:] = 1, 1
    wires = job(**TEXTS, image=image(3, 48, 48), image_role="generate")
    (masked,) = SetLatentNoiseMask().set_mask(wires[2], mask)
    start = wires[2]["samples"][:, :, 0]
    for chunk in (0, 2):
        out = sample((*wires[:2], masked), steps=3, chunk=chunk).transpose(1, 2)
        change = (out[:, :, 0] / AE.scaling_factor - start).abs().amax(1)
        assert change[0, 3:].max() < 1e-5 and change[0, :3].min() > 1e-3
        assert change[1, :3].max() < 1e-5 and change[1, 3:].min() > 1e-3
        assert change[2].max() < 1e-5


def check_chunks_keep_rows_of_text_and_masks_together():
    mask = torch.zeros(3, 48, 48)
    mask[0, :24], mask[1, 24:], mask[2, :, :24] = 1, 1, 1
    inputs = {"positive": text(rows=3), "negative": text(seed=8), "image": image(3, 48, 48)}
    wires = job(**inputs, depth=D, repaint_mask=mask)
    assert relative_rms(sample(wires, steps=3, chunk=2), sample(wires, steps=3)) < 1e-5


def check_fixed_noise():
    wires = job(image=A, depth_role="generate", batch=3)
    fixed = sample(wires, seed=5, steps=2, fixed_noise=True)
    assert relative_rms(fixed[1:2], fixed[:1]) < 1e-5 and relative_rms(fixed[2:], fixed[:1]) < 1e-5
    assert relative_rms(fixed[:1], sample(wires, seed=5, steps=2)[:1]) < 1e-5
    assert not torch.allclose(*sample(wires, seed=5, steps=2)[:2])


class Noise:
    """A NOISE wire that draws the core's noise."""

    seed = 11

    def generate_noise(self, latent):
        batch, channels, domains, h, w = latent["samples"].shape
        return draw_noise((batch, domains, channels, h, w), self.seed).transpose(1, 2)


def check_the_parts_give_the_same_in_sampler_custom():
    for inputs, cfg in ((TEXTS, GUIDANCE), ({"image": A}, 1.0), ({**TEXTS, "depth": D}, GUIDANCE)):
        positive, negative, latent = job(**inputs)
        guider = CFGGuider.execute(MODEL, positive, negative, cfg).args[0]
        sampler = JodiSamplerSelect.execute("dpmpp_2m").args[0]
        sigmas = JodiScheduler.execute(MODEL, 6, 1.0).args[0]
        out = SamplerCustomAdvanced.execute(Noise(), guider, sampler, sigmas, latent).args[0]
        ours = sample((positive, negative, latent), seed=11, steps=6, cfg=cfg)
        assert relative_rms(out["samples"].transpose(1, 2) * AE.scaling_factor, ours) < 1e-6


def check_schedules():
    sigmas = JodiScheduler.execute(MODEL, 20, 1.0).args[0]
    assert sigmas.shape == (21,) and sigmas.dtype == torch.float32
    assert abs(float(sigmas[0]) - 0.99966639) < 1e-7 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    half = JodiScheduler.execute(MODEL, 20, 0.5).args[0]
    assert half.shape == (21,) and abs(float(half[0]) - 0.5) < 1e-6
    with raises(JodiError, "heun"):
        JodiSamplerSelect.execute("heun")


def ksampler(wires, sampler="euler", steps=4, cfg=1.0, sigmas=None, model=MODEL) -> torch.Tensor:
    """What the KSampler node does."""
    positive, negative, latent = wires
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, 7)
    args = (steps, cfg, sampler, "simple", positive, negative, samples)
    options = {"noise_mask": latent.get("noise_mask"), "sigmas": sigmas, "seed": 7}
    return comfy.sample.sample(model, noise, *args, **options)


def check_plain_ksampler():
    wires = job(**TEXTS, depth=D, normal=N)
    start = wires[2]["samples"]
    for sampler in ("euler", "res_multistep", "euler_ancestral"):
        out = ksampler(wires, sampler, cfg=2.0)
        assert out.isfinite().all() and out[:, :, 0].std() > 0.01
        assert torch.allclose(out[:, :, 3:5], start[:, :, 3:5], atol=1e-5), sampler
        assert not out[:, :, [1, 2, 5, 6, 7]].any(), sampler


def check_ksamplers_euler_on_the_published_schedule_is_the_cores():
    """But for the first level: the host scales its noise by it, the core takes the noise itself."""
    wires = job(**TEXTS, depth=D, normal=N)
    out = ksampler(wires, sigmas=JodiScheduler.execute(MODEL, 6, 1.0).args[0], steps=6)
    near = CORE.sample(
        RolePlan.parse("image=generate, depth=condition, normal=condition"),
        wires[2]["samples"].transpose(1, 2) * AE.scaling_factor,
        prompt_features(text()),
        steps=6,
        noise=comfy.sample.prepare_noise(wires[2]["samples"], 7).transpose(1, 2),
        sampler="euler",
    )
    assert relative_rms(out[:, :, 0] * AE.scaling_factor, near[:, 0]) < 1e-3


def check_held_domains_and_regions_come_back_unchanged():
    mask = torch.zeros(1, 48, 48)
    mask[:, :24, :24] = 1
    wires = job(
        **TEXTS,
        image=A,
        depth=D,
        normal=N,
        normal_role="generate",
        repaint_mask=mask,
        hold="normal",
    )
    latent = wires[2]
    start, free = latent["samples"], latent["noise_mask"][:, 0, 0].bool()
    results = {"jodi": sample(wires, steps=5).transpose(1, 2) / AE.scaling_factor}
    results["ksampler"] = ksampler(wires, cfg=2.0)
    for name, out in results.items():
        scale = float(start.abs().max())
        assert (out[:, :, 3:5] - start[:, :, 3:5]).abs().max() < 1e-6 * scale, name
        image_change = (out[:, :, 0] - start[:, :, 0]).abs().amax(1)
        assert image_change[~free].max() < 1e-6 * scale, name
        assert image_change[free].min() > 1e-3 * scale, name


def check_holding_is_the_cores_own():
    wires = job(
        **TEXTS, image=A, depth=D, depth_role="generate", image_role="generate", hold="depth"
    )
    plan = RolePlan.parse("image=generate, depth=generate")
    init = wires[2]["samples"].transpose(1, 2) * AE.scaling_factor
    near = CORE.sample(
        plan,
        torch.zeros_like(init),
        prompt_features(text()),
        prompt_features(text(seed=8)),
        steps=6,
        guidance=GUIDANCE,
        seed=2,
        init=init,
        hold=1 - wires[2]["noise_mask"].transpose(1, 2),
    )
    ours = sample(wires, seed=2, steps=6)
    assert relative_rms(ours[:, [0, 3]], near[:, [0, 3]]) < BAR


def check_partial_denoise_starts_from_the_pictures():
    wires = job(**TEXTS, image=A, image_role="generate")
    init = wires[2]["samples"].transpose(1, 2) * AE.scaling_factor
    features = prompt_features(text()), prompt_features(text(seed=8))
    near = CORE.sample(
        RolePlan.parse("image=generate"),
        torch.zeros_like(init),
        *features,
        steps=5,
        guidance=GUIDANCE,
        seed=2,
        init=init,
        start=0.4,
    )
    ours = sample(wires, seed=2, steps=5, denoise=0.4)
    assert relative_rms(ours[:, :1], near[:, :1]) < BAR
    distances = [
        relative_rms(sample(wires, steps=5, denoise=d)[:, :1], init[:, :1]) for d in (0.1, 1.0)
    ]
    assert distances[0] < distances[1]


def check_partial_denoise_needs_a_picture_to_start_from():
    with raises(RoleError, "denoise is 0.5", "no picture of image", "role to generate"):
        sample(job(**TEXTS, depth=D), steps=2, denoise=0.5)
    # held domains and those with a picture will do
    sample(job(**TEXTS, image=A, image_role="generate", edge_role="generate"), steps=1, denoise=0.5)


def check_euler_is_offered_too():
    wires = job(**TEXTS)
    ours = sample(wires, seed=1, steps=6, sampler_name="euler")
    assert relative_rms(ours, core("image=generate", seed=1, steps=6, sampler="euler")) < BAR


@contextlib.contextmanager
def recorded_progress(on_step=None):
    """(value, total) of every report to the host's progress bar."""
    seen, before = [], comfy.utils.PROGRESS_BAR_HOOK

    def hook(value, total, preview, **_):
        seen.append((value, total))
        if on_step:
            on_step(value)

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        yield seen
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


def check_progress_counts_all_chunks():
    wires = job(image=image(3, 48, 48), depth_role="generate")
    with recorded_progress() as seen:
        sample(wires, steps=2, chunk=2)
    assert seen[-1] == (4, 4) and [value for value, _ in seen] == sorted(value for value, _ in seen)


def check_cancel_stops_within_a_step_and_the_next_run_works():
    wires = job(image=image(3, 48, 48), depth_role="generate")
    expected = sample(wires, steps=4, chunk=1)

    def cancel(value):
        if value < 3:  # newer hosts report only now and then
            comfy.model_management.interrupt_current_processing(True)

    with recorded_progress(cancel) as seen:
        try:
            sample(wires, steps=4, chunk=1)
        except comfy.model_management.InterruptProcessingException:
            pass
        else:
            raise AssertionError("sampling went on after Cancel")
    assert seen[-1][0] <= 2
    assert torch.equal(sample(wires, steps=4, chunk=1), expected)


def check_wrong_wires():
    positive, negative, latent = job(**TEXTS)
    with raises(RoleError, "positive and negative of Jodi Roles"):
        JodiSampler.execute(MODEL, text(), text(), latent, 0, 2, 1.0)
    with raises(ShapeError, "third axis", "Jodi Roles"):
        JodiSampler.execute(
            MODEL, positive, negative, {"samples": torch.zeros(1, 4, 6, 6)}, 0, 2, 1.0
        )
    one = {"samples": latent["samples"][:, :, :1]}
    with raises(ShapeError, "8 domains", "got 1"):
        JodiSampler.execute(MODEL, positive, negative, one, 0, 2, 1.0)
    with raises(JodiError, "expected a Jodi MODEL"):
        JodiSampler.execute(object(), positive, negative, latent, 0, 2, 1.0)
    # Another model of the same sizes, whose latents are scaled otherwise
    for run in (sample, ksampler):
        with raises(ShapeError, "scaled by 0.41407", "tiny, works on", "same MODEL to Jodi Roles"):
            run((positive, negative, latent), steps=2, cfg=1.0, model=parts(scale=0.8)[0])
    other = JodiRoles.execute(
        MODEL, VAE, image=A, size="width and height", width=64, height=64
    ).args
    with raises(ShapeError, "same Jodi Roles"):
        JodiSampler.execute(MODEL, other[0], other[1], latent, 0, 2, 1.0)


def check_inputs_are_left_as_they_are():
    wires = job(**TEXTS, image=A, image_role="generate", depth=D)
    before = [
        wires[2]["samples"].clone(),
        wires[0][0][0].clone(),
        set(wires[0][0][1]),
        set(wires[2]),
    ]
    out = JodiSampler.execute(MODEL, *wires, 0, 2, 0.0).args[0]
    assert out is not wires[2] and out["jodi"] == wires[2]["jodi"]
    assert torch.equal(before[0], wires[2]["samples"]) and torch.equal(before[1], wires[0][0][0])
    assert before[2:] == [set(wires[0][0][1]), set(wires[2])]
