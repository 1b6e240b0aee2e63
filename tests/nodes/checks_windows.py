"""Nodes that cut or swap parts of a CONDITIONING during sampling. Run in each ComfyUI.

Rows are independent: a run in parts gives what the run in one piece gives.
"""

import comfy.context_windows as windows
import comfy.sample
import torch
from jodi_pack.kit.errors import ShapeError
from jodi_pack.nodes.host import jodi_model
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.nodes.parts import image, parts, raises, text

MODEL, VAE, _ = parts()
FRAMES = image(9, 48, 48, seed=5)
BAR = 1e-5


def job(**inputs):
    return JodiRoles.execute(MODEL, VAE, **inputs).args[:3]


def jodi(wires, model, **options):
    return JodiSampler.execute(model, *wires, 3, 2, 2.0, **options).args[0]["samples"]


def ksampler(wires, model):
    positive, negative, latent = wires
    noise = comfy.sample.prepare_noise(latent["samples"], 7)
    args = (model, noise, 2, 2.0, "euler", "simple", positive, negative, latent["samples"])
    return comfy.sample.sample(*args, seed=7)


def windowed(schedule="standard_static", fuse="pyramid", length=4, overlap=2, dim=0, **options):
    """What the node Context Windows (Manual) makes."""
    model = MODEL.clone()
    model.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(schedule),
        fuse_method=windows.get_matching_fuse_method(fuse),
        context_length=length,
        context_overlap=overlap,
        context_stride=1,
        closed_loop=False,
        dim=dim,
        **options,
    )
    windows.create_prepare_sampling_wrapper(model)
    return model


def check_context_windows_change_nothing():
    given = job(image=FRAMES, depth_role="generate")
    texts = job(positive=text(rows=9), negative=text(seed=8), depth=FRAMES)
    odd = job(positive=text(seed=4), depth=FRAMES)
    odd = ([[text(rows=2)[0][0], odd[0][0][1]]], *odd[1:])  # two prompts in turn
    for wires in (given, texts, odd):
        for run in (jodi, ksampler):
            whole = run(wires, MODEL)
            for schedule, length, overlap in (("standard_static", 4, 2), ("looped_uniform", 5, 1)):
                found = run(wires, windowed(schedule, length=length, overlap=overlap))
                assert relative_rms(found, whole) < BAR, (run, schedule)


def check_windows_with_masks_and_rows_of_other_roles():
    mask = torch.zeros(9, 48, 48)
    for row in range(9):
        mask[row, : 8 + 4 * row] = 1
    wires = job(positive=text(rows=9), negative=text(), image=FRAMES, repaint_mask=mask)
    assert relative_rms(jodi(wires, windowed()), jodi(wires, MODEL)) < BAR
    wires = job(positive=text(), depth=FRAMES)
    roles = wires[0][0][1]["jodi_roles"].repeat(9, 1)
    roles[::2, 4] = 0  # every other row makes normals too
    wires = (*([[c, {**v, "jodi_roles": roles}] for c, v in wire] for wire in wires[:2]), wires[2])
    plain = {"samples": torch.zeros_like(wires[2]["samples"])}
    found, whole = (ksampler((*wires[:2], plain), model) for model in (windowed(), MODEL))
    assert relative_rms(found, whole) < BAR


def check_windows_over_domains_are_refused():
    wires = job(positive=text(), depth=FRAMES)
    for run in (jodi, ksampler):
        with raises(ShapeError, "domains", "dim 0"):
            run(wires, windowed(dim=2, length=4, overlap=1))
        for dim in (1, 3, 4):  # channels, height, width
            with raises(ShapeError, "dim 0"):
                run(wires, windowed(dim=dim, length=4, overlap=1))


def check_conditions_that_a_wrapper_swaps_under_way():
    """The objects of an entry stay, its tensors are those of other rows from the second step on."""
    wires = job(image=FRAMES[:3], depth_role="generate")

    def swapping():
        model, calls = MODEL.clone(), []

        def swap(apply_model, args):
            c, calls[:] = dict(args["c"]), [*calls, 1]
            if len(calls) > 1:
                halves = c["jodi_clean"].unflatten(0, (-1, 3))
                c["jodi_clean"] = halves[:, [2, 0, 1]].flatten(0, 1)
            return apply_model(args["input"], args["timestep"], **c)

        model.set_model_unet_function_wrapper(swap)
        return model

    found, kept = ksampler(wires, swapping()), jodi_model.prepare_once
    jodi_model.prepare_once = lambda run, kind, inputs, make: make(None)
    try:
        expected = ksampler(wires, swapping())
    finally:
        jodi_model.prepare_once = kept
    assert torch.equal(found, expected)
    assert relative_rms(found[:, :, 3], ksampler(wires, MODEL)[:, :, 3]) > 1e-4
