"""The nodes that redraw labels, and those that lay out and combine. Run inside a ComfyUI."""

import torch
from jodi_pack.jodi_core.labels.depth import DEPTH_SOURCES, convert_depth
from jodi_pack.jodi_core.labels.ensemble import combine
from jodi_pack.jodi_core.labels.normals import convert_normals
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.errors import ImageError, JodiError, ShapeError
from jodi_pack.kit.pictures.palettes import SEGMENTATION_CLASSES
from jodi_pack.nodes.jodi.labels import JodiDepth, JodiNormal, JodiSegmentation
from jodi_pack.nodes.jodi.overview import JodiContactSheet, JodiEnsemble
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.tests.nodes.parts import image, parts, raises


def check_depth():
    pixels = image(2, 20, 30)
    for source in DEPTH_SOURCES:
        for normalize in ("image", "batch", "range"):
            out, mask = JodiDepth.execute(pixels, source, normalize, "black", 0.2, 0.7).args
            bounds = (0.2, 0.7) if normalize == "range" else ()
            expected = convert_depth(pixels.movedim(-1, 1), source, normalize, "black", *bounds)
            assert torch.equal(mask, expected) and torch.equal(out[..., 1], expected)
            assert out.shape == pixels.shape and out.dtype == torch.float32


def check_depth_of_other_nodes_becomes_what_roles_wants():
    model, vae, _ = parts()
    metres = torch.rand(1, 48, 48, 3) * 50 + 0.5
    depth = JodiDepth.execute(metres, "distance", "image", "white").args[0]
    assert depth.min() == 0 and depth.max() == 1
    summary = JodiRoles.execute(model, vae, depth=depth).args[3]
    assert "from depth" in summary


def check_normal():
    pixels = image(2, 20, 30)
    out = JodiNormal.execute(pixels, "directx", "jodi").args[0]
    expected = convert_normals(pixels.movedim(-1, 1), "directx", "jodi")
    assert torch.equal(out.movedim(-1, 1), expected)


def check_segmentation():
    index = torch.arange(12).view(1, 3, 4)
    drawn = colorize(index).movedim(1, -1)
    for number, name in enumerate(SEGMENTATION_CLASSES):
        again, mask, numbers = JodiSegmentation.execute(drawn, class_name=name).args
        assert torch.equal(again, drawn) and torch.equal(mask, (index == number).float())
        assert torch.equal((numbers * 255).round().long()[..., 0], index)
    ade = JodiSegmentation.execute(drawn, palette="ade20k").args[0]
    assert torch.equal(JodiSegmentation.execute(ade, source="ade20k").args[0], drawn)


def check_masks_are_painted_into_a_map():
    mask = torch.zeros(1, 10, 12)
    mask[:, :5] = 1
    first = JodiSegmentation.execute(paint_mask=mask, class_name="sky").args
    assert torch.equal(first[1], mask)
    both = JodiSegmentation.execute(first[0], mask.flip(1), class_name="road").args
    assert torch.equal(both[1], 1 - mask)
    assert (both[2] * 255).round().unique().tolist() == [6, 10]
    with raises(ImageError, "nothing to read"):
        JodiSegmentation.execute()
    with raises(ImageError, "mask is 1 of 9 x 10"):
        JodiSegmentation.execute(first[0], torch.ones(1, 10, 9))


def check_sheet_of_pictures():
    out = JodiContactSheet.execute(image=image(2, 20, 30), depth=image(1, 20, 30), side=64).args[0]
    assert (
        out.ndim == 4 and len(out) == 1 and out.shape[-1] == 3 and 0 <= out.min() <= out.max() <= 1
    )
    one = JodiContactSheet.execute(
        image=image(2, 20, 30), depth=image(1, 20, 30), side=64, rows=1
    ).args[0]
    assert one.shape[2] == out.shape[2] and one.shape[1] < out.shape[1]
    alone = JodiContactSheet.execute(depth=image(1, 20, 30), side=64).args[0]
    assert alone.shape[2] < out.shape[2]


def check_sheet_of_a_latent():
    model, vae, _ = parts()
    latent = JodiRoles.execute(model, vae, image=image(1, 48, 48), depth_role="generate").args[2]
    with raises(ShapeError, "depth has the role generate", "not sampled yet"):
        JodiContactSheet.execute(latent, vae, side=64)
    latent["samples"][:, :, 3] = 1  # as if it were sampled
    two = JodiContactSheet.execute(latent, vae, side=64).args[0]
    with_picture = JodiContactSheet.execute(latent, vae, side=64, depth=image(1, 48, 48)).args[0]
    assert two.shape == with_picture.shape and not torch.equal(two, with_picture)
    more = JodiContactSheet.execute(latent, vae, side=64, edge=image(1, 48, 48)).args[0]
    assert more.shape[2] > two.shape[2]
    with raises(ImageError, "the VAE is missing"):
        JodiContactSheet.execute(latent)
    with raises(ImageError, "the LATENT is missing"):
        JodiContactSheet.execute(vae=vae)
    with raises(ImageError, "nothing to show"):
        JodiContactSheet.execute()
    with raises(ImageError, "depth: expected an IMAGE"):
        JodiContactSheet.execute(depth=torch.rand(4, 4, 2, 2))


def check_ensemble():
    samples = image(4, 20, 30)
    for domain in JodiEnsemble.GET_SCHEMA().inputs[1].options:
        out, uncertainty = JodiEnsemble.execute(samples, domain).args
        expected = combine(domain, samples.movedim(-1, 1))
        assert out.shape == (1, 20, 30, 3) and uncertainty.shape == (1, 20, 30)
        assert torch.equal(out[0].movedim(-1, 0), expected.picture)
        assert torch.equal(uncertainty[0], expected.uncertainty)
    with raises(JodiError, "domains are"):
        JodiEnsemble.execute(samples, "heat")
