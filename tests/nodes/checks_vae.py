"""The VAE wire: the DC-AE under the host's own nodes. Run by test_nodes.py inside a ComfyUI."""

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import latent_preview
import torch
import torch.nn.functional as F
from comfy.cli_args import LatentPreviewMethod, args
from jodi_pack.jodi_core.labels.maps import preprocess
from jodi_pack.kit.autoencoder import tiling
from jodi_pack.kit.errors import CheckpointError, JodiError, ShapeError
from jodi_pack.nodes.host import dcae as _host_vae
from jodi_pack.nodes.host import jodi_latent as _host_latent
from jodi_pack.nodes.host import jodi_load as _host_load
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.nodes.parts import AE, image, parts, raises


def relative(ours, theirs) -> float:
    return ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()


def latents(*shape, seed=0):
    return randn(*shape, seed=seed) / AE.scaling_factor


def check_memory_is_asked_for_by_the_cores_formula():
    _, vae, pipeline = parts()
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        expected = pipeline.autoencoder.peak_memory(64 * 96, size)
        assert vae.memory_used_encode((1, 3, 64, 96), dtype) == expected
        cells = (1, AE.latent_channels, 64 // AE.factor, 96 // AE.factor)
        assert vae.memory_used_decode(cells, dtype) == expected


@torch.inference_mode()
def check_it_equals_the_core():
    _, vae, pipeline = parts()
    assert isinstance(vae, comfy.sd.VAE)
    pixels = image(2, 48, 40)
    expected = pipeline.encode_picture("image", pixels.movedim(-1, 1)) / AE.scaling_factor
    assert relative(vae.encode(pixels), expected) < 1e-5
    x = preprocess("depth", pixels.movedim(-1, 1))
    expected = pipeline.encode_picture("depth", pixels.movedim(-1, 1)) / AE.scaling_factor
    assert relative(_host.encode_domain(vae, x), expected) < 1e-5
    samples = latents(2, AE.latent_channels, 8, 6, 5)
    scaled = (samples * AE.scaling_factor).transpose(1, 2)
    expected = pipeline.decode(scaled, ["depth"])["depth"]
    raw = _host.decode_domain(vae, samples, 3)
    assert raw.shape == (2, 48, 40, 3) and raw.dtype == torch.float32
    assert relative(raw.movedim(-1, 1), expected) < 1e-5


@torch.inference_mode()
def check_decode_of_one_and_of_all_domains():
    vae = parts()[1]
    samples = latents(2, AE.latent_channels, 8, 6, 5)
    samples[:, :, 2] = 1e-6  # what some samplers leave of an ignored domain
    before = samples.clone()
    pictures = vae.decode(samples)
    assert pictures.shape == (2, 8, 48, 40, 3)
    assert torch.equal(samples, before)
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert not pictures[:, 2].any() and pictures[:, 3].any()
    one = vae.decode(samples[:, :, 3])
    assert torch.allclose(one, pictures[:, 3], atol=1e-6)
    raw = _host.decode_domain(vae, samples, 3)
    assert torch.allclose(one, (raw / 2 + 0.5).clamp(0, 1), atol=1e-6)


@torch.inference_mode()
def check_tiles():
    vae = parts()[1]
    flat = torch.full((1, 128, 96, 3), 0.3)
    whole, tiled = vae.encode(flat), vae.encode_tiled(flat, tile_x=64, tile_y=64, overlap=8)
    assert whole.shape == tiled.shape == (1, AE.latent_channels, 16, 12)
    samples = latents(1, AE.latent_channels, 16, 12)
    whole, tiled = vae.decode(samples), vae.decode_tiled(samples, tile_x=8, tile_y=8, overlap=2)
    assert whole.shape == tiled.shape and not torch.equal(whole, tiled)
    assert vae.decode_tiled(samples[:, :, None].repeat(1, 1, 3, 1, 1), tile_x=8).shape[1] == 3


@torch.inference_mode()
def check_out_of_memory_falls_back_to_less():
    vae = parts()[1]
    samples = latents(3, AE.latent_channels, 8, 8)
    network, sizes = vae.first_stage_model.decoder, []
    expected = vae.decode(samples)

    def limit(cells):
        def hook(_, inputs):
            sizes.append(tuple(inputs[0].shape))
            if inputs[0].shape[0] * inputs[0].shape[-1] > cells:
                raise comfy.model_management.OOM_EXCEPTION("pretended")

        return network.register_forward_pre_hook(hook)

    hook = limit(8)
    try:
        assert torch.allclose(vae.decode(samples), expected, atol=1e-5)
        assert [size[0] for size in sizes] == [3, 1, 1, 1]
    finally:
        hook.remove()
    hook = limit(4)
    before, tiling.FALLBACK_TILE = tiling.FALLBACK_TILE, 4 * AE.factor
    try:
        assert vae.decode(samples).shape == expected.shape
        hook.remove()
        hook = limit(0)
        with raises(comfy.model_management.OOM_EXCEPTION, "pretended"):
            vae.decode(samples)
    finally:
        hook.remove()
        tiling.FALLBACK_TILE = before


@torch.inference_mode()
def check_unchanged_pictures_are_not_encoded_again():
    vae = parts()[1]
    calls = []
    hook = vae.first_stage_model.encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        x = randn(1, 3, 24, 24, seed=77).clamp(-1, 1)
        first = _host.encode_domain(vae, x)
        again = _host.encode_domain(vae, x.clone())
        assert len(calls) == 1 and torch.equal(first, again)
        again.zero_()  # what callers do with it stays theirs
        assert torch.equal(_host.encode_domain(vae, x), first)
        _host.encode_domain(vae, x + 1e-3)
        assert len(calls) == 2
        before, vae._encodings.limit = vae._encodings.limit, first.nbytes
        _host.encode_domain(vae, x + 2e-3)
        assert vae._encodings.nbytes == first.nbytes
        vae._encodings.limit = before
    finally:
        hook.remove()


@torch.inference_mode()
def check_pictures_as_other_nodes_make_them():
    vae = parts()[1]
    pixels = image(1, 50, 45)
    assert vae.encode(pixels).shape == (1, AE.latent_channels, 6, 5)  # cropped to the factor
    with_alpha = torch.cat([pixels, torch.zeros(1, 50, 45, 1)], dim=-1)
    assert torch.equal(vae.encode(with_alpha), vae.encode(pixels))


@torch.inference_mode()
def check_wrong_wires_say_what_to_do():
    vae = parts()[1]
    with raises(ShapeError, "5 channels", "(1, 4, 8, 8)"):
        vae.decode(torch.zeros(1, 4, 8, 8))
    with raises(ShapeError, "domain 8", "holds 8"):
        _host.decode_domain(vae, torch.zeros(1, 5, 8, 6, 6), 8)
    with raises(ShapeError, "multiples of 8", "20x24"):
        _host.encode_domain(vae, torch.zeros(1, 3, 20, 24))
    with raises(ShapeError, "(1, 1, 24, 24)"):
        _host.encode_domain(vae, torch.zeros(1, 1, 24, 24))
    with raises(JodiError, "DC-AE", "Load Jodi VAE"):
        _host.read_vae_facts(object())
    assert _host.read_vae_facts(vae).factor == 8


@torch.inference_mode()
def check_preview_shows_active_domains_in_colour():
    model, vae, _ = parts()
    latent_format = model.model.latent_format
    # The random autoencoder keeps no colours; one that does lets the fit be judged.
    factors = randn(AE.latent_channels, 3, seed=8)
    z = randn(6, AE.latent_channels, 5, 5, seed=9)
    colours = torch.einsum("nchw,cd->ndhw", z, factors) + 0.2
    found, bias = _host_latent.fit_colours(z, colours)
    assert torch.allclose(torch.tensor(found), factors, atol=0.05)
    assert torch.allclose(torch.tensor(bias), torch.full((3,), 0.2), atol=0.05)

    x0 = randn(2, AE.latent_channels, 8, 4, 6)
    x0[:, :, [1, 5]] = 0
    sheet = _host_latent.lay_out_domains(x0)
    times = sheet.shape[-1] // (3 * 6)
    assert sheet.shape == (1, AE.latent_channels, 2 * 4 * times, 3 * 6 * times)
    assert min(sheet.shape[-2:]) >= _host_latent.PREVIEW_SIDE
    small = sheet[:, :, ::times, ::times]
    active = [0, 2, 3, 4, 6, 7]
    for place, index in enumerate(active):
        row, column = divmod(place, 3)
        cell = small[0, :, row * 4 : row * 4 + 4, column * 6 : column * 6 + 6]
        assert torch.equal(cell, x0[0, :, index])

    args.preview_method = LatentPreviewMethod.Auto
    try:
        previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
        kind, picture, _ = previewer.decode_latent_to_preview_image("JPEG", x0)
        assert kind == "JPEG" and picture.size == (sheet.shape[-1], sheet.shape[-2])
    finally:
        args.preview_method = LatentPreviewMethod.NoPreviews
    fit = vae.rgb_fit()
    assert latent_format.latent_rgb_factors == fit[0] and len(fit[0]) == AE.latent_channels
    assert vae.rgb_fit() is fit
    other = _host_latent.JodiLatent(AE.latent_channels, 8, 16, AE.scaling_factor)
    assert other.latent_rgb_factors is None  # no such VAE is loaded


@torch.inference_mode()
def check_the_fit_brings_colours_back():
    """Fitted on drawn scenes: coarse pictures of other scenes come out in about their colours."""
    from jodi_pack.jodi_core.embedded import AUTOENCODER
    from jodi_pack.kit.scenes.render import render_scenes

    vae = _host_vae.load_vae(AUTOENCODER)
    factors, bias = (torch.tensor(part) for part in vae.rgb_fit())
    scenes = render_scenes(range(90, 92), 64).pictures.flatten(0, 1)
    z = _host.encode_domain(vae, scenes * 2 - 1) * vae.latent_scale
    shown = torch.einsum("nchw,cd->ndhw", z, factors) + bias[:, None, None]
    wanted = F.avg_pool2d(scenes, vae.factor) * 2 - 1
    unexplained = (shown - wanted).var() / wanted.var()
    assert unexplained < 0.25, unexplained


def check_files(folder):
    path = folder / "broken.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with raises(CheckpointError, "broken"):
        _host_vae.load_vae(path)
    with raises(CheckpointError, "broken"):
        _host_load.load_model(path)
