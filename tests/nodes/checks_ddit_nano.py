"""The built-in ddit-nano inside a ComfyUI: its three wires, against the core's own pipeline.

Run by test_nodes.py.
"""

import functools

import comfy.sample
import torch
from jodi_pack.ddit_core.embedded import load_embedded_pipeline
from jodi_pack.ddit_core.model.denoiser import make_published_sigmas
from jodi_pack.ddit_core.text.draft import CAPTION_QUESTION
from jodi_pack.ddit_core.text.sampler import TextOptions
from jodi_pack.jodi_core.embedded import read_samples, stack_samples
from jodi_pack.kit.errors import JodiError, TextError
from jodi_pack.kit.sampling import sample_euler
from jodi_pack.nodes.ddit import loaders as _loaders
from jodi_pack.nodes.ddit.loaders import DDiTLoad
from jodi_pack.nodes.ddit.text import DDiTTextEncode
from jodi_pack.nodes.ddit.words import DDiTAsk, DDiTCaption, DDiTFill
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.nodes import ddit_parts as _parts
from jodi_pack.tests.nodes.parts import raises

import nodes as host_nodes

BUILT_IN = _loaders.BUILT_IN
SETTINGS = {"seed": 5, "steps": 4, "length": 128, "temperature": 0.0, "top_p": 1.0}
SETTINGS |= {"order": "confidence", "whole_picture": False}
OPTIONS = TextOptions(steps=4, temperature=0.0, order="confidence")


@functools.cache
def wires():
    return DDiTLoad.execute(BUILT_IN, BUILT_IN, "none", BUILT_IN, "fp32").args


@functools.cache
def core():
    return load_embedded_pipeline()


@functools.cache
def pictures() -> torch.Tensor:
    """The bundled scenes, (6, 3, 64, 64)."""
    return stack_samples(read_samples(), "image")


@torch.inference_mode()
def check_words_equal_the_core():
    rows = pictures()[:2]
    image = rows.movedim(1, -1)
    captions = DDiTCaption.execute(*wires(), image, "", **SETTINGS).args[0]
    assert captions == list(core().caption(rows, options=OPTIONS, seed=5).texts)
    assert all(captions)
    asked = DDiTCaption.execute(*wires(), image, CAPTION_QUESTION, **SETTINGS).args[0]
    assert asked == list(core().caption(rows, CAPTION_QUESTION, options=OPTIONS, seed=5).texts)
    question = "is there a person"
    answers = DDiTAsk.execute(*wires(), image, question, True, 0, **SETTINGS).args[0]
    assert answers == list(core().ask(rows, question, options=OPTIONS, seed=5).texts)
    text = "a {blank} in a {rest}"
    filled = DDiTFill.execute(*wires(), image, text, 1, **SETTINGS).args[0]
    assert filled == list(core().fill(rows, text, options=OPTIONS, seed=5).texts)


@torch.inference_mode()
def check_ksampler_equals_the_core():
    model, clip, _ = wires()
    positive, negative = (
        DDiTTextEncode.execute(clip, text, 256).args[0] for text in ("a red sofa in a room", "")
    )
    assert positive[0][0].shape[1] == core().length
    empty = torch.zeros(1, 16, 8, 8)  # of EmptySD3LatentImage: the host fits the channels
    made = host_nodes.common_ksampler(
        model, 3, 5, 3.0, "euler", "normal", positive, negative, {"samples": empty}
    )[0]["samples"]
    noise = comfy.sample.prepare_noise(torch.zeros(1, 32, 8, 8), 3)
    sigmas = make_published_sigmas(5)
    pipeline = core()
    text, unguided = (pipeline.encode(torch.tensor([ids])) for ids in _ids("a red sofa in a room"))

    def denoise(x, sigma):
        context = pipeline.transformer.prepare_text(text, unguided, rows=1)
        guided, other = pipeline.transformer.velocities(x, sigma, context)
        return x - sigma * (other + 3.0 * (guided - other))

    expected = pipeline.facts.unscale_latents(sample_euler(denoise, noise, sigmas))
    assert relative_rms(made, expected) < 1e-4


def _ids(prompt: str):
    """Ids of a prompt and of nothing, as the encoder reads them, spelled out."""
    tokenizer, length = core().tokenizer, core().length
    words = list(tokenizer.ids(prompt))
    return [*words, *[1] * (length - len(words))], [1] * length


@torch.inference_mode()
def check_pictures_pass_through_the_vae():
    _, _, vae = wires()
    rows = pictures()[:1]
    decoded = vae.decode(vae.encode(rows.movedim(1, -1)))
    expected = core().vae_decode(core().vae_encode(rows)).clamp(0, 1)
    assert (decoded.movedim(-1, 1) - expected).abs().max() < 2e-3


@torch.inference_mode()
def check_wrong_words_and_parts_say_what_to_do():
    model, clip, vae = wires()
    image = pictures()[:1].movedim(1, -1)
    with raises(TextError, "does not know the word zebra", "it knows:"):
        DDiTAsk.execute(model, clip, vae, image, "is there a zebra", True, 0, **SETTINGS)
    with raises(JodiError, "built-in text encoder"):
        DDiTCaption.execute(model, _parts.clip(), vae, image, "", **SETTINGS)
    with raises(JodiError, "expected the VAE of ddit-nano"):
        DDiTCaption.execute(model, clip, _parts.PooledVAE(), image, "", **SETTINGS)
