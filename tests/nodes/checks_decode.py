"""Jodi Decode Label and Jodi Decode All. Run by test_nodes.py inside a ComfyUI."""

import logging

import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, DOMAINS
from jodi_pack.jodi_core.labels.depth import make_depth_map
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.errors import JodiError, RoleError, ShapeError
from jodi_pack.kit.pictures.frame import fit, restore
from jodi_pack.nodes.host import dcae as _host_vae
from jodi_pack.nodes.jodi.decode import JodiDecodeAll, JodiDecodeLabel
from jodi_pack.nodes.jodi.labels import JodiDepth
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.nodes.parts import AE, image, parts, raises

MODEL, VAE, CORE = parts()
LABELS = DOMAIN_NAMES[1:]


def sampled(**inputs) -> dict:
    """A LATENT of Jodi Roles with random content where sampling would have left some."""
    latent = JodiRoles.execute(MODEL, VAE, **inputs).args[2]
    samples = randn(*latent["samples"].shape, seed=9)
    for index, role in enumerate(latent["jodi"]["roles"][0]):
        if role != 0:
            samples[:, :, index] = latent["samples"][:, :, index]
    return {**latent, "samples": samples}


def raw(latent, name) -> torch.Tensor:
    """Decoder output (B, 3, H, W) of the core."""
    return CORE.decode(latent["samples"].transpose(1, 2) * AE.scaling_factor, [name])[name]


def decode(latent, domain, vae=VAE, **options):
    return JodiDecodeLabel.execute(latent, vae, domain, **options).args


class counted_decodes:  # noqa: N801
    """How many domains the VAE decodes meanwhile."""

    def __enter__(self):
        self.count, self.original = 0, _host_vae.JodiVAE.decode_domain

        def counting(vae, *args, **kwargs):
            self.count += 1
            return self.original(vae, *args, **kwargs)

        _host_vae.JodiVAE.decode_domain = counting
        return self

    def __exit__(self, *_):
        _host_vae.JodiVAE.decode_domain = self.original


def check_each_domain_is_shown_as_published():
    latent = sampled(image=image(2, 48, 48))
    for domain in DOMAINS:
        pixels, mask = decode(latent, domain.name)
        expected = postprocess(domain, raw(latent, domain.name))
        assert pixels.shape == (2, 48, 48, 3) and pixels.dtype == torch.float32
        assert torch.allclose(pixels.movedim(-1, 1), expected, atol=1e-4), domain.name
        assert mask.shape == (2, 48, 48) and 0 <= mask.min() <= mask.max() <= 1
    colors = colorize(torch.arange(12).view(1, 1, 12))[0, :, 0].T
    pixels = decode(latent, "segmentation")[0].reshape(-1, 3)
    assert (pixels[:, None] == colors).all(-1).any(-1).all(), "classes have their exact colours"


def check_a_map_is_more_than_eight_bits():
    pixels = decode(sampled(image=image(1, 48, 48)), "depth")[0]
    steps = pixels[..., 0].unique()
    assert len(steps) > 1000 and not torch.equal(pixels, (pixels * 255).round() / 255)


def check_raw_values_can_be_stretched_over_a_batch():
    latent = sampled(image=image(3, 48, 48))
    pixels = decode(latent, "depth", values="raw")[0]
    x = raw(latent, "depth")
    for normalize in ("image", "batch"):
        depth = JodiDepth.execute(pixels, "near white", normalize, "white").args[1]
        assert torch.allclose(depth, make_depth_map(x, normalize=normalize), atol=1e-4)
    with raises(JodiError, "values", "raw"):
        decode(latent, "depth", values="both")


def check_maps_return_to_the_original_frame():
    for mode in ("crop", "pad"):
        pixels = image(2, 90, 120)
        latent = sampled(image=pixels, fit=mode, size="width and height", width=64, height=64)
        frame = latent["jodi"]["frames"][0]
        for name in ("depth", "segmentation", "normal", "image"):
            out = decode(latent, name, original_frame=True)[0]
            assert out.shape == (2, 90, 120, 3), name
            x = raw(latent, name)
            if name == "segmentation":
                expected = restore(postprocess(name, x), frame, palette=True)
            else:
                expected = postprocess(name, restore(x, frame))
            assert torch.allclose(out.movedim(-1, 1), expected, atol=1e-4), name
        normals = decode(latent, "normal", original_frame=True)[0] * 2 - 1
        assert torch.allclose(normals.norm(dim=-1), torch.ones(2, 90, 120), atol=1e-4)


def check_a_given_picture_comes_back_in_its_place():
    """A frame put back wrongly would show in the picture itself, through an exact autoencoder."""
    pixels = image(1, 96, 144)
    latent = sampled(image=pixels, size="width and height", width=96, height=64, fit="pad")
    shown, frame = fit(pixels.movedim(-1, 1), (64, 96), "pad")
    assert torch.allclose(restore(shown, frame).movedim(1, -1), pixels, atol=0.02)
    assert latent["jodi"]["frames"] == [frame]


def check_an_ignored_domain_is_an_error_that_says_what_to_do():
    latent = sampled(depth=image(1, 48, 48))
    with counted_decodes() as decodes:
        with raises(RoleError, "albedo is not part of this job", "role of Albedo to generate"):
            decode(latent, "albedo")
        assert decodes.count == 0
        decode(latent, "image")
        assert decodes.count == 1


def check_all_domains_at_once():
    latent = sampled(image=image(2, 48, 48))
    outputs = JodiDecodeAll.execute(latent, VAE).args
    for domain, pixels in zip(DOMAINS, outputs, strict=True):
        assert torch.equal(pixels, decode(latent, domain.name)[0])
    assert [o.display_name for o in JodiDecodeAll.GET_SCHEMA().outputs] == list(DOMAIN_NAMES)


def check_sockets_of_ignored_domains_give_no_pictures():
    latent = sampled(depth=image(1, 48, 48))
    with counted_decodes() as decodes:
        outputs = JodiDecodeAll.execute(latent, VAE).args
        assert decodes.count == 2
    for domain, pixels in zip(DOMAINS, outputs, strict=True):
        rows = 1 if domain.name in ("image", "depth") else 0
        assert pixels.shape == (rows, 48, 48, 3), domain.name
    with counted_decodes() as decodes:
        outputs = JodiDecodeAll.execute(latent, VAE, given=False).args
        assert decodes.count == 1
    assert len(outputs[3]) == 0 and len(outputs[0]) == 1


def check_a_latent_without_its_entry_still_decodes():
    latent = sampled(image=image(1, 90, 120))
    bare = {"samples": latent["samples"]}
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("jodi").addHandler(handler)
    try:
        pixels = decode(bare, "depth", original_frame=True)[0]
        outputs = JodiDecodeAll.execute(bare, VAE).args
    finally:
        logging.getLogger("jodi").removeHandler(handler)
    assert torch.equal(pixels, decode(latent, "depth")[0])
    assert all(pixels.shape == (1, *pixels.shape[1:]) for pixels in outputs)
    assert any("does not say how pictures were fitted" in line for line in said)


def check_tiles_are_used_when_asked_for():
    latent = sampled(image=image(1, 192, 192), size="picture size")
    whole, tiled = decode(latent, "albedo")[0], decode(latent, "albedo", tile=96)[0]
    assert whole.shape == tiled.shape == (1, 192, 192, 3)
    assert not torch.equal(whole, tiled)  # it was tiled indeed


def check_domains_beyond_the_eight():
    of = parts(8, (*DOMAIN_NAMES, "roughness"))
    latent = JodiRoles.execute(*of[:2], image=image(1, 48, 48)).args[2]
    latent = {**latent, "samples": randn(*latent["samples"].shape, seed=9)}
    pixels = decode(latent, "image", of[1], other_domain=" Roughness ")[0]
    x = of[2].decode(latent["samples"].transpose(1, 2) * AE.scaling_factor, ["roughness"])
    expected = ((x["roughness"] + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert torch.allclose(pixels, expected, atol=1e-4)
    with raises(JodiError, "no domain is called 'heat'", "roughness"):
        decode(latent, "image", of[1], other_domain="heat")
    assert len(JodiDecodeAll.execute(latent, of[1]).args) == 8


def check_models_with_fewer_domains_give_no_pictures_of_the_rest():
    of = parts(3, ("image", "lineart", "depth", "normal"))
    latent = JodiRoles.execute(*of[:2], image=image(1, 48, 48)).args[2]
    latent = {**latent, "samples": randn(*latent["samples"].shape, seed=9)}
    outputs = JodiDecodeAll.execute(latent, of[1]).args
    assert outputs[3].shape == (1, 48, 48, 3)
    assert outputs[5].shape == (0, 48, 48, 3)


def check_wrong_wires():
    latent = sampled(image=image(1, 48, 48))
    with raises(JodiError, "expected the DC-AE as VAE"):
        JodiDecodeLabel.execute(latent, object(), "depth")
    with raises(ShapeError, "scaled by 0.41407", "reads 5 channels", "that Jodi Roles used"):
        decode(latent, "depth", parts(scale=0.8)[1])
    with raises(ShapeError, "that Jodi Roles used"):
        JodiDecodeAll.execute(latent, parts(scale=0.8)[1])
    with raises(ShapeError, "third axis"):
        decode({"samples": torch.zeros(1, 5, 6, 6)}, "depth")
    with raises(ShapeError, "5"):
        decode({"samples": torch.ones(1, 4, 8, 6, 6)}, "depth")
    before = latent["samples"].clone()
    decode(latent, "depth", original_frame=True)
    assert torch.equal(latent["samples"], before)
