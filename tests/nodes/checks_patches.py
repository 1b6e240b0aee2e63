"""Nodes of the host that patch a MODEL. Run by test_nodes.py inside a ComfyUI."""

import itertools
import logging

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_cfg as cfg_nodes
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_differential_diffusion as differential
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_lumina2 as lumina
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_sag as sag
import torch
from comfy_extras import (
    nodes_apg,
    nodes_attention_multiply,
    nodes_eps,
    nodes_hypertile,
    nodes_mahiro,
    nodes_pag,
    nodes_slg,
    nodes_tcfg,
    nodes_tomesd,
)
from jodi_pack.kit.errors import JodiError
from jodi_pack.nodes.host import sampler as host
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler, JodiScheduler
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.nodes.parts import image, parts, raises, text

MODEL, VAE, _ = parts()
TEXTS = {"positive": text(), "negative": text(seed=8)}
WIRES = JodiRoles.execute(MODEL, VAE, **TEXTS, depth=image(1, 48, 48)).args[:3]


def node(cls, *args):
    """The result of one of the host's nodes, old or new."""
    if hasattr(cls, "define_schema"):
        result = cls.execute(*args)
        return result[0] if isinstance(result, tuple) else result.args[0]
    return getattr(cls(), cls.FUNCTION)(*args)[0]


def jodi(model=MODEL, steps=2, cfg=2.0, wires=WIRES):
    return JodiSampler.execute(model, *wires, 0, steps, cfg).args[0]["samples"]


def ksampler(model=MODEL, sampler="euler", sigmas=None, steps=2, cfg=2.0, wires=WIRES):
    positive, negative, latent = wires
    noise = comfy.sample.prepare_noise(latent["samples"], 7)
    args = (model, noise, steps, cfg, sampler, "simple", positive, negative, latent["samples"])
    options = {"noise_mask": latent.get("noise_mask"), "sigmas": sigmas, "seed": 7}
    return comfy.sample.sample(*args, **options)


def check_flow_shifts_of_other_models_read_the_time_right():
    """AuraFlow and Flux count it in 0..1; the picture is that of the same shift by SD3's node."""
    shifted = node(advanced.ModelSamplingSD3, MODEL, 2.0)
    aura = node(advanced.ModelSamplingAuraFlow, MODEL, 2.0)
    flux = node(advanced.ModelSamplingFlux, MODEL, 0.693147, 0.693147, 1024, 1024)
    sigmas = torch.tensor([0.9, 0.5, 0.0])
    for model in (aura, flux):
        assert relative_rms(ksampler(model, sigmas=sigmas), ksampler(sigmas=sigmas)) < 1e-5
        assert abs(host.read_model_shift(model) - 2.0) < 1e-4
        assert relative_rms(jodi(model), jodi(shifted)) < 1e-3
    assert host.read_model_shift(shifted) == 2.0 and host.read_model_shift(MODEL) == 3.0
    times = JodiScheduler.execute(flux, 4, 1.0).args[0]
    assert torch.allclose(times, JodiScheduler.execute(shifted, 4, 1.0).args[0], atol=1e-4)


def check_cosmos_levels_are_read_as_the_share_of_noise_that_they_are():
    cosmos = node(advanced.ModelSamplingContinuousEDM, MODEL, "cosmos_rflow", 80.0, 0.002)
    share = torch.tensor([0.8, 0.4, 0.0])
    # Its LATENT is x / (1 - share): the noise that it adds is of the same share.
    found = ksampler(cosmos, sigmas=share / (1 - share))
    assert relative_rms(found[:, :, 0], ksampler(sigmas=share)[:, :, 0]) < 1e-4
    with raises(JodiError, "KSampler", "Cosmos"):
        jodi(cosmos)


def check_samplings_of_other_kinds_are_refused_before_sampling():
    calls = []
    hook = MODEL.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    others = [
        node(advanced.ModelSamplingContinuousEDM, MODEL, kind, 120.0, 0.002)
        for kind in ("v_prediction", "edm", "eps", "edm_playground_v2.5")
    ]
    others.append(node(advanced.ModelSamplingContinuousV, MODEL, "v_prediction", 500.0, 0.03))
    others += [node(advanced.ModelSamplingDiscrete, MODEL, k, False) for k in ("lcm", "x0", "eps")]
    others.append(node(advanced.ModelSamplingStableCascade, MODEL, 2.0))
    if hasattr(advanced, "ModelNoiseScale"):
        others.append(node(advanced.ModelNoiseScale, MODEL, 8.0))
    try:
        for model in others:
            for run in (jodi, ksampler):
                with raises(JodiError, "cannot follow", "ModelSamplingSD3"):
                    run(model)
    finally:
        hook.remove()
    assert not calls


def with_defaults(cls, **changes):
    """The MODEL that a node gives at its default settings."""
    inputs = {i.id: i.default for i in cls.GET_SCHEMA().inputs[1:]}
    return cls.execute(MODEL, **{**inputs, **changes}).args[0]


def check_guidance_patches_run():
    patched = {
        cls.__name__: with_defaults(cls)
        for cls in (
            *(lumina.RenormCFG, cfg_nodes.CFGZeroStar, cfg_nodes.CFGNorm),
            *(nodes_apg.APG, nodes_mahiro.Mahiro, nodes_tcfg.TCFG),
            *(nodes_eps.EpsilonScaling, nodes_eps.TemporalScoreRescaling),
            *(easycache.EasyCacheNode, easycache.LazyCacheNode),
        )
    }
    patched["RescaleCFG"] = node(advanced.RescaleCFG, MODEL, 0.7)
    for name, model in patched.items():
        for run in (jodi, ksampler):
            result = run(model)
            assert result.isfinite().all() and result[:, :, 0].std() > 0.01, name
            assert not result[:, :, [1, 2, 4, 5, 6, 7]].any(), name


def check_differential_diffusion_keeps_what_is_black():
    mask = torch.zeros(1, 48, 48)
    mask[:, :, 24:] = torch.linspace(0, 1, 24)
    picture = image(1, 48, 48, seed=3)
    wires = JodiRoles.execute(MODEL, VAE, **TEXTS, image=picture, repaint_mask=mask).args[:3]
    model = with_defaults(differential.DifferentialDiffusion)
    for run in (lambda: jodi(model, wires=wires), lambda: ksampler(model, wires=wires)):
        change = (run() - wires[2]["samples"])[:, :, 0].abs()
        assert change[..., :3].max() < 1e-4 and change[..., 5].mean() > 1e-2, change.amax((0, 1, 2))


def check_guiders_of_the_host():
    positive, negative, latent = WIRES
    sigmas = JodiScheduler.execute(MODEL, 2, 1.0).args[0]
    noise = custom.RandomNoise.execute(7).args[0]
    euler = comfy.samplers.sampler_object("euler")
    results = []
    for guider in (
        custom.BasicGuider.execute(MODEL, positive).args[0],
        custom.CFGGuider.execute(MODEL, positive, negative, 1.0).args[0],
        custom.DualCFGGuider.execute(MODEL, positive, positive, negative, 1.0, 1.0, "regular").args[
            0
        ],
    ):
        out = custom.SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent).args
        for samples in (out[0]["samples"], out[1]["samples"]):
            assert not samples[:, :, [1, 2, 4, 5, 6, 7]].any()
        results.append(out[0]["samples"])
    assert all(relative_rms(result, results[0]) < 1e-5 for result in results[1:])


def check_renorm_cfg_limits_the_norm_of_the_estimate():
    """cfg 1.0 is the limit: the estimate is no longer than that of the prompt alone."""
    seen = []

    def see(args):
        seen.append((args["denoised"].norm(), args["cond_denoised"].norm()))
        return args["denoised"]

    for model in (MODEL, node(lumina.RenormCFG, MODEL, 100.0, 1.0)):
        seen.clear()
        model = model.clone()
        model.set_model_sampler_post_cfg_function(see)
        ksampler(model, cfg=9.0)
        assert all(n <= limit * 1.0001 for n, limit in seen) == (
            model.model_options.get("sampler_cfg_function") is not None
        )


def check_easy_cache_adds_what_it_kept_to_the_input_not_into_it():
    """A step that it skips gives x + (output - x) of the step before, the host's own formula."""
    seen = []
    model = node(easycache.EasyCacheNode, MODEL, 3.0, 0.0, 1.0, False)

    def see(apply_model, args):
        x = args["input"].clone()
        denoised = apply_model(args["input"], args["timestep"], **args["c"])
        assert torch.equal(args["input"], x), "the sampler's own latent was written into"
        seen.append((x, args["timestep"].view(-1, 1, 1, 1, 1), denoised))
        return denoised

    model.set_model_unet_function_wrapper(see)
    ksampler(model, sigmas=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.0]), cfg=1.0)
    (x, t, denoised), (x1, t1, skipped) = seen[-2:]
    velocity = ((x - denoised) / t)[:, :, 0]
    kept = velocity - x[:, :, 0]  # of this or an earlier step: the difference stays the same
    assert torch.allclose(((x1 - skipped) / t1)[:, :, 0], x1[:, :, 0] + kept, atol=1e-4)


def check_patches_for_u_nets_say_so():
    with raises(JodiError, "model_channels", "U-Net"):
        node(freelunch.FreeU, MODEL, 1.1, 1.2, 0.9, 0.2)
    model = node(sag.SelfAttentionGuidance, MODEL, 0.5, 2.0)
    for run in (jodi, ksampler):
        with raises(JodiError, "Self-Attention Guidance", "U-Net"):
            run(model)
    assert MODEL.model.diffusion_model.in_channels == WIRES[2]["samples"].shape[1]
    assert MODEL.model.model_config.unet_config["in_channels"] == WIRES[2]["samples"].shape[1]


def check_cfg_pp_is_the_hosts_formula_over_our_estimates():
    """Strong pictures are what it makes of a guidance meant for plain CFG: 1 to 2 suit it."""
    levels, estimates = [0.9, 0.6, 0.3, 0.0], []
    model = MODEL.clone()

    def see(args):
        estimates.append((args["denoised"], args["uncond_denoised"]))
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(see)
    found = ksampler(model, "euler_cfg_pp", sigmas=torch.tensor(levels), cfg=1.5)
    noise = comfy.sample.prepare_noise(WIRES[2]["samples"], 7)
    clean = WIRES[2]["samples"] * MODEL.model.latent_format.scale_factor
    x = levels[0] * noise + (1 - levels[0]) * clean
    for (s, t), (denoised, uncond) in zip(itertools.pairwise(levels), estimates, strict=True):
        x = (1 - t) * denoised + t * (x - (1 - s) * uncond) / s
    found = found * MODEL.model.latent_format.scale_factor
    assert relative_rms(found[:, :, 0], x[:, :, 0]) < 1e-4


def check_guidance_by_exchanged_layers_changes_nothing_and_says_so():
    """Perturbed Attention and Skip Layer Guidance, once in the log for each run."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("jodi").addHandler(handler)
    try:
        plain = ksampler(cfg=2.0)
        assert not said
        pag = node(nodes_pag.PerturbedAttentionGuidance, MODEL, 3.0)
        slg = node(nodes_slg.SkipLayerGuidanceDiT, MODEL, 3.0, 0.0, 1.0, "0", "0", 0.0)
        for model in (pag, slg):
            said.clear()
            assert relative_rms(ksampler(model, cfg=2.0), plain) < 1e-5
            assert len([line for line in said if "exchanges attention" in line]) == 1, said
    finally:
        logging.getLogger("jodi").removeHandler(handler)


def check_patches_of_attention_change_nothing_and_say_so():
    """Token merging, HyperTile and NAG patch layers that Jodi does not have."""
    plain = ksampler(cfg=2.0)
    model = MODEL.clone()
    model.set_model_attn1_patch(lambda q, k, v, options: (q * 0, k, v))
    model.set_model_attn1_output_patch(lambda out, options: out * 0)
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("jodi").addHandler(handler)
    try:
        assert torch.equal(ksampler(model, cfg=2.0), plain)
    finally:
        logging.getLogger("jodi").removeHandler(handler)
    assert len([line for line in said if "no effect on Jodi" in line]) == 1, said


def check_nodes_that_look_for_other_layers_leave_the_picture_as_it_is():
    """The host's own token merging, HyperTile, NAG and attention multiplying."""
    plain = ksampler(cfg=2.0)
    told = [node(nodes_tomesd.TomePatchModel, MODEL, 0.5)]
    told.append(node(nodes_hypertile.HyperTile, MODEL, 256, 2, 0, False))
    try:
        from comfy_extras.nodes_nag import NAGuidance
    except ImportError:  # not in every host
        pass
    else:
        told.append(node(NAGuidance, MODEL, 5.0, 0.5, 1.5))
    silent = [
        node(getattr(nodes_attention_multiply, name), MODEL, 2.0, 2.0, 2.0, 2.0)
        for name in ("UNetSelfAttentionMultiply", "UNetCrossAttentionMultiply")
    ]
    for models, expected in ((told, 1), (silent, 0)):
        for model in models:
            said = []
            handler = logging.Handler()
            handler.emit = lambda record, said=said: said.append(record.getMessage())
            logging.getLogger("jodi").addHandler(handler)
            try:
                assert torch.equal(ksampler(model, cfg=2.0), plain)
            finally:
                logging.getLogger("jodi").removeHandler(handler)
            assert len([line for line in said if "no effect on Jodi" in line]) == expected, said
