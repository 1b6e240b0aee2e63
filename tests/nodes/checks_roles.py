"""Jodi Roles and Jodi Extra Domain. Run by test_nodes.py inside a ComfyUI."""

import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.embedded import AUTOENCODER, TRANSFORMER
from jodi_pack.kit.errors import ImageError, JodiError, RoleError, ShapeError
from jodi_pack.kit.pictures.frame import fit
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from jodi_pack.nodes.host.dcae import load_vae
from jodi_pack.nodes.host.jodi_load import load_model
from jodi_pack.nodes.host.sampler import read_vae_facts
from jodi_pack.nodes.jodi.roles import JodiExtraDomain, JodiRoles
from jodi_pack.tests.nodes.parts import AE, NATIVE, image, parts, raises, text

LABELS = DOMAIN_NAMES[1:]


def roles(*, of=None, **inputs):
    model, vae, _ = of or parts()
    return JodiRoles.execute(model, vae, **inputs).args


def pattern(conditioning) -> list[int]:
    return conditioning[0][1]["jodi_roles"].tolist()[0]


def fitted(pixels, size, mode="crop", palette=False):
    return fit(pixels.movedim(-1, 1), size, mode, palette)


def check_nothing_wired_is_text_to_image():
    positive, negative, latent, summary = roles()
    assert pattern(positive) == pattern(negative) == [0] + [2] * 7
    assert latent["samples"].shape == (1, AE.latent_channels, 8, 6, 6)
    assert not latent["samples"].any() and "noise_mask" not in latent
    assert latent["jodi"] == {
        "names": list(DOMAIN_NAMES),
        "roles": [[0] + [2] * 7],
        "frames": [None],
        "size": (NATIVE, NATIVE),
        "vae": read_vae_facts(parts()[1]),
    }
    assert summary.splitlines() == [
        "text to image: generates image; 1 of 8 domains active",
        "48 x 48 pixels (width x height), 1 picture",
    ]
    null = parts()[2].transformer.y_embedder.y_embedding
    assert torch.equal(positive[0][0], null[None])


def check_an_image_alone_gives_all_labels():
    pixels = image(1, 48, 48)
    positive, _, latent, summary = roles(image=pixels)
    assert pattern(positive) == [1] + [0] * 7
    plan = parts()[2].plan(LABELS, ["image"])
    picture = {"image": pixels.movedim(-1, 1)}
    clean = parts()[2].encode_conditions(plan, picture, (48, 48)) / AE.scaling_factor
    assert torch.allclose(positive[0][1]["jodi_clean"], clean.transpose(1, 2), atol=1e-5)
    assert torch.equal(latent["samples"], positive[0][1]["jodi_clean"])
    assert summary.startswith("image perception: generates lineart, edge, depth")
    assert "fit" not in summary


def check_labels_alone_give_the_image():
    positive, _, _, summary = roles(depth=image(1, 60, 80), normal=image(1, 60, 80, seed=1))
    assert pattern(positive) == [0, 2, 2, 1, 1, 2, 2, 2]
    assert "controllable generation: generates image from depth, normal" in summary
    assert "depth of 80 x 60 is scaled and cropped to fit" in summary


def check_roles_override():
    positive, _, _, summary = roles(
        image=image(1, 48, 48), image_role="condition", depth_role="generate"
    )
    assert pattern(positive) == [1, 2, 2, 0, 2, 2, 2, 2]
    assert "generates depth from image; 2 of 8 domains active" in summary
    positive, _, latent, _ = roles(
        image=image(1, 48, 48), depth=image(1, 48, 48), depth_role="ignore", edge_role="generate"
    )
    assert pattern(positive) == [1, 2, 0, 2, 2, 2, 2, 2]
    assert not latent["samples"][:, :, 3].any()
    with raises(RoleError, "depth is set to condition", "connect one"):
        roles(depth_role="condition")
    with raises(RoleError, "none of the 8 domains"):
        roles(**{f"{name}_role": "ignore" for name in DOMAIN_NAMES})


def check_untrained_mixes_are_said_once():
    inputs = {"depth": image(1, 48, 48), "normal_role": "generate"}
    assert roles(**inputs)[3].count("not trained on this mix") == 1
    assert "not trained" not in roles(of=parts(trained="any"), **inputs)[3]
    assert "not trained" not in roles(image=image(1, 48, 48))[3]


def check_sizes():
    pixels = image(1, 60, 200)
    for choice, size in {
        "trained shape": (24, 80),
        "picture ratio": (24, 80),
        "picture size": (64, 200),
        "width and height": (40, 72),
    }.items():
        latent = roles(image=pixels, size=choice, width=70, height=37)[2]
        assert latent["jodi"]["size"] == size, (choice, latent["jodi"]["size"])
        assert latent["samples"].shape[-2:] == (size[0] // 8, size[1] // 8)


def check_crop_and_pad():
    pixels = image(1, 60, 90)
    for mode in ("crop", "pad"):
        positive, _, latent, _ = roles(
            image=pixels, fit=mode, size="width and height", width=48, height=48
        )
        picture, frame = fitted(pixels, (48, 48), mode)
        assert latent["jodi"]["frames"] == [frame]
        expected = parts()[1].encode(picture.movedim(1, -1))
        assert torch.allclose(positive[0][1]["jodi_clean"][:, :, 0], expected, atol=1e-5)
    with raises(ShapeError, "crop or pad"):
        roles(image=pixels, fit="stretch")


def check_segmentation_is_not_blended():
    colors = torch.tensor([[255, 127, 255], [0, 127, 0]]) / 255
    pixels = colors[torch.randint(2, (1, 96, 96), generator=torch.Generator().manual_seed(0))]
    clean = roles(segmentation=pixels)[0][0][1]["jodi_clean"][:, :, 6]
    nearest = fitted(pixels, (48, 48), palette=True)[0]
    assert torch.allclose(clean, parts()[1].encode(nearest.movedim(1, -1)), atol=1e-5)


def check_batches():
    frames, one = image(3, 48, 48), image(1, 48, 48, seed=5)
    positive, _, latent, summary = roles(image=frames, depth=one, normal_role="generate")
    clean = positive[0][1]["jodi_clean"]
    assert len(clean) == len(latent["samples"]) == len(latent["jodi"]["roles"]) == 3
    assert torch.equal(clean[0, :, 3], clean[2, :, 3]) and not torch.equal(
        clean[0, :, 0], clean[2, :, 0]
    )
    assert "3 pictures" in summary
    positive, _, latent, _ = roles(image=one, batch=4)
    assert len(latent["samples"]) == 4 and len(positive[0][1]["jodi_clean"]) == 1
    assert torch.equal(latent["samples"][0], latent["samples"][3])
    assert len(roles(positive=text(rows=2))[2]["samples"]) == 2
    with raises(ShapeError, "image asks for 3 rows", "depth has 2"):
        roles(image=frames, depth=image(2, 48, 48))
    # what is ignored has no say
    assert len(roles(image=frames, depth=image(2, 48, 48), depth_role="ignore")[2]["samples"]) == 3


def check_a_repaint_mask_frees_a_region_of_generated_pictures():
    mask = torch.zeros(1, 48, 48)
    mask[:, 8:16, 16:32] = 1
    inputs = {"image": image(1, 48, 48), "depth": image(1, 48, 48, seed=2), "repaint_mask": mask}
    positive, _, latent, summary = roles(**inputs)
    assert pattern(positive) == [0, 2, 2, 1, 2, 2, 2, 2]
    free = latent["noise_mask"]
    assert free.shape == (1, 1, 8, 6, 6)
    assert free[0, 0, 0].nonzero().tolist() == [[1, 2], [1, 3]] and not free[0, 0, 1:].any()
    assert "image changes inside the repaint mask only" in summary
    start = parts()[1].encode(inputs["image"])
    assert torch.allclose(latent["samples"][:, :, 0], start, atol=1e-5)
    assert not positive[0][1]["jodi_clean"][:, :, 0].any()  # it is no condition
    # a generated domain without a picture is made everywhere
    free = roles(**inputs, normal_role="generate")[2]["noise_mask"]
    assert free[0, 0, 4].eq(1).all() and free[0, 0, 0].sum() == 2
    masks = torch.stack([mask[0], 1 - mask[0]])
    assert roles(**{**inputs, "repaint_mask": masks})[2]["noise_mask"][:, 0, 0].sum(
        (1, 2)
    ).tolist() == [2, 34]
    with raises(RoleError, "no generated domain has a picture to repaint"):
        roles(repaint_mask=mask)
    with raises(ImageError, "expected a mask"):
        roles(**{**inputs, "repaint_mask": mask * 255})


def check_held_domains_are_generated_but_kept():
    inputs = {
        "image": image(1, 48, 48),
        "depth": image(1, 48, 48, seed=2),
        "image_role": "generate",
    }
    positive, _, latent, summary = roles(**inputs, hold="Depth")
    assert pattern(positive) == [0, 2, 2, 0, 2, 2, 2, 2]
    free = latent["noise_mask"]
    assert free[0, 0, 0].eq(1).all() and not free[0, 0, 3].any()
    assert "depth keeps its picture" in summary
    assert latent["samples"][:, :, 3].any()
    with raises(RoleError, "hold", "no domain is called 'heat'"):
        roles(**inputs, hold="depth, heat")
    with raises(RoleError, "normal is to be held, but no picture"):
        roles(**inputs, hold="normal")


def check_text_reaches_both_sides_with_the_published_mask():
    positive, negative = text(tokens=6), text(tokens=9, seed=8)
    out, out_negative, _, _ = roles(positive=positive, negative=negative)
    assert torch.equal(out[0][0], positive[0][0])
    assert out_negative[0][1]["attention_mask"].sum() == 6
    own = roles(positive=positive, negative=negative, negative_mask="own")[1]
    assert own[0][1]["attention_mask"].sum() == 9
    # what came in is as it was
    assert set(positive[0][1]) == {"pooled_output", "attention_mask"}
    assert negative[0][1]["attention_mask"].sum() == 9
    with raises(JodiError, "negative_mask"):
        roles(negative_mask="none")


def check_text_without_effect_is_said():
    assert "the prompt has no effect" in roles(image=image(1, 48, 48), positive=text())[3]
    assert "no effect" not in roles(positive=text())[3]


def check_wrong_wires():
    model, vae, _ = parts()
    with raises(JodiError, "expected a Jodi MODEL", "Load Jodi"):
        JodiRoles.execute(object(), vae)
    with raises(JodiError, "expected the DC-AE as VAE", "Load Jodi VAE"):
        JodiRoles.execute(model, object())
    built_in = load_vae(AUTOENCODER)
    with raises(ShapeError, "tiny works on latents of 5 channels", "makes latents of 32", "it was"):
        JodiRoles.execute(model, built_in)
    # The same sizes, scaled otherwise: the picture would be wrong, and nothing else would tell.
    with raises(ShapeError, "scaled by 0.41407", "scaled by 0.8"):
        JodiRoles.execute(model, parts(scale=0.8)[1])
    with raises(ShapeError, "jodi-nano works on", "built-in jodi-nano"):
        JodiRoles.execute(load_model(TRANSFORMER), vae)
    for wrong in (torch.full((1, 48, 48, 3), float("nan")), image(1, 48, 48) * 255):
        with raises(ImageError, "depth: expected values in 0..1"):
            roles(depth=wrong)
    with raises(ImageError, "depth: expected an IMAGE"):
        roles(depth=torch.rand(48, 48))


def check_extended_models_take_further_domains():
    names = (*DOMAIN_NAMES, "roughness")
    of = parts(8, names)
    positive, _, latent, _ = roles(of=of, image=image(1, 48, 48))
    assert pattern(positive) == [1] + [0] * 8 and latent["jodi"]["names"] == list(names)
    extra = JodiExtraDomain.execute("Roughness", "auto", image(1, 48, 48)).args[0]
    positive, _, latent, summary = roles(of=of, extra=extra)
    assert pattern(positive) == [0] + [2] * 7 + [1] and latent["samples"][:, :, 8].any()
    assert "from roughness" in summary
    twice = JodiExtraDomain.execute("roughness", extra=extra).args[0]
    with raises(RoleError, "roughness comes twice"):
        roles(of=of, extra=twice)
    with raises(RoleError, "no domain is called 'Roughness'", "the 8 domains are"):
        roles(extra=extra)
    with raises(RoleError, "segmentation comes twice"):
        roles(extra=JodiExtraDomain.execute("seg").args[0])
    with raises(RoleError, "has no name"):
        JodiExtraDomain.execute("  ")


def check_smaller_models_need_not_know_all_eight():
    of = parts(3, ("image", "lineart", "depth", "normal"))
    positive, _, latent, _ = roles(of=of, image=image(1, 48, 48))
    assert pattern(positive) == [1, 0, 0, 0] and latent["samples"].shape[2] == 4
    with raises(RoleError, "no domain is called 'albedo'", "the 4 domains are image, lineart"):
        roles(of=of, albedo=image(1, 48, 48))


def check_masks_and_pictures_that_do_not_fit_are_said():
    inputs = {"image": image(1, 48, 48), "image_role": "generate"}
    with raises(RoleError, "repaint mask is all black", "Load Image"):
        roles(**inputs, repaint_mask=torch.zeros(1, 64, 64))
    wide = torch.ones(1, 48, 96)
    assert "repaint_mask of 96 x 48 has another shape" in roles(**inputs, repaint_mask=wide)[3]
    assert "another shape" not in roles(**inputs, repaint_mask=wide[..., :48])[3]
    summary = roles(depth=image(1, 48, 48), normal=image(1, 96, 48))[3]
    assert "normal of 48 x 96 is cropped; it may not lie over depth" in summary


def check_pictures_that_only_count_below_full_denoise_are_said():
    inputs = {"image": image(1, 48, 48), "image_role": "generate"}
    assert "image: the connected picture only counts with denoise below 1" in roles(**inputs)[3]
    assert "only counts" not in roles(**inputs, repaint_mask=torch.ones(1, 48, 48))[3]


def check_a_long_batch_is_encoded_in_slices_to_the_same_latents():
    video = image(20, 60, 48)  # more than one slice
    whole = roles(image=video)[2]["samples"]
    for row in (0, 15, 16, 19):
        alone = roles(image=video[row : row + 1])[2]["samples"]
        assert torch.allclose(whole[row : row + 1], alone, atol=1e-5)


def _said(**inputs) -> str:
    return roles(**inputs)[3]


def check_maps_that_look_odd_are_named_in_the_summary():
    black, white = torch.zeros(1, 48, 48, 3), torch.ones(1, 48, 48, 3)
    classes = torch.tensor(SEGMENTATION_PALETTE)[torch.arange(48 * 48).view(1, 48, 48) % 12] / 255
    slope = torch.linspace(0, 1, 48).view(1, 1, 48, 1).expand(1, 48, 48, 3)
    odd = {
        "depth": (white, "one flat tone"),
        "lineart": (black, "mostly dark"),
        "edge": (white, "mostly bright"),
        "openpose": (white, "mostly bright"),
        "segmentation": (classes * 0.5 + 0.2, "none of the model's 12 classes"),
    }
    fine = {"depth": slope, "lineart": white, "edge": black, "segmentation": classes}
    fine |= {"openpose": black, "normal": image(1, 48, 48), "albedo": black}
    for name, (picture, words) in odd.items():
        assert words in _said(**{name: picture}), name
        assert words not in _said(**{name: picture}, **{f"{name}_role": "ignore"}, image=slope)
    said = _said(**fine)
    assert not any(words in said for _, words in odd.values()), said
    both = _said(depth=torch.cat([slope, white]))
    assert "one flat tone" in both  # in one row of two
