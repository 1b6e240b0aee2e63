"""D-DiT inside a ComfyUI: KSampler samples the MODEL, and words come out of pictures.

Small random weights of the real key names; the tokenizer is T5's own. Run by test_nodes.py.
"""

import contextlib
import sys
import types

import comfy.model_management
import comfy.sample
import torch
from jodi_pack.ddit_core.model.denoiser import make_published_sigmas, prepare_denoiser
from jodi_pack.ddit_core.model.facts import RELEASED
from jodi_pack.ddit_core.pipeline import DDiTPipeline
from jodi_pack.ddit_core.text.answers import read_count, says_yes
from jodi_pack.ddit_core.text.draft import CAPTION_QUESTION
from jodi_pack.ddit_core.text.sampler import TextOptions
from jodi_pack.kit.errors import JodiError, ShapeError, TextError
from jodi_pack.kit.sampling import sample_euler
from jodi_pack.nodes.ddit.text import DDiTTextEncode
from jodi_pack.nodes.ddit.words import DDiTAsk, DDiTCaption, DDiTFill
from jodi_pack.nodes.host import ddit_text as _host_text
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.nodes import ddit_parts as _parts
from jodi_pack.tests.nodes.parts import image, raises

import nodes as host_nodes

SETTINGS = {"seed": 5, "steps": 4, "length": 48, "temperature": 1.0, "top_p": 1.0}
SETTINGS |= {"order": "random", "whole_picture": False}
VAE = _parts.PooledVAE()
PROMPTS = ("a (red:1.3) bus, embedding:foo, on [a] bridge", "two dogs", "")


def wires(masked: bool = True):
    return _parts.model(), _parts.clip(masked), VAE


def prompt(text: str, length: int = 40) -> list:
    return DDiTTextEncode.execute(_parts.clip(), text, length).args[0]


def sample(latent, positive, negative, *, seed=3, steps=5, cfg=7.0, model=None):
    model = _parts.model() if model is None else model
    return host_nodes.common_ksampler(
        model, seed, steps, cfg, "euler", "normal", positive, negative, {"samples": latent}
    )[0]["samples"]


def core_sample(latent, positive, negative, *, seed=3, steps=5, cfg=7.0):
    """The published sampler of the core, from the same noise."""
    sigmas = make_published_sigmas(steps)
    noise = comfy.sample.prepare_noise(latent, seed)
    denoise = prepare_denoiser(
        _parts.network(),
        positive[0][0],
        negative[0][0],
        rows=len(latent),
        sigmas=sigmas,
        guidance=cfg,
    )
    return RELEASED.unscale_latents(sample_euler(denoise, noise, sigmas))


@torch.inference_mode()
def check_ksampler_equals_the_core():
    positive, negative = prompt("a red bus on a bridge"), prompt("")
    for rows, height, width in ((1, 8, 8), (2, 12, 6)):
        latent = torch.zeros(rows, 16, height, width)
        ours = sample(latent, positive, negative)
        assert relative_rms(ours, core_sample(latent, positive, negative)) < 1e-4
    # Guidance 1 evaluates the prompt alone, as published.
    latent = torch.zeros(1, 16, 8, 8)
    ours = sample(latent, positive, negative, cfg=1.0)
    assert relative_rms(ours, core_sample(latent, positive, negative, cfg=1.0)) < 1e-4


@torch.inference_mode()
def check_texts_of_other_lengths_are_not_repeated():
    """The host repeats tokens to a common length, which this network would read as another text."""
    positive, negative = prompt("a red bus", 40), prompt("", 24)
    latent = torch.zeros(1, 16, 8, 8)
    sigmas = make_published_sigmas(2)
    noise = comfy.sample.prepare_noise(latent, 3)
    parts = [
        prepare_denoiser(_parts.network(), text[0][0], None, rows=1, sigmas=sigmas, guidance=1.0)
        for text in (positive, negative)
    ]

    def denoise(x, sigma):
        guided, other = (part(x, sigma) for part in parts)
        return other + 4.0 * (guided - other)

    expected = RELEASED.unscale_latents(sample_euler(denoise, noise, sigmas))
    ours = sample(latent, positive, negative, steps=2, cfg=4.0)
    assert relative_rms(ours, expected) < 1e-4


@torch.inference_mode()
def check_the_text_encoder_equals_transformers():
    clip = _parts.clip()
    for text in PROMPTS:
        ((features, _),) = DDiTTextEncode.execute(clip, text, 40).args[0]
        ids = clip.tokenizer.words.ids(text) if text else []
        padded = torch.tensor([[*ids, *[1] * (40 - len(ids))]])
        expected = _parts.t5_features(padded)
        assert features.shape == (1, 40, _parts.WIDTH) and features.dtype == torch.float32
        assert relative_rms(features, expected) < bound(), (text, relative_rms(features, expected))
    # Masked places are the mask vector's, not the row of the file.
    masked = torch.tensor([[10, 32099, 20, 32099, *[1] * 36]])
    ours = clip.cond_stage_model.encode(masked).float()
    assert relative_rms(ours, _parts.t5_features(masked)) < bound()
    stock = _parts.random_t5()(input_ids=masked).last_hidden_state
    assert relative_rms(ours, stock) > 0.05
    # The host's own node reads the same, at the published length.
    tokens = clip.tokenize("two dogs")
    ((features, _),) = clip.clone().encode_from_tokens_scheduled(tokens)
    assert torch.equal(features, DDiTTextEncode.execute(clip, "two dogs", 256).args[0][0][0])


@torch.inference_mode()
def check_the_text_encoder_works_in_bfloat16():
    """As on most GPUs: close to float32, and not the same."""
    ids = torch.tensor([[10, 32099, 20, 32099, *[1] * 36]])
    exact, arithmetic = _parts.t5_features(ids), _host_text.arithmetic
    _host_text.arithmetic = lambda device: torch.bfloat16
    try:
        features = _parts.clip().cond_stage_model.encode(ids)
    finally:
        _host_text.arithmetic = arithmetic
    assert features.dtype == torch.bfloat16
    assert 1e-5 < relative_rms(features.float(), exact) < 0.03


def bound() -> float:
    """Of the difference to float32, by what the encoder computes in on this machine."""
    device = _parts.clip().patcher.load_device
    return 1e-5 if _host_text.arithmetic(device) == torch.float32 else 0.03


def core_pipeline(vae=VAE):
    def vae_encode(pictures):
        return vae.encode(pictures.movedim(1, -1)).float()

    return DDiTPipeline(
        _parts.network(),
        _parts.t5_features,
        _host_text.ddit_tokenizer(_parts.clip()),
        vae_encode=vae_encode,
        length=SETTINGS["length"],
    )


@torch.inference_mode()
def check_words_equal_the_core():
    pictures = image(2, 64, 64)
    core = core_pipeline()
    options = {"options": TextOptions(steps=4), "seed": 5}
    planes = pictures.movedim(-1, 1)
    captions = DDiTCaption.execute(*wires(), pictures, CAPTION_QUESTION, **SETTINGS).args[0]
    assert captions == list(core.caption(planes, CAPTION_QUESTION, **options).texts)
    free = DDiTCaption.execute(*wires(), pictures, "  ", **SETTINGS).args[0]
    assert free == list(core.caption(planes, **options).texts)
    question = "How many people are there?"
    answers, yes, counts = DDiTAsk.execute(*wires(), pictures, question, True, 6, **SETTINGS).args
    assert answers == list(core.ask(planes, question, answer_tokens=6, **options).texts)
    assert yes == [says_yes(a) for a in answers]
    assert counts == [-1 if read_count(a) is None else read_count(a) for a in answers]
    assert all(isinstance(v, bool) for v in yes) and all(isinstance(v, int) for v in counts)
    filled = DDiTFill.execute(*wires(), pictures, "a {blank} dog", 2, **SETTINGS).args[0]
    assert filled == list(core.fill(planes, "a {blank} dog", blank_tokens=2, **options).texts)
    assert len(set(captions)) == 2 and all(captions)


@torch.inference_mode()
def check_locked_words_are_kept():
    text = "A  {blank} on a {blank:2} table,\nnear {blank}!"
    for order in ("random", "confidence"):
        settings = {**SETTINGS, "order": order}
        (filled,) = DDiTFill.execute(*wires(), image(1, 64, 64), text, 1, **settings).args[0]
        rest = filled
        for words in ("A  ", " on a ", " table,\nnear ", "!"):
            assert words in rest, (words, filled)
            rest = rest.split(words, 1)[1]
        assert filled.startswith("A  ") and filled.endswith("!") and "{" not in filled


@torch.inference_mode()
def check_a_row_of_a_batch_is_the_picture_alone():
    pictures = torch.cat([image(1, 64, 64, seed=s) for s in range(9)])  # two parts
    batch = DDiTAsk.execute(*wires(), pictures, "What is this?", True, 5, **SETTINGS).args[0]
    assert len(batch) == 9
    alone = DDiTAsk.execute(
        *wires(), pictures[8:], "What is this?", True, 5, **{**SETTINGS, "seed": 5 + 8}
    ).args[0]
    assert alone == batch[8:]


@torch.inference_mode()
def check_the_middle_of_a_picture_is_seen():
    wide = image(1, 64, 96)
    settings = {**SETTINGS, "order": "confidence", "temperature": 0.0}
    middle = DDiTCaption.execute(*wires(), wide, "", **settings).args[0]
    # The middle of the picture at the network's own size, cut out here.
    resized = torch.nn.functional.interpolate(
        wide.movedim(-1, 1), (512, 768), mode="bicubic", antialias=True
    ).clamp(0, 1)
    square = resized[..., 128:640].movedim(1, -1)
    assert middle == DDiTCaption.execute(*wires(), square, "", **settings).args[0]
    whole = DDiTCaption.execute(
        *wires(), image(1, 64, 80), "", **{**settings, "whole_picture": True}
    ).args[0]
    assert len(whole) == 1


@torch.inference_mode()
def check_the_host_s_vae_reads_the_picture():
    picture, vae = image(1, 64, 64), _parts.vae()
    expected = core_pipeline(vae).caption(
        picture.movedim(-1, 1), options=TextOptions(steps=2), seed=5
    )
    settings = {**SETTINGS, "steps": 2}
    caption = DDiTCaption.execute(_parts.model(), _parts.clip(), vae, picture, "", **settings)
    assert caption.args[0] == list(expected.texts)


@contextlib.contextmanager
def page(receive):
    """What the host's server is for a node: a receiver of progress texts."""
    server = types.ModuleType("server")
    server.PromptServer = types.SimpleNamespace(
        instance=types.SimpleNamespace(send_progress_text=receive)
    )
    before = sys.modules.get("server")
    sys.modules["server"] = server
    try:
        yield
    finally:
        sys.modules.pop("server")
        if before is not None:
            sys.modules["server"] = before


class _Caption(DDiTCaption):
    hidden = types.SimpleNamespace(unique_id="12")


@torch.inference_mode()
def check_the_sentence_shows_while_it_is_revealed():
    seen = []
    with page(lambda text, node: seen.append((text, node))):
        (caption,) = _Caption.execute(*wires(), image(1, 64, 64), "", **SETTINGS).args[0]
    texts = [text for text, _ in seen]
    assert {node for _, node in seen} == {"12"}
    assert len(texts) > 2 and texts[-1] == caption
    assert "_" in texts[0] and texts[0] != texts[-1]
    seen.clear()
    with page(lambda text, node: seen.append(text)):
        captions = _Caption.execute(*wires(), image(2, 64, 64), "", **SETTINGS).args[0]
    assert seen[-1] == f"1/2: {captions[0]}\n2/2: {captions[1]}"


@torch.inference_mode()
def check_cancel_stops_between_steps():
    seen = []

    def receive(text, node):
        seen.append(text)
        comfy.model_management.interrupt_current_processing(True)

    try:
        with page(receive), raises(comfy.model_management.InterruptProcessingException):
            _Caption.execute(*wires(), image(1, 64, 64), "", **SETTINGS)
        assert len(seen) == 1
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert DDiTCaption.execute(*wires(), image(1, 64, 64), "", **SETTINGS).args[0][0]


@torch.inference_mode()
def check_both_models_are_requested_together_once():
    model, clip, _ = wires()
    asked, load = [], comfy.model_management.load_models_gpu

    def counted(models, *args, **kwargs):
        asked.append(list(models))
        return load(models, *args, **kwargs)

    comfy.model_management.load_models_gpu = counted
    try:
        DDiTCaption.execute(model, clip, _parts.vae(), image(1, 64, 64), "", **SETTINGS)
    finally:
        comfy.model_management.load_models_gpu = load
    big = [models for models in asked if model in models or clip.patcher in models]
    assert big == [[model, clip.patcher]]


@torch.inference_mode()
def check_lora_reaches_pictures_and_words():
    lora = {}
    for name in ("attn.to_q", "attn.add_v_proj", "ff_context.net.0.proj"):
        key = f"diffusion_model.transformer_blocks.0.{name}"
        rows, columns = _parts.network().get_submodule(key.split(".", 1)[1]).weight.shape
        lora[f"{key}.lora_up.weight"] = randn(rows, 4, seed=1)
        lora[f"{key}.lora_down.weight"] = randn(4, columns, seed=2)
    changed, _ = comfy.sd.load_lora_for_models(_parts.model(), None, lora, 1.0, 0.0)
    latent, words = torch.zeros(1, 16, 8, 8), (prompt("a bus"), prompt(""))
    before = sample(latent, *words)
    assert relative_rms(sample(latent, *words, model=changed), before) > 1e-2
    _, clip, vae = wires()
    texts = [
        DDiTCaption.execute(m, clip, vae, image(1, 64, 64), "", **SETTINGS).args[0]
        for m in (_parts.model(), changed, _parts.model())
    ]
    assert texts[0] != texts[1] and texts[0] == texts[2]
    assert torch.equal(sample(latent, *words), before)


@torch.inference_mode()
def check_wrong_wires_and_words_say_what_to_do():
    model, clip, vae = wires()
    picture = image(1, 64, 64)

    def ask(question, **changes):
        settings = {**SETTINGS, **changes}
        return DDiTAsk.execute(model, clip, vae, picture, question, True, 0, **settings)

    with raises(JodiError, "mask vector", "mask_token_emb.00-of-01.pth"):
        DDiTCaption.execute(*wires(masked=False), picture, "", **SETTINGS)
    assert (
        sample(  # and pictures need none
            torch.zeros(1, 16, 4, 4),
            *[DDiTTextEncode.execute(_parts.clip(False), "", 40).args[0]] * 2,
        )
        .isfinite()
        .all()
    )
    with raises(TextError, "the question is empty"):
        ask(" \n ")
    with raises(TextError, "60 tokens, where 25 fit", "Shorten it by 35"):
        ask("why " * 60)
    with raises(TextError, "no token for: ~ {"):
        ask("what is ~ {this?")
    with raises(TextError, "the model's own marks"):
        ask("what is <extra_id_0>?")
    with raises(TextError, "the prompt is too long", "39 and an end token fit"):
        prompt("bus " * 40)
    with raises(TextError, "nothing to fill in"):
        DDiTFill.execute(model, clip, vae, picture, "a table", 1, **SETTINGS)
    with raises(JodiError, "expected a D-DiT MODEL", "Load D-DiT"):
        DDiTCaption.execute(object(), clip, vae, picture, "", **SETTINGS)
    with raises(JodiError, "another model", "Load D-DiT"):
        DDiTCaption.execute(model, object(), vae, picture, "", **SETTINGS)
    with raises(JodiError, "D-DiT Text Encode"):
        clip.tokenize("a bus")["l"]
    text = prompt("a bus")
    with raises(ShapeError, "EmptySD3LatentImage"):
        sample(torch.zeros(1, 16, 3, 8, 8), text, text)
    with raises(ShapeError, "multiple of the patch size", "multiples of 16"):
        sample(torch.zeros(1, 16, 7, 8), text, text)
    with raises(TextError, "D-DiT Text Encode"):
        other = [[torch.zeros(1, 77, 768), {"pooled_output": None}]]
        sample(torch.zeros(1, 16, 8, 8), other, text)
