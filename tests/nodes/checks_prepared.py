"""What a sampling run prepares once, keeps and forgets. Run by test_nodes.py inside a ComfyUI."""

import gc
import weakref

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_easycache as easycache
import torch
from jodi_pack.jodi_core.model.text_cache import TextCache
from jodi_pack.nodes.host import jodi_run
from jodi_pack.tests.nodes.jobs import (
    GRID,
    job,
    ksample,
    relative,
    sample,
)
from jodi_pack.tests.nodes.parts import parts


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


@torch.inference_mode()
def check_conditions_are_told_apart_by_hooks():
    """Weights that hooks change during a run must not meet what was prepared before."""
    model = parts()[0].model

    class Patcher:
        current_hooks, object_patches, injections = None, {}, {}

    made = []
    run = jodi_run.SamplingRun((jodi_run.RunEntry(model),))
    x = torch.zeros(1)
    before, model.current_patcher = model.current_patcher, Patcher()
    try:
        for hooks, copies in ((None, 1), (None, 1), ("some", 2), ("some", 3)):
            model.current_patcher.current_hooks = hooks
            jodi_run.prepare_once(run, (), (x.clone(), None), lambda cache: made.append(1))
            assert len(made) == copies
    finally:
        model.current_patcher = before
