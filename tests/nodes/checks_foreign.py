"""Nodes of the host around CONDITIONING and LATENT. Run by test_nodes.py inside a ComfyUI."""

import comfy.controlnet
import comfy.latent_formats
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_post_processing  # noqa: F401  (the next one needs it first)
import folder_paths
import torch
from comfy_extras.nodes_latent import LatentBatch, LatentConcat, LatentCut
from comfy_extras.nodes_mask import LatentCompositeMasked
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.kit.errors import ImageError, JodiError, RoleError, ShapeError, TextError
from jodi_pack.nodes.host.jodi_text import encode_text, load_embedded_text
from jodi_pack.nodes.jodi.decode import JodiDecodeAll, JodiDecodeLabel
from jodi_pack.nodes.jodi.labels import JodiDepth, JodiNormal, JodiSegmentation
from jodi_pack.nodes.jodi.overview import JodiContactSheet, JodiEnsemble
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler
from jodi_pack.nodes.wires.job import find_left_out
from jodi_pack.nodes.wires.texts import ENCODED
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.nodes.parts import image, parts, raises, text

import nodes

MODEL, VAE, _ = parts()
TEXTS = {"positive": text(), "negative": text(seed=8)}
ALL = {f"{name}_role": "generate" for name in DOMAIN_NAMES}
TALL = {"size": "width and height", "width": 48, "height": 64}


def job(**inputs):
    return JodiRoles.execute(MODEL, VAE, **inputs).args[:3]


def jodi(wires, denoise=1.0, **options):
    return JodiSampler.execute(MODEL, *wires, 0, 2, 2.0, denoise=denoise, **options).args[0]


def ksampler(wires, denoise=1.0, sampler="euler", scheduler="simple", steps=2, **options):
    positive, negative, latent = wires
    samples = comfy.sample.fix_empty_latent_channels(MODEL, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, 7)
    args = (MODEL, noise, steps, 2.0, sampler, scheduler, positive, negative, samples)
    options = {"noise_mask": latent.get("noise_mask"), "seed": 7, **options}
    return {**latent, "samples": comfy.sample.sample(*args, denoise=denoise, **options)}


def check_flips_turns_and_cuts_are_refused_in_every_direction():
    for wires in (job(**TEXTS, **ALL, **TALL), job(**TEXTS, **TALL)):
        other = jodi(wires, sampler_name="euler")
        for done in (jodi(wires), ksampler(wires)):
            edits = [
                nodes.LatentFlip().flip(done, "x-axis: vertically")[0],
                nodes.LatentFlip().flip(done, "y-axis: horizontally")[0],
                nodes.LatentRotate().rotate(done, "180 degrees")[0],
                nodes.LatentRotate().rotate(done, "90 degrees")[0],
                nodes.LatentCrop().crop(done, 48, 64, 0, 0)[0],
                nodes.LatentComposite().composite(done, other, 24, 0)[0],
            ]
            for edited in edits:
                with raises(ShapeError):
                    JodiDecodeLabel.execute(edited, VAE, "image")
                with raises(ShapeError):
                    JodiDecodeAll.execute(edited, VAE)
            JodiDecodeLabel.execute(done, VAE, "image")


def check_a_start_that_was_flipped_is_refused_before_sampling():
    wires = job(**TEXTS, image=image(1, 64, 48), image_role="generate", **TALL)
    flipped = nodes.LatentFlip().flip(wires[2], "y-axis: horizontally")[0]
    for run in (jodi, ksampler):
        with raises(ShapeError, "flipped", "nodes of the same names for images"):
            run((*wires[:2], flipped), denoise=0.5)


def check_an_empty_latent_that_was_cut_is_refused():
    """Newer hosts complete empty LATENTs of other nodes; a part of ours is none of these."""
    for inputs in ({**TEXTS, **ALL}, TEXTS, {**TEXTS, "depth": image(1, 48, 48)}):
        wires = job(**inputs, **TALL)
        parts_of = [
            LatentCut.execute(wires[2], "t", index, amount).args[0]
            for index, amount in ((0, 1), (4, 1), (0, 4), (1, 8))
        ]
        parts_of.append(LatentConcat.execute(wires[2], wires[2], "t").args[0])
        parts_of.append(nodes.LatentCrop().crop(wires[2], 48, 32, 0, 0)[0])
        for part in parts_of:
            for run in (jodi, ksampler):
                with raises(ShapeError, "LATENT"):
                    run((*wires[:2], part))
    empty = {"samples": torch.zeros(1, 5, 3, 6, 6)}
    if hasattr(comfy.latent_formats.LatentFormat, "fix_empty_latent"):
        wires = job(**TEXTS, **ALL)
        made = ksampler((*wires[:2], empty))["samples"]
        assert torch.equal(made, ksampler(wires)["samples"])


def check_texts_of_two_jobs_with_an_empty_latent_of_another_node():
    one, other = (job(**TEXTS, depth=image(1, 48, 48, seed=seed)) for seed in (0, 9))
    empty = {"samples": torch.zeros(1, 5, 8, 6, 6)}
    assert ksampler((*one[:2], empty))["samples"].isfinite().all()
    with raises(ShapeError, "different pictures of depth"):
        ksampler((one[0], other[1], empty))


def check_latent_nodes_that_work_on_domains_still_do():
    wires = job(**TEXTS, batch=2, **TALL)
    done = jodi(wires)
    row = nodes.LatentFromBatch().frombatch(done, 1, 1)[0]
    whole = JodiDecodeLabel.execute(done, VAE, "image").args[0]
    assert torch.allclose(JodiDecodeLabel.execute(row, VAE, "image").args[0], whole[1:], atol=1e-5)
    twice = nodes.RepeatLatentBatch().repeat(row, 2)[0]
    joined = LatentBatch.execute(row, jodi(job(**TEXTS, **TALL))).args[0]
    small = jodi(job(**TEXTS, size="width and height", width=24, height=24))
    beside = LatentCompositeMasked.execute(row, small, 24, 0, False).args[0]
    assert torch.equal(beside["samples"][..., :3, 3:], small["samples"])
    larger = nodes.LatentUpscaleBy().upscale(row, "nearest-exact", 1.5)[0]
    blended = nodes.LatentBlend().blend(row, jodi(job(**TEXTS, **TALL)), 0.5)[0]
    for wire in (twice, joined, beside, larger, blended):
        assert JodiDecodeLabel.execute(wire, VAE, "image").args[0].isfinite().all()


def check_saved_and_loaded_latents_decode_alike(folder):
    wires = job(**TEXTS, depth_role="generate")
    done = jodi(wires)
    before = folder_paths.get_output_directory(), folder_paths.get_input_directory()
    folder_paths.set_output_directory(str(folder))
    folder_paths.set_input_directory(str(folder))
    try:
        saved = nodes.SaveLatent()
        saved.output_dir = str(folder)
        saved.save(done, "latent")
        (file,) = [path.name for path in folder.glob("*.latent")]
        (loaded,) = nodes.LoadLatent().load(file)
    finally:
        folder_paths.set_output_directory(before[0])
        folder_paths.set_input_directory(before[1])
    assert torch.equal(loaded["samples"], done["samples"])
    assert torch.equal(find_left_out(loaded["samples"]), find_left_out(done["samples"]))
    for name in ("image", "depth"):
        found, wanted = (JodiDecodeLabel.execute(w, VAE, name).args[0] for w in (loaded, done))
        assert torch.equal(found, wanted)
    assert len(JodiDecodeAll.execute(loaded, VAE).args[4]) == 0


def check_text_straight_into_the_sampler_is_noticed_before_sampling():
    calls = []
    hook = MODEL.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for inputs in (TEXTS, {**TEXTS, "batch": 3}, {**TEXTS, "depth": image(1, 48, 48)}):
            latent = job(**inputs)[2]
            copies = [latent, nodes.RepeatLatentBatch().repeat(latent, 2)[0]]
            copies.append(nodes.LatentUpscaleBy().upscale(latent, "nearest-exact", 1.5)[0])
            for wire in copies:
                with raises(RoleError, "hold no roles", "text to Jodi Roles"):
                    ksampler((text(), text(seed=8), wire))
    finally:
        hook.remove()
    assert not calls
    everything = job(**TEXTS, **ALL)[2]  # a prompt by itself makes all domains: no mix-up
    assert ksampler((text(), text(seed=8), everything))["samples"].isfinite().all()


def check_conditioning_and_empty_latent_of_two_jobs():
    one, other = job(**TEXTS), job(**TEXTS, depth_role="generate")
    for wires in ((*one[:2], other[2]), (*other[:2], one[2])):
        with raises(ShapeError, "depth", "same Jodi Roles"):
            ksampler(wires)


def check_ignored_domains_hold_exact_zeros_whatever_sampled():
    wires = job(**TEXTS, depth=image(1, 48, 48))
    ignored, given = [1, 2, 4, 5, 6, 7], wires[2]["samples"][:, :, 3]
    for name in comfy.samplers.KSampler.SAMPLERS:
        samples = ksampler(wires, sampler=name)["samples"]
        assert not samples[:, :, ignored].any(), name
        assert (
            find_left_out(samples)[0, ignored].all() and not find_left_out(samples)[0, [0, 3]].any()
        )
        assert torch.allclose(samples[:, :, 3], given, atol=1e-6), name
        if samples.isfinite().all():  # two steps are too few for some
            JodiDecodeAll.execute({**wires[2], "samples": samples}, VAE)


def check_every_scheduler():
    wires = job(**TEXTS)
    for scheduler in comfy.samplers.KSampler.SCHEDULERS:
        for sampler in ("euler", "dpmpp_2m"):
            samples = ksampler(wires, sampler=sampler, scheduler=scheduler, steps=3)["samples"]
            assert samples.isfinite().all() and samples[:, :, 0].std() > 0.01, scheduler


def check_previews_and_half_run_samplings_hold_no_traces():
    wires, seen = job(**TEXTS), []

    def callback(step, x0, x, total):
        seen.append(x0)

    half = ksampler(wires, last_step=1, force_full_denoise=False, steps=3, callback=callback)
    assert seen and not any(x0[:, :, 1:].any() for x0 in seen)
    assert not half["samples"][:, :, 1:].any() and half["samples"][:, :, 0].any()
    whole = ksampler(wires, steps=3)["samples"]
    noise = torch.zeros_like(half["samples"])
    args = (3, 2.0, "euler", "simple", *wires[:2], half["samples"])
    rest = comfy.sample.sample(MODEL, noise, *args, disable_noise=True, start_step=1, seed=7)
    assert relative_rms(rest, whole) < 1e-4


def check_ksampler_advanced_in_two_parts_is_one_run():
    wires = job(**TEXTS, depth=image(1, 48, 48))
    node, args = nodes.KSamplerAdvanced(), (4, 2.0, "euler", "simple", *wires[:2])
    (whole,) = node.sample(MODEL, "enable", 7, *args, wires[2], 0, 10000, "disable")
    (half,) = node.sample(MODEL, "enable", 7, *args, wires[2], 0, 2, "enable")
    (rest,) = node.sample(MODEL, "disable", 7, *args, half, 2, 10000, "disable")
    assert relative_rms(rest["samples"], whole["samples"]) < 1e-4
    assert relative_rms(half["samples"], whole["samples"]) > 0.01
    for latent in (whole, half, rest):
        assert not latent["samples"][:, :, [1, 2, 4, 5, 6, 7]].any()
        assert JodiDecodeLabel.execute(latent, VAE, "image").args[0].isfinite().all()


def check_rows_picked_after_sampling_are_the_rows():
    done = jodi(job(positive=text(rows=3), negative=text(seed=8), depth_role="generate"))
    (picked,) = nodes.LatentFromBatch().frombatch(done, 1, 1)
    assert torch.equal(picked["samples"], done["samples"][1:2])
    for name in ("image", "depth"):
        row, rows = (JodiDecodeLabel.execute(w, VAE, name).args[0] for w in (picked, done))
        assert relative_rms(row, rows[1:2]) < 1e-5


def check_areas_and_masks_fall_where_they_are_set():
    """The right half is made of one text, the left of another, at three ways to say so."""
    wires = job(positive=text(), negative=text(seed=8), **TALL)
    right = job(positive=text(seed=5), negative=text(seed=8), **TALL)[0]
    mask = torch.zeros(1, 64, 48)
    mask[:, :, 24:] = 1
    alone = ksampler(wires, steps=1)["samples"]
    regions = {
        "area": nodes.ConditioningSetArea().append(right, 24, 64, 24, 0, 1.0)[0],
        "percent": nodes.ConditioningSetAreaPercentage().append(right, 0.5, 1.0, 0.5, 0.0, 1.0)[0],
        "mask": nodes.ConditioningSetMask().append(right, mask, "default", 1.0)[0],
        "bounds": nodes.ConditioningSetMask().append(right, mask, "mask bounds", 1.0)[0],
    }
    for name, region in regions.items():
        both = nodes.ConditioningCombine().combine(wires[0], region)[0]
        change = (ksampler((both, *wires[1:]), steps=1)["samples"] - alone)[:, :, 0].abs()
        assert change[..., :3].max() < 1e-4 and change[..., 3:].mean() > 1e-3, (name, change)
    rows = job(positive=text(), negative=text(seed=8), batch=2, **TALL)
    masks = torch.cat([mask, 1 - mask])
    each = nodes.ConditioningSetMask().append(right, masks, "default", 1.0)[0]
    both = nodes.ConditioningCombine().combine(rows[0], each)[0]
    change = ksampler((both, *rows[1:]), steps=1)["samples"] - ksampler(rows, steps=1)["samples"]
    change = change[:, :, 0].abs()
    assert change[0, ..., :3].max() < 1e-4 and change[1, ..., 3:].max() < 1e-4, change
    assert change[0, ..., 3:].mean() > 1e-3 and change[1, ..., :3].mean() > 1e-3, change


def check_joined_texts_are_read_as_one():
    one, two = text(seed=4), text(seed=5, tokens=9)
    for part in (one, two):
        ENCODED.remember(part[0][0], part[0][1]["attention_mask"])
    (joined,) = nodes.ConditioningConcat().concat(one, two)
    features = torch.cat([one[0][0], two[0][0]], dim=1)
    mask = torch.cat([part[0][1]["attention_mask"] for part in (one, two)], dim=1)
    whole = [[features, {"attention_mask": mask}]]
    results = [
        ksampler(job(positive=positive, negative=text(seed=8)))["samples"]
        for positive in (joined, whole, one)
    ]
    assert torch.equal(results[0], results[1]) and not torch.allclose(results[0], results[2])
    unknown = [[torch.cat([one[0][0], torch.randn(1, 3, 24)], dim=1), one[0][1]]]
    with raises(TextError, "write both into one"):
        ksampler(job(positive=unknown, negative=text(seed=8)))


def check_nodes_for_other_text_encoders_say_so():
    clip = load_embedded_text()
    tokens = clip.tokenize("a red ball")
    for other in ("l", "g", "t5xxl"):
        with raises(TextError, other, "Jodi Text Encode"):
            tokens[other]
    features = encode_text(clip, "a red ball")[0]
    (joined,) = nodes.ConditioningConcat().concat([features], encode_text(clip, "a blue box"))
    mask = ENCODED.complete(joined[0][0], joined[0][1]["attention_mask"])
    assert mask.shape[1] == joined[0][0].shape[1] == 2 * features[0].shape[1]


def check_usual_wiring_for_pictures_names_the_way():
    positive, negative, _ = job(**TEXTS)
    picture = {"samples": torch.randn(1, 5, 6, 6)}
    mask = torch.ones(1, 1, 48, 48)
    for latent in (picture, {**picture, "noise_mask": mask}):
        for run in (jodi, ksampler):
            with raises(ShapeError, "image_role = generate", "denoise", "repaint_mask"):
                run((positive, negative, latent), denoise=0.5)


def check_what_is_made_for_other_models_is_refused():
    positive, negative, latent = job(**TEXTS)

    carried = [[c, {**values, "control": comfy.controlnet.ControlBase()}] for c, values in positive]
    with raises(JodiError, "ControlNet", "Jodi Roles"):
        ksampler((carried, negative, latent))


def check_ignored_sockets_are_harmless():
    done = jodi(job(**TEXTS, depth_role="generate"))
    outputs = JodiDecodeAll.execute(done, VAE).args
    pictures = dict(zip(DOMAIN_NAMES, outputs, strict=True))
    assert [len(p) for p in outputs] == [1, 0, 0, 1, 0, 0, 0, 0]
    sheet = JodiContactSheet.execute(**pictures).args[0]
    made = {name: pictures[name] for name in ("image", "depth")}
    assert torch.equal(sheet, JodiContactSheet.execute(**made).args[0])
    saved = nodes.PreviewImage().save_images(pictures["albedo"])
    assert saved["ui"]["images"] == []
    assert list(pictures["albedo"]) == [] and pictures["albedo"][0].shape == (48, 48, 3)
    without = JodiDecodeAll.execute(jodi(job(image=image(1, 48, 48))), VAE, given=False).args
    assert [len(p) for p in without] == [0, 1, 1, 1, 1, 1, 1, 1]


def check_nodes_behind_ignored_sockets_give_no_pictures_either():
    done = jodi(job(**TEXTS, depth_role="generate"))
    of = dict(zip(DOMAIN_NAMES, JodiDecodeAll.execute(done, VAE).args, strict=True))
    scaled = nodes.ImageScale().upscale(of["image"], "nearest-exact", 32, 32, "disabled")[0]
    assert scaled.shape == (1, 32, 32, 3)
    results = [
        *JodiDepth.execute(of["lineart"], "near black", "image", "white").args,
        *JodiDepth.execute(of["lineart"], "distance", "range", "black", 0.5, 2.0).args,
        *JodiNormal.execute(of["normal"], "opengl", "jodi").args,
        *JodiSegmentation.execute(of["segmentation"]).args,
        *JodiEnsemble.execute(of["normal"], "normal").args,
    ]
    for result in results:
        assert len(result) == 0 and result.shape[1:3] == (48, 48)
        assert result[0].shape == result.shape[1:]  # what asks for the size gets one
    mask = torch.zeros(1, 48, 48)
    mask[:, :10] = 1
    painted = JodiSegmentation.execute(of["segmentation"], mask, class_name="person").args
    plain = JodiSegmentation.execute(None, mask, class_name="person").args
    assert all(torch.equal(a, b) for a, b in zip(painted, plain, strict=True))
    assert nodes.PreviewImage().save_images(results[0])["ui"]["images"] == []


def check_an_ignored_socket_into_jodi_roles_counts_as_not_connected():
    done = jodi(job(**TEXTS, depth_role="generate"))
    of = dict(zip(DOMAIN_NAMES, JodiDecodeAll.execute(done, VAE).args, strict=True))
    model, vae = MODEL, VAE
    with_it = JodiRoles.execute(model, vae, depth=of["depth"], albedo=of["albedo"]).args
    without = JodiRoles.execute(model, vae, depth=of["depth"]).args
    assert torch.equal(with_it[2]["samples"], without[2]["samples"])
    assert torch.equal(with_it[0][0][1]["jodi_roles"], without[0][0][1]["jodi_roles"])
    assert "albedo: its wire holds no pictures" in with_it[3]
    assert "albedo" not in without[3].splitlines()[-1]
    with raises(RoleError, "albedo"):
        JodiRoles.execute(model, vae, albedo=of["albedo"], albedo_role="condition")
    with raises(ImageError, "holds no pictures"):  # of another node: a fault in the graph
        JodiRoles.execute(model, vae, depth=torch.zeros(0, 48, 48, 3))
