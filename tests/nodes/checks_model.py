"""The MODEL wire under the host's own sampling. Run by test_nodes.py inside a ComfyUI."""

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import torch
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.denoiser import prepare_denoiser
from jodi_pack.kit.errors import JodiError, RoleError, ShapeError, TextError
from jodi_pack.kit.sampling import sample_euler
from jodi_pack.nodes.host import jodi_model as _host_model
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.nodes.wires import agreement
from jodi_pack.tests.helpers import TINY, randn
from jodi_pack.tests.nodes.jobs import (
    GRID,
    NAMES,
    by_the_core,
    job,
    ksample,
    noise_like,
    relative,
    sample,
)
from jodi_pack.tests.nodes.parts import AE, GUIDANCE, parts, prompt_features, raises, text


def check_sampler_custom_equals_the_pipeline():
    plan, positive, negative, latent, clean = job(["image", "depth"], ["edge", "normal"])
    arguments = {
        "model": parts()[0],
        "add_noise": True,
        "noise_seed": 11,
        "cfg": GUIDANCE,
        "positive": positive,
        "negative": negative,
        "sampler": _host.make_jodi_sampler(),
        "sigmas": _host.make_jodi_sigmas(4),
        "latent_image": latent,
    }
    node = custom.SamplerCustom
    with torch.inference_mode():
        made = node.execute(**arguments) if hasattr(node, "execute") else node().sample(**arguments)
    result = made[0]["samples"]
    noise = comfy.sample.prepare_noise(latent["samples"], 11)
    expected = by_the_core(plan, positive, negative, clean, noise, steps=4)
    assert relative(result, expected) < 1e-5
    for index in plan.conditions:
        assert torch.allclose(result[:, :, index], expected[:, :, index], atol=1e-6)
    assert not result[:, :, list(plan.ignored)].any()


def check_perception_equals_the_pipeline():
    plan, positive, negative, latent, clean = job(NAMES[1:], ["image"])
    result = sample(positive, negative, latent, guidance=1.0)
    expected = by_the_core(plan, positive, negative, clean, noise_like(latent), guidance=1.0)
    assert relative(result, expected) < 1e-5


def check_ksampler_with_euler():
    plan, positive, negative, latent, clean = job(["image", "albedo"], ["depth"])
    model = parts()[0]
    with torch.inference_mode():
        result = ksample("euler", "simple", positive, negative, latent, steps=4, guidance=GUIDANCE)
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "simple", 4
        ).tolist()
        denoise = prepare_denoiser(
            parts()[2].transformer,
            plan.as_tensor(2),
            clean,
            prompt_features(positive),
            prompt_features(negative),
            sigmas=sigmas,
            guidance=GUIDANCE,
            own_mask=True,
        )
        expected = sample_euler(denoise, noise_like(latent).transpose(1, 2), sigmas)
    generated = list(plan.generated)
    expected = expected.transpose(1, 2)[:, :, generated] / AE.scaling_factor
    assert relative(result[:, :, generated], expected) < 1e-5


def check_every_sampler_keeps_conditions_and_empties_the_ignored():
    plan, positive, negative, latent, _ = job(["depth"], ["image", "edge"])
    names = (
        "uni_pc",
        "euler_ancestral",
        "heun",
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "res_multistep",
        "lcm",
    )
    for name in names:
        result = ksample(name, "normal", positive, negative, latent)
        given = positive[0][1]["jodi_clean"]
        for index in plan.conditions:
            assert torch.allclose(result[:, :, index], given[:, :, index], atol=1e-5), name
        assert result[:, :, list(plan.ignored)].abs().max() < 1e-5, name
        assert result[:, :, list(plan.generated)].isfinite().all(), name


def check_partial_denoising_and_masks_equal_the_pipeline():
    plan, positive, negative, latent, clean = job(["image", "depth", "normal"])
    init = randn(2, 8, AE.latent_channels, *GRID, seed=9)
    init[:, list(plan.ignored)] = 0
    hold = torch.zeros(1, 8, 1, *GRID)
    hold[:, 3] = 1  # depth stays
    hold[:, 0, :, :3] = 1  # and the upper half of the image
    latent = {
        "samples": init.transpose(1, 2) / AE.scaling_factor,
        "noise_mask": 1 - hold.transpose(1, 2),
    }
    for start in (1.0, 0.6):
        result = sample(positive, negative, latent, sigmas=_host.make_jodi_sigmas(3, start=start))
        expected = by_the_core(
            plan, positive, negative, clean, noise_like(latent), init=init, hold=hold, start=start
        )
        active = list(plan.active)
        assert relative(result[:, :, active], expected[:, :, active]) < 1e-5
        assert torch.allclose(result[:, :, 3], latent["samples"][:, :, 3], atol=1e-6)


def check_rows_with_different_roles():
    first = job(["image"], ["depth"], rows=1)
    second = job(["depth", "edge"], ["image"], rows=1, seed=30)
    alone = []
    for plan, positive, negative, latent, clean in (first, second):
        noise = noise_like({"samples": torch.zeros(2, *latent["samples"].shape[1:])})
        row = noise[len(alone) : len(alone) + 1]
        alone.append(by_the_core(plan, positive, negative, clean, row))
    both = {
        key: torch.cat([first[1][0][1][key], second[1][0][1][key]])
        for key in ("jodi_roles", "jodi_clean")
    }
    positive, negative = ([[c[0][0], {**c[0][1], **both}]] for c in first[1:3])
    latent = {"samples": torch.zeros(2, AE.latent_channels, 8, *GRID)}
    assert relative(sample(positive, negative, latent), torch.cat(alone)) < 1e-5


def check_a_plain_prompt_makes_every_domain():
    latent = job(["image"])[3]
    plan = parts()[2].plan(NAMES)
    positive, negative = text(tokens=7, seed=1), text(tokens=4, seed=2)
    result = sample(positive, negative, latent)
    clean = torch.zeros(2, 8, AE.latent_channels, *GRID)
    expected = by_the_core(plan, positive, negative, clean, noise_like(latent))
    assert relative(result, expected) < 1e-5


def check_no_prompt_at_all_reads_the_null_text():
    plan, positive, _, latent, clean = job(["image"])
    extra = {k: v for k, v in positive[0][1].items() if k.startswith("jodi_")}
    empty = [[torch.zeros(1, 0, 24), extra]]
    null = _host.make_null_text(parts()[0])
    expected = by_the_core(plan, null, null, clean, noise_like(latent), guidance=1.0)
    assert relative(sample(empty, empty, latent, guidance=1.0), expected) < 1e-5
    stored = parts()[2].encode_text("")
    assert torch.equal(null[0][0], stored.caption[:, 0])
    assert torch.equal(null[0][1]["attention_mask"], stored.mask)


def check_negative_read_with_the_prompts_mask():
    plan, positive, negative, latent, clean = job(["image"])
    shared = agreement.apply_prompt_mask(positive, negative)
    assert negative[0][1]["attention_mask"].sum() == 4  # the wire that came in is left alone
    expected = by_the_core(plan, positive, negative, clean, noise_like(latent), own_mask=False)
    assert relative(sample(positive, shared, latent), expected) < 1e-5
    assert relative(sample(positive, negative, latent), expected) > 1e-4


def check_time_is_rounded_as_the_released_pipeline_does():
    """Only there: its sizes, in bfloat16."""
    kinds = ((JODI_1600M, torch.bfloat16), (JODI_1600M, torch.float32), (TINY, torch.bfloat16))
    rounded = []
    for config, dtype in kinds:
        build = _host_model.JodiDiffusion
        operations = comfy.ops.disable_weight_init
        network = build(config, dtype=dtype, compute_dtype=dtype, operations=operations)
        rounded.append(network.round_timestep)
    assert rounded == [True, False, False]
    model = parts()[0]
    _, positive, negative, latent, _ = job(["image"])
    exact = sample(positive, negative, latent)
    model.model.diffusion_model.round_timestep = True
    try:
        assert 1e-6 < relative(sample(positive, negative, latent), exact) < 0.1
    finally:
        model.model.diffusion_model.round_timestep = False


def check_wrong_wires_say_what_to_do():
    _, positive, negative, latent, _ = job(["image"], ["depth"])
    channels = AE.latent_channels

    def fails(kind, *parts_of_message, positive=positive, latent=latent):
        with raises(kind, *parts_of_message):
            sample(positive, negative, latent)

    def changed(**extra):
        return [[positive[0][0], {**positive[0][1], **extra}]]

    fails(ShapeError, "8 domains", "Jodi Roles", latent={"samples": torch.zeros(1, channels, 6, 5)})
    fails(ShapeError, "3 domains", latent={"samples": torch.zeros(1, channels, 3, 6, 5)})
    fails(ShapeError, "(1, 4, 8, 6, 5)", latent={"samples": torch.zeros(1, 4, 8, 6, 5)})
    fails(ShapeError, "same Jodi Roles", latent={"samples": torch.zeros(2, channels, 8, 4, 4)})
    fails(RoleError, "roles of shape", positive=changed(jodi_roles=torch.zeros(1, 5).long()))
    fails(RoleError, "generates nothing", positive=changed(jodi_roles=torch.ones(1, 8).long()))
    fails(RoleError, "no latent of it", positive=changed(jodi_clean=None))
    wrong_text = [[torch.zeros(1, 10, 2304), positive[0][1]]]
    fails(TextError, "2304", "Jodi Text Encode", positive=wrong_text)
    fails(TextError, "does not cover its text", positive=changed(attention_mask=torch.ones(1, 3)))
    with raises(JodiError, "NoneType", "Load Jodi"):
        _host.read_model_facts(None)
    with raises(JodiError, "descend", "Jodi Scheduler"):
        sample(positive, negative, latent, sigmas=torch.tensor([0.0, 0.4, 0.8]))
    with raises(JodiError, "unknown"):
        _host.make_jodi_sampler("nonesuch")


def check_schedules_of_other_nodes_suit_the_sampler():
    """They begin at exactly 1, where the sampler's logarithm has no value."""
    _, positive, negative, latent, _ = job(["image"])
    sampling = parts()[0].get_model_object("model_sampling")
    for name in ("simple", "beta", "sgm_uniform"):
        sigmas = comfy.samplers.calculate_sigmas(sampling, name, 4)
        assert sample(positive, negative, latent, sigmas=sigmas).isfinite().all()


def check_two_runs_are_identical():
    _, positive, negative, latent, _ = job(["image", "depth"])
    assert torch.equal(sample(positive, negative, latent), sample(positive, negative, latent))


def check_cancel_stops_inside_a_step():
    _, positive, negative, latent, _ = job(["image", "depth"])
    expected = sample(positive, negative, latent)
    network = parts()[0].model.diffusion_model
    reached = []

    def cancel(*_):
        reached.append("first block")
        comfy.model_management.interrupt_current_processing(True)

    hooks = [
        network.blocks[0].register_forward_hook(cancel),
        network.blocks[1].register_forward_hook(lambda *_: reached.append("second block")),
    ]
    try:
        with raises(comfy.model_management.InterruptProcessingException):
            sample(positive, negative, latent)
    finally:
        for hook in hooks:
            hook.remove()
    assert reached == ["first block"]
    assert torch.equal(sample(positive, negative, latent), expected)


def check_empty_latents_of_other_nodes():
    """Newer hosts let the model complete an empty latent; older ones meet the plain error."""
    model = parts()[0]
    if not hasattr(comfy.latent_formats.LatentFormat, "fix_empty_latent"):
        return
    empty = torch.zeros(1, 4, 12, 10)
    fixed = comfy.sample.fix_empty_latent_channels(model, empty, 8)
    assert fixed.shape == (1, AE.latent_channels, 8, 12 * 8 // AE.factor, 10 * 8 // AE.factor)


def check_facts():
    facts = _host.read_model_facts(parts()[0])
    assert facts.names == NAMES and facts.latent_scale == AE.scaling_factor
    assert (facts.factor, facts.vae_factor, facts.latent_channels) == (8, 8, AE.latent_channels)
    assert (facts.native_size, facts.guidance, facts.shift) == ((48, 48), GUIDANCE, 3.0)
    shifted = advanced.ModelSamplingSD3().patch(parts()[0], 5.0)[0]
    assert (_host.read_model_shift(shifted), _host.read_model_shift(parts()[0])) == (5.0, 3.0)
