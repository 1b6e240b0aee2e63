"""The MODEL wire under the host's own sampling. Run by test_nodes.py inside a ComfyUI."""

import gc
import weakref

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_model_advanced as advanced
import torch
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.denoiser import prepare_denoiser
from jodi_pack.jodi_core.model.text_cache import TextCache
from jodi_pack.kit.errors import JodiError, RoleError, ShapeError, TextError
from jodi_pack.kit.sampling import sample_euler
from jodi_pack.nodes.host import jodi_model as _host_model
from jodi_pack.nodes.host import jodi_run
from jodi_pack.nodes.host import jodi_run as _host_run
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.nodes.wires import agreement
from jodi_pack.tests.helpers import TINY, randn
from jodi_pack.tests.nodes.parts import AE, GUIDANCE, parts, prompt_features, raises, text

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


def check_cost_follows_the_active_domains():
    network = parts()[0].model.diffusion_model
    seen = []
    hooks = [
        block.attn.qkv.register_forward_pre_hook(
            lambda _, args: seen.append(tuple(args[0].shape[:2]))
        )
        for block in network.blocks
    ]
    tokens = GRID[0] * GRID[1]
    try:
        _, positive, negative, latent, _ = job(["image"], ["depth"])
        sample(positive, negative, latent, steps=2)
        # Guidance doubles the rows, but not before the first look at the text.
        assert seen == [(2, 2 * tokens), (4, 2 * tokens)] * 2
        seen.clear()
        _, positive, negative, latent, _ = job(["depth", "edge"], ["image"])
        ksample("euler", "simple", positive, negative, latent, steps=2, guidance=8.0)
        # With the image given both halves of the guidance are one evaluation,
        assert seen == [(2, 3 * tokens)] * 4
        seen.clear()
        positive = job(["image"], ["depth"])[1]
        same = sample(positive, positive, latent, steps=2)
        assert seen == [(2, 2 * tokens)] * 4  # and where both read the same text
        assert relative(sample(positive, positive, latent, steps=2, guidance=1.0), same) < 1e-6
    finally:
        for hook in hooks:
            hook.remove()


def check_text_is_prepared_once_for_the_same_weights():
    network = parts()[0].model.diffusion_model
    calls = []
    hook = network.y_embedder.register_forward_hook(lambda *_: calls.append(1))
    try:
        _, positive, negative, latent, _ = job(["image"])
        parts()[0].model.text_cache = TextCache()
        first = sample(positive, negative, latent, steps=4)
        assert len(calls) == 2
        assert torch.equal(sample(positive, negative, latent, steps=4), first)
        assert len(calls) == 2  # a new run, the same words
        patched = parts()[0].clone()
        key = "diffusion_model.y_embedder.y_proj.fc2.weight"
        patched.add_patches(
            {key: ("diff", (torch.ones_like(network.y_embedder.y_proj.fc2.weight),))}
        )
        other = sample(positive, negative, latent, model=patched, steps=4)
        assert len(calls) == 4 and relative(other, first) > 1e-4
        assert relative(sample(positive, negative, latent, steps=4), first) < 1e-6
    finally:
        hook.remove()


def check_layers_that_are_changed_on_the_way_prepare_the_text_anew():
    # As LoRA loaders do that bypass the weights: the name of the loaded patches stays the same.
    _, positive, negative, latent, _ = job(["image"])
    parts()[0].model.text_cache = TextCache()
    first = sample(positive, negative, latent, steps=2)
    layer = parts()[0].model.diffusion_model.y_embedder.y_proj.fc2
    plain = layer.forward

    def inject(_):
        layer.forward = lambda x: plain(x).flip(-1)  # not a factor: a norm follows

    def eject(_):
        layer.forward = plain

    injected = parts()[0].clone()
    injection = comfy.model_patcher.PatcherInjection(inject=inject, eject=eject)
    injected.set_injections("test", [injection])
    other = sample(positive, negative, latent, model=injected, steps=2)
    assert relative(other, first) > 1e-4
    assert relative(sample(positive, negative, latent, steps=2), first) < 1e-6
    exchanged = parts()[0].clone()
    exchanged.add_object_patch("diffusion_model.y_embedder.y_proj.fc2", torch.nn.Identity())
    third = sample(positive, negative, latent, model=exchanged, steps=2)
    assert relative(third, first) > 1e-4 and relative(third, other) > 1e-4


def check_nothing_of_a_run_stays_behind():
    # Cycles would be freed at some later time: a long video is many runs.
    _, positive, negative, latent, _ = job(["image"], ["depth"])
    contexts = []
    network = parts()[0].model.diffusion_model
    prepare = network.prepare

    def watched(*args, **kwargs):
        context = prepare(*args, **kwargs)
        contexts.append(weakref.ref(context))
        return context

    gc.collect()
    gc.disable()
    network.prepare = watched
    try:
        for guidance in (1.0, 3.0):
            sample(positive, negative, latent, guidance=guidance, steps=2)
        assert contexts and not any(context() is not None for context in contexts)
    finally:
        del network.prepare
        gc.enable()


def check_wrappers_that_split_the_batch():
    _, positive, negative, latent, _ = job(["image"], ["depth"])
    expected = sample(positive, negative, latent)

    def one_half_at_a_time(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        halves = []
        for rows in torch.arange(len(x)).chunk(2):
            part = {k: v[rows] if torch.is_tensor(v) else v for k, v in c.items()}
            halves.append(apply_model(x[rows], t[rows], **part))
        return torch.cat(halves)

    model = parts()[0].clone()
    model.set_model_unet_function_wrapper(one_half_at_a_time)
    assert relative(sample(positive, negative, latent, model=model), expected) < 1e-6


def check_step_caching_of_the_host():
    _, positive, negative, latent, _ = job(["image"], ["depth"])
    network = parts()[0].model.diffusion_model
    calls = []
    hook = network.final_layers[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        expected = sample(positive, negative, latent, steps=6)
        assert len(calls) == 6
        for threshold, fewer in ((0.0, False), (3.0, True)):
            calls.clear()
            (model,) = easycache.EasyCacheNode.execute(parts()[0], threshold, 0.1, 0.95, False).args
            result = sample(positive, negative, latent, model=model, steps=6)
            assert (len(calls) < 6) == fewer and result.isfinite().all()
            assert (relative(result, expected) < 1e-6) != fewer
    finally:
        hook.remove()


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


def check_memory_counts_the_active_domains():
    model = parts()[0].model
    shapes = [
        model.extra_conds_shapes(**positive[0][1])
        for positive in (job(["image"])[1], job(["image", "depth"], ["edge", "normal"])[1])
    ]
    one, four = (
        model.memory_required([1, 5, 8, 64, 64], {k: [v] for k, v in shape.items()})
        for shape in shapes
    )
    all_of_them = model.memory_required([1, 5, 8, 64, 64])
    assert 3.9 < four / one < 4.01
    assert 7.7 < all_of_them / one < 8.01
    assert model.memory_required([2, 5, 8, 64, 64]) == 2 * all_of_them


def check_conditions_are_told_apart_by_hooks():
    """Weights that hooks change during a run must not meet what was prepared before."""
    model = parts()[0].model

    class Patcher:
        current_hooks, object_patches, injections = None, {}, {}

    made = []
    run = _host_run.SamplingRun((_host_run.RunEntry(model),))
    x = torch.zeros(1)
    before, model.current_patcher = model.current_patcher, Patcher()
    try:
        for hooks, copies in ((None, 1), (None, 1), ("some", 2), ("some", 3)):
            model.current_patcher.current_hooks = hooks
            jodi_run.prepare_once(run, (), (x.clone(), None), lambda cache: made.append(1))
            assert len(made) == copies
    finally:
        model.current_patcher = before


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
