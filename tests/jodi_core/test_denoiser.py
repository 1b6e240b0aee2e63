"""Guidance and its masks, and which halves are computed at all."""

import dataclasses

import pytest
import torch
from jodi_pack.jodi_core.model.denoiser import prepare_denoiser
from jodi_pack.jodi_core.text import TextFeatures
from jodi_pack.kit.errors import TextError
from jodi_pack.kit.sampling import make_flow_sigmas
from jodi_pack.tests.helpers import TINY, randn, relative_rms, tiny_transformer

PICTURE, PERCEIVE, CONTROL = (
    (0, 2, 2, 2, 2, 2, 2, 2),
    (1, 2, 2, 0, 2, 2, 0, 2),
    (0, 1, 2, 1, 2, 2, 2, 2),
)
SIGMAS = make_flow_sigmas(4)


@pytest.fixture(scope="module")
def model():
    return tiny_transformer(dtype=torch.float64)


@pytest.fixture
def evaluations(model):
    """Rows that the network evaluates, as the first block gives them on: one for each text."""
    seen = []
    handle = model.blocks[0].register_forward_hook(lambda *call: seen.append(len(call[2])))
    yield seen
    handle.remove()


def features(rows, kept, seed, dtype=torch.float64):
    caption = randn(rows, 1, TINY.caption_length, TINY.caption_channels, seed=seed, dtype=dtype)
    mask = torch.zeros(rows, TINY.caption_length, dtype=torch.long)
    mask[:, :kept] = 1
    return TextFeatures(caption, mask)


def job(model, roles, text, negative=None, *, seed=0, **options):
    shape = (len(roles), 8, TINY.latent_channels, 2, 3)
    clean, x = randn(*shape, seed=seed, dtype=torch.float64), randn(*shape, seed=seed + 1).double()
    role = torch.tensor(roles)
    denoise = prepare_denoiser(model, role, clean, text, negative, sigmas=SIGMAS, **options)
    return denoise, x, clean, role


def velocity(model, role, clean, x, sigma, caption, mask):
    time = torch.full((len(x),), 1000 * sigma, dtype=torch.float64)
    return model(x, time, caption, mask, role, clean)


def test_without_guidance_it_is_x_minus_sigma_velocity(model, evaluations):
    text = features(2, 4, seed=5)
    denoise, x, clean, role = job(model, [PICTURE, CONTROL], text)
    for sigma in SIGMAS[:-1]:
        expected = x - sigma * velocity(model, role, clean, x, sigma, text.caption, text.mask)
        evaluations.clear()
        # velocities are handed on in float32
        assert relative_rms(denoise(x, sigma), expected) < 1e-7
        assert sum(evaluations) == 2  # one for each pattern of roles


@pytest.mark.parametrize("own_mask", [False, True])
@pytest.mark.parametrize("guidance", [4.5, 0.0, -1.0])
def test_guidance_mixes_both_halves(model, evaluations, guidance, own_mask):
    text, negative = features(1, 4, seed=5), features(1, 7, seed=6)
    denoise, x, clean, role = job(
        model, [PICTURE], text, negative, guidance=guidance, own_mask=own_mask
    )
    sigma = SIGMAS[1]
    # As published, the negative text is masked with the prompt's mask, unless asked otherwise.
    mask = negative.mask if own_mask else text.mask
    v_text = velocity(model, role, clean, x, sigma, text.caption, text.mask)
    v_null = velocity(model, role, clean, x, sigma, negative.caption, mask)
    assert relative_rms(v_text, v_null) > 1e-3
    evaluations.clear()
    expected = x - sigma * (v_null + guidance * (v_text - v_null))
    assert relative_rms(denoise(x, sigma), expected) < 1e-6
    assert sum(evaluations) == 2


class TestOneHalfIsEnough:
    def test_with_guidance_one(self, model, evaluations):
        denoise, x, *_ = job(model, [PICTURE], features(1, 4, 5), features(1, 7, 6), guidance=1.0)
        denoise(x, 0.5)
        assert sum(evaluations) == 1

    def test_where_the_image_is_given_in_every_row(self, model, evaluations):
        texts = features(2, 4, 5), features(2, 7, 6)
        guided, x, *_ = job(model, [PERCEIVE, PERCEIVE], *texts, guidance=4.5)
        out = guided(x, 0.5)
        assert sum(evaluations) == 2
        without_text, *_ = job(model, [PERCEIVE, PERCEIVE], None, guidance=4.5)
        assert torch.equal(without_text(x, 0.5), out)

    def test_where_both_texts_are_the_same(self, model, evaluations):
        text = features(1, 4, 5)
        copy = TextFeatures(text.caption.clone(), features(1, 9, 5).mask)
        guided, x, *_ = job(model, [PICTURE], text, copy, guidance=4.5)
        plain, *_ = job(model, [PICTURE], text)
        assert torch.equal(guided(x, 0.5), plain(x, 0.5))
        assert sum(evaluations) == 2
        # with its own mask the same text is another one
        other, *_ = job(model, [PICTURE], text, copy, guidance=4.5, own_mask=True)
        assert relative_rms(other(x, 0.5), plain(x, 0.5)) > 1e-4


def test_mixed_rows_get_what_each_would_get_alone(model):
    text, negative = features(3, 4, 5), features(3, 6, 6)
    roles = [PICTURE, PERCEIVE, CONTROL]
    denoise, x, clean, _ = job(model, roles, text, negative, guidance=3.0)
    together = denoise(x, 0.7)
    for b, role in enumerate(roles):
        rows = slice(b, b + 1)
        alone = prepare_denoiser(
            model, torch.tensor([role]), clean[rows],
            TextFeatures(text.caption[rows], text.mask[rows]),
            TextFeatures(negative.caption[rows], negative.mask[rows]),
            sigmas=SIGMAS, guidance=3.0,
        )  # fmt: skip
        generated = torch.tensor(role) == 0
        assert relative_rms(together[rows][:, generated], alone(x[rows], 0.7)[:, generated]) < 1e-6


@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (1, 2)])
def test_one_text_serves_all_rows(model, rows):
    text, negative = features(2, 4, 5), features(2, 6, 6)
    text.caption[1], negative.caption[1] = text.caption[0], negative.caption[0]
    full, x, *_ = job(model, [PICTURE, CONTROL], text, negative, guidance=3.0)
    cut = [
        TextFeatures(t.caption[:n], t.mask[:n]) for t, n in zip((text, negative), rows, strict=True)
    ]
    short, *_ = job(model, [PICTURE, CONTROL], *cut, guidance=3.0)
    assert relative_rms(short(x, 0.6), full(x, 0.6)) < 1e-6


@pytest.mark.parametrize(
    ("missing", "words"),
    [("text", "no text was given"), ("negative", "needs text and negative text")],
)
def test_guidance_without_both_texts_is_refused(model, missing, words):
    texts = {"text": features(1, 4, 5), "negative": features(1, 4, 6), missing: None}
    with pytest.raises(TextError, match=words):
        job(model, [PICTURE], texts["text"], texts["negative"], guidance=4.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_sample_stays_float32_around_a_half_precision_network(dtype):
    model = tiny_transformer(dtype=dtype)
    text, negative = (features(1, 4, s, torch.float32) for s in (5, 6))
    role = torch.tensor([CONTROL])
    clean, x = (randn(1, 8, TINY.latent_channels, 2, 3, seed=s) for s in (0, 1))
    options = {"sigmas": SIGMAS, "guidance": 2.0}
    out = prepare_denoiser(model, role, clean, text, negative, **options)(x, SIGMAS[2])
    exact = tiny_transformer(dtype=torch.float64)
    expected = prepare_denoiser(
        exact, role, clean.double(), text, negative, **options
    )(x.double(), SIGMAS[2])  # fmt: skip
    assert out.dtype == torch.float32
    assert relative_rms(out[:, 0], expected[:, 0]) < 0.02


def test_rounding_of_time_is_passed_on(model):
    text = features(1, 4, 5)
    exact, x, *_ = job(model, [PICTURE], text)
    rounded, *_ = job(model, [PICTURE], text, round_timestep=True)
    assert not torch.equal(exact(x, SIGMAS[1]), rounded(x, SIGMAS[1]))


def test_three_domains_and_patches_of_two():
    config = dataclasses.replace(TINY, num_labels=2, patch_size=2)
    model = tiny_transformer(config)
    text = TextFeatures(randn(1, 1, 10, 24), torch.ones(1, 10))
    clean, x = randn(1, 3, 5, 4, 6), randn(1, 3, 5, 4, 6, seed=1)
    role = torch.tensor([[0, 1, 2]])
    denoise = prepare_denoiser(model, role, clean, text, None, sigmas=SIGMAS)
    expected = model(x, torch.tensor([500.0]), text.caption, text.mask, role, clean)
    assert relative_rms(denoise(x, 0.5), x - 0.5 * expected) < 1e-6
