"""What people wire wrongly, type and connect around D-DiT: a clear sentence, or stated behaviour.

Run by test_nodes.py inside a ComfyUI, on the small random weights of `ddit_parts`.
"""

import comfy.samplers
import torch
from jodi_pack.kit.errors import ImageError, JodiError, ShapeError, TextError
from jodi_pack.nodes.ddit.text import DDiTTextEncode
from jodi_pack.nodes.ddit.words import DDiTAsk, DDiTCaption, DDiTFill
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.nodes import ddit_parts as _parts
from jodi_pack.tests.nodes.parts import image, parts, raises, text

import nodes as host_nodes

SETTINGS = {"seed": 5, "steps": 2, "length": 48, "temperature": 1.0, "top_p": 1.0}
SETTINGS |= {"order": "random", "whole_picture": False}
VAE = _parts.PooledVAE()
JODI_MODEL, JODI_VAE, _ = parts()


def prompt(words: str, length: int = 40) -> list:
    return DDiTTextEncode.execute(_parts.clip(), words, length).args[0]


POSITIVE, NEGATIVE = prompt("a red bus"), prompt("")


def sample(
    positive=POSITIVE, negative=NEGATIVE, size=(8, 8), *, cfg=3.0, sampler="euler", **latent
):
    latent = {"samples": torch.zeros(1, 16, *size), **latent}
    scheme = (3, 2, cfg, sampler, "normal", positive, negative, latent)
    made = host_nodes.KSampler().sample(_parts.model(), *scheme)[0]["samples"]
    assert made.isfinite().all() and made.std() > 0.01
    return made


def caption(picture, model=None, clip=None, vae=None, question="", **changes) -> list[str]:
    wires = model or _parts.model(), clip or _parts.clip(), vae or VAE, picture
    return DDiTCaption.execute(*wires, question, **{**SETTINGS, **changes}).args[0]


def fill(template: str, blank_tokens: int = 1) -> str:
    wires = _parts.model(), _parts.clip(), VAE, image(1, 64, 64)
    return DDiTFill.execute(*wires, template, blank_tokens, **SETTINGS).args[0][0]


def ask(question: str, answer_tokens: int = 0):
    wires = _parts.model(), _parts.clip(), VAE, image(1, 64, 64)
    return DDiTAsk.execute(*wires, question, True, answer_tokens, **SETTINGS).args[0][0]


@torch.inference_mode()
def check_pictures_of_every_kind():
    for shape in ((1, 64, 64, 1), (1, 64, 64, 4), (1, 1, 1, 3), (1, 3, 500, 3)):
        assert caption(torch.rand(shape))[0]
    for shape in ((0, 64, 64, 3), (64, 64, 3), (1, 64, 64, 2)):
        with raises(ImageError, "image: "):
            caption(torch.zeros(shape))
    broken = image(1, 64, 64)
    broken[0, 3, 3, 0] = torch.nan
    with raises(ImageError, "not finite"):
        caption(broken)
    with raises(ImageError, "too long and thin", "whole_picture"):
        caption(torch.rand(1, 4, 300, 3), whole_picture=True)
    bright = image(1, 512, 512)
    assert caption(bright * 3 - 1) == caption((bright * 3 - 1).clamp(0, 1))


@torch.inference_mode()
def check_wires_of_other_models():
    picture = image(1, 64, 64)
    with raises(JodiError, "expected a D-DiT MODEL", "Load D-DiT"):
        caption(picture, model=JODI_MODEL)
    with raises(JodiError, "VAE of Stable Diffusion 3", "Load D-DiT"):
        caption(picture, vae=JODI_VAE)

    class Four:
        def encode(self, pixels):
            return torch.zeros(1, 4, 64, 64)

    with raises(JodiError, "VAE of Stable Diffusion 3", "(4, 64, 64)"):
        caption(picture, vae=Four())
    with raises(TextError, "D-DiT reads text of shape", "D-DiT Text Encode"):
        sample(positive=text())
    with raises(TextError, "D-DiT Text Encode"):
        sample(negative=[[None, {}]])
    empty = {"samples": torch.zeros(1, 16, 8, 8)}
    with raises(JodiError, "Jodi"):
        host_nodes.KSampler().sample(
            JODI_MODEL, 3, 2, 3.0, "euler", "normal", POSITIVE, NEGATIVE, empty
        )


@torch.inference_mode()
def check_latents_of_every_kind():
    sample(size=(2, 2))
    sample(size=(4, 40))
    sample(samples=torch.zeros(1, 4, 8, 8))  # EmptyLatentImage; the host makes 16 channels of it
    with raises(ShapeError, "EmptySD3LatentImage"):
        sample(samples=randn(1, 4, 8, 8))  # a picture of another VAE
    for size in ((1, 1), (7, 8)):
        with raises(ShapeError, "multiples of 16"):
            sample(size=size)
    with raises(ShapeError, "larger than the model's table of positions", "smaller picture"):
        sample(size=(100, 4))
    batch = sample(samples=torch.zeros(3, 16, 8, 8))
    assert not torch.equal(batch[0], batch[1])


@torch.inference_mode()
def check_conditioning_of_every_kind():
    other = prompt("two dogs on grass")
    node = host_nodes
    half = (32, 64, 32, 0, 1.0)  # width, height, x, y, strength
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    changed = {
        "combine": node.ConditioningCombine().combine(POSITIVE, other)[0],
        "concat": node.ConditioningConcat().concat(POSITIVE, other)[0],
        "average": node.ConditioningAverage().addWeighted(POSITIVE, other, 0.5)[0],
        "zero": node.ConditioningZeroOut().zero_out(POSITIVE)[0],
        "range": node.ConditioningSetTimestepRange().set_range(POSITIVE, 0.0, 0.5)[0]
        + node.ConditioningSetTimestepRange().set_range(other, 0.5, 1.0)[0],
        "area": POSITIVE + node.ConditioningSetArea().append(other, *half)[0],
        "mask": node.ConditioningSetMask().append(POSITIVE, mask, "default", 1.0)[0] + other,
        "long": prompt("a red bus", 200),
    }
    made = {name: sample(positive=entry) for name, entry in changed.items()}
    plain = sample()
    assert all(not torch.equal(picture, plain) for picture in made.values())
    for cfg in (0.0, 1.0, 30.0, -2.0):
        sample(cfg=cfg)


@torch.inference_mode()
def check_every_sampler_of_the_host_runs():
    for name in comfy.samplers.KSampler.SAMPLERS:
        sample(sampler=name)


@torch.inference_mode()
def check_words_that_cannot_be():
    for question, part in {
        "\n\t ": "the question is empty",
        "\U0001f600?": "no token for: \U0001f600",
        "a</s>b": "the model's own marks",
        "what is {this}": "Blanks of D-DiT Fill",
        "x" * 20000: "the question is too long",
    }.items():
        with raises(TextError, part):
            ask(question)
    with raises(TextError, "tokens, where", "ask for a shorter answer"):
        ask("what is this?", 512)
    for template, part in {
        "": "nothing to fill in",
        "a {blanc} table": "nothing to fill in",
        "a {blanc} {blank} table": "no token for: { }",
        "a {blank:999999999999}": "for 48 at most",
        "{blank}" * 60: "the text is too long",
        "{rest} and more": "nothing may come behind",
        "a {blank:-3} {blank}": "no token for",
        "{blank} \\n": "no token for: \\",
    }.items():
        with raises(TextError, part):
            fill(template)
    assert fill("{blank}") and fill("{rest}") is not None
    assert fill("{blank}{blank}.").endswith(".") and fill("Tee  {blank}").startswith("Tee  ")
    with raises(TextError, "the question is too long"):
        caption(image(1, 64, 64), question="describe " * 60)


@torch.inference_mode()
def check_settings_at_their_ends():
    picture = image(1, 64, 64)
    ends = (
        {"seed": 2**64 - 1},
        {"steps": 512},
        {"steps": 1, "length": 512},
        {"temperature": 10.0},
        {"temperature": 0.0, "order": "confidence", "steps": 1},
        {"top_p": 0.01},
        {"length": 16},
    )
    for changes in ends:
        first = caption(picture, **changes)
        assert isinstance(first[0], str) and first == caption(picture, **changes), changes
    with raises(TextError, "where 0 fit"):
        DDiTAsk.execute(
            *(_parts.model(), _parts.clip(), VAE, picture, "Is it red?", True, 0),
            **{**SETTINGS, "length": 16},
        )
