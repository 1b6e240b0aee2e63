"""Approximate extras: exact where they say so, saving what they count, refused elsewhere."""

import dataclasses
import json
import math

import pytest
import torch
from jodi_pack.jodi_core.approximate.fp8 import Fp8Linear, approximate_fp8, quantise_rows
from jodi_pack.jodi_core.approximate.step_cache import StepCache, relative_change
from jodi_pack.jodi_core.evaluation.evaluate import evaluate
from jodi_pack.jodi_core.model.denoiser import prepare_denoiser
from jodi_pack.jodi_core.text import TextFeatures
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.sampling import flow_sigmas
from jodi_pack.tests.helpers import (
    TINY,
    randn,
    random_picture,
    relative_rms,
    tiny_pipeline,
    tiny_transformer,
)

CONFIG = dataclasses.replace(TINY, depth=4)
PERCEIVE, CONTROL, PICTURE = (1, 2, 2, 0, 2, 2, 0, 2), (0, 1, 2, 1, 2, 2, 2, 2), (0,) + (2,) * 7
STEPS = 5
SIGMAS = flow_sigmas(STEPS)
ALWAYS = 1e9  # above every change: all steps but the first and the last are approximated


@pytest.fixture(scope="module")
def model():
    return tiny_transformer(CONFIG)


@pytest.fixture
def later_rows(model):
    """Rows that each block after the first computes, in order."""
    seen = []
    handles = [
        block.register_forward_hook(lambda *call: seen.append(len(call[2])))
        for block in model.blocks[1:]
    ]
    yield seen
    for handle in handles:
        handle.remove()


def features(rows, seed):
    caption = randn(rows, 1, TINY.caption_length, TINY.caption_channels, seed=seed)
    mask = torch.ones(rows, TINY.caption_length, dtype=torch.long)
    return TextFeatures(caption, mask)


def pick(text, rows):
    return TextFeatures(text.caption[rows], text.mask[rows])


@torch.no_grad()
def run(model, roles, cache, *, jumps=(), guidance=1.0, rows=None, sigmas=SIGMAS):
    """The clean estimates of a job whose sample moves a little from step to step.

    jumps: rows that move far at the third step. rows: run only these of the batch.
    """
    rows = list(range(len(roles))) if rows is None else rows
    shape = (len(roles), 8, CONFIG.latent_channels, 2, 3)
    clean, x, nudge = (randn(*shape, seed=s)[rows] for s in (1, 2, 3))
    text, negative = (pick(features(len(roles), s), rows) for s in (4, 5))
    denoise = prepare_denoiser(
        model,
        torch.tensor(roles)[rows],
        clean,
        text,
        negative,
        sigmas=list(sigmas),
        guidance=guidance,
        step_cache=cache,
    )
    far = torch.tensor([row in jumps for row in rows]).view(-1, 1, 1, 1, 1)
    made = []
    for step, sigma in enumerate(sigmas[:-1]):
        here = torch.where(far & (step == 2), -3 * x, x + 0.01 * step * nudge)
        made.append(denoise(here, sigma))
    return torch.stack(made)


JOBS = [([PERCEIVE], 1.0), ([CONTROL, PICTURE], 4.5), ([PICTURE] * 3, 4.5)]


class TestStepCache:
    @pytest.mark.parametrize(("roles", "guidance"), JOBS)
    def test_threshold_zero_is_exact_bit_for_bit(self, model, roles, guidance):
        cache = StepCache(0)
        exact = run(model, roles, None, guidance=guidance)
        assert torch.equal(run(model, roles, cache, guidance=guidance), exact)
        assert cache.saved == 0 and cache.evaluations == STEPS * len(roles)

    @pytest.mark.parametrize(("roles", "guidance"), JOBS)
    def test_saves_the_blocks_it_counts(self, model, later_rows, roles, guidance):
        halves = 1 if guidance == 1 else 2
        cache = StepCache(ALWAYS)
        made = run(model, roles, cache, guidance=guidance)
        # 3 blocks after the first, computed at the first and the last step only
        assert sum(later_rows) == 2 * 3 * halves * len(roles)
        assert cache.evaluations == STEPS * len(roles)
        assert cache.saved == (STEPS - 2) * len(roles)
        exact = run(model, roles, None, guidance=guidance)
        assert torch.equal(made[0], exact[0]) and torch.equal(made[-1], exact[-1])
        assert not torch.equal(made[1], exact[1])

    def test_an_approximated_step_adds_what_the_later_blocks_added(self, model):
        """At an unchanged sample and level nothing has changed, so nothing may be lost."""
        still = [0.5, 0.5, 0.5, 0.5, 0.0]
        cache = StepCache(1e-6)
        clean, x = (randn(1, 8, CONFIG.latent_channels, 2, 3, seed=s) for s in (1, 2))
        role, text = torch.tensor([CONTROL]), features(1, 4)
        with torch.no_grad():
            denoise = prepare_denoiser(
                model, role, clean, text, features(1, 5), sigmas=still, guidance=4.5,
                step_cache=cache,
            )  # fmt: skip
            made = [denoise(x, s) for s in still[:-1]]
        assert cache.saved == 2
        assert all(relative_rms(m, made[0]) < 1e-5 for m in made)

    @pytest.mark.parametrize("guidance", [1.0, 4.5])
    def test_each_row_decides_for_itself(self, model, later_rows, guidance):
        roles, halves = [PICTURE] * 3, 1 if guidance == 1 else 2
        cache = StepCache(0.5)
        together = run(model, roles, cache, jumps=(1,), guidance=guidance)
        assert cache.saved == 3 * (STEPS - 2) - 2  # row 1 is computed as it jumps, and back again
        assert halves in later_rows  # that row alone, in both its halves
        for row in range(3):
            alone = run(model, roles, StepCache(0.5), jumps=(1,), guidance=guidance, rows=[row])
            assert relative_rms(together[:, row], alone[:, 0]) < 1e-5

    def test_guidance_halves_do_not_mix(self, model):
        """Guidance 0 shows the half without the prompt, alone."""
        mixed = run(model, [PICTURE], StepCache(ALWAYS), guidance=0.0)
        roles, shape = [PICTURE], (1, 8, CONFIG.latent_channels, 2, 3)
        x, nudge = randn(*shape, seed=2), randn(*shape, seed=3)
        with torch.no_grad():
            denoise = prepare_denoiser(
                model, torch.tensor(roles), randn(*shape, seed=1), features(1, 5), None,
                sigmas=SIGMAS, step_cache=StepCache(ALWAYS),
            )  # fmt: skip
            alone = [denoise(x + 0.01 * i * nudge, s) for i, s in enumerate(SIGMAS[:-1])]
        assert relative_rms(mixed, torch.stack(alone)) < 1e-5

    def test_jobs_do_not_mix(self, model):
        cache = StepCache(ALWAYS)
        fresh = run(model, [CONTROL], cache, guidance=4.5)
        run(model, [PICTURE] * 2, cache, jumps=(0, 1), guidance=2.0)
        assert torch.equal(run(model, [CONTROL], cache, guidance=4.5), fresh)
        assert cache.saved == STEPS - 2 and cache.evaluations == STEPS

    def test_a_broken_sample_is_computed_and_stays_visible(self, model, later_rows):
        x = torch.full((1, 8, CONFIG.latent_channels, 2, 3), math.nan)
        with torch.no_grad():
            denoise = prepare_denoiser(
                model, torch.tensor([PICTURE]), x, features(1, 4), None, sigmas=SIGMAS,
                step_cache=StepCache(ALWAYS),
            )  # fmt: skip
            assert all(denoise(x, s).isnan().any() for s in SIGMAS[:-1])
        assert len(later_rows) == 3 * STEPS

    @pytest.mark.parametrize("threshold", [-0.1, math.nan, math.inf])
    def test_refuses_thresholds_that_are_none(self, threshold):
        with pytest.raises(JodiError, match="threshold of the approximate step cache"):
            StepCache(threshold)

    def test_relative_change(self):
        before = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])
        now = torch.tensor([[[3.0, 4.5]], [[1.0, 2.0]]])
        assert torch.allclose(relative_change(now, before), torch.tensor([0.1, 2.0]))


def nearest_e4m3(x: float) -> float:
    """The closest value of 1 sign, 4 exponent (bias 7) and 3 fraction bits, ties to even."""
    magnitude = abs(x)
    if magnitude == 0:
        return 0.0
    exponent = max(math.frexp(magnitude)[1] - 1, -6)
    unit = 2.0 ** (exponent - 3)
    return math.copysign(min(round(magnitude / unit) * unit, 448.0), x)


def oracle_rows(x):
    """Rows of a matrix through eight bits and back, in float64, one number at a time."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for i, row in enumerate(x.float()):
        # float32, as specified: a tie is a tie only at the digits that the division left
        scale = row.abs().max() / 448 if row.any() else torch.tensor(1.0)
        for j, value in enumerate((row / scale).tolist()):
            out[i, j] = nearest_e4m3(value) * float(scale)
    return out


class TestFp8:
    def test_rows_are_the_nearest_values(self):
        x = randn(7, 40, seed=1) * torch.logspace(-6, 6, 7)[:, None]
        x[3] = 0
        quantised, scale = quantise_rows(x)
        assert quantised.dtype == torch.float8_e4m3fn and scale.shape == (7, 1)
        assert torch.equal(quantised.double() * scale.double(), oracle_rows(x))
        assert float(quantised.float().abs().max()) == 448

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("bias", [True, False])
    def test_product(self, dtype, bias):
        layer = torch.nn.Linear(24, 40, bias=bias).to(dtype)
        x = randn(2, 3, 5, 24, seed=2).to(dtype)
        ours = Fp8Linear(layer, emulate=True)(x)
        expected = oracle_rows(x.reshape(-1, 24)) @ oracle_rows(layer.weight.detach()).T
        if bias:
            expected = expected + layer.bias.detach().double()
        assert ours.dtype == dtype and ours.shape == (2, 3, 5, 40)
        tolerance = 1e-6 if dtype == torch.float32 else 3e-3
        assert relative_rms(ours.reshape(-1, 40), expected) < tolerance

    def test_replaces_the_large_layers_and_no_others(self):
        model = tiny_transformer()
        before = {name: type(m) for name, m in model.named_modules()}
        assert approximate_fp8(model, emulate=True) == 6 * TINY.depth
        changed = {n for n, m in model.named_modules() if type(m) is not before.get(n)}
        layers = "attn.qkv attn.proj cross_attn.q_linear cross_attn.proj mlp.inverted_conv.conv "
        layers += "mlp.point_conv.conv"
        expected = {f"blocks.{i}.{layer}" for i in range(TINY.depth) for layer in layers.split()}
        assert changed == expected

    @pytest.mark.parametrize("roles", [PERCEIVE, CONTROL])
    def test_a_whole_network_stays_near(self, roles):
        exact, eight = tiny_transformer(CONFIG), tiny_transformer(CONFIG)
        approximate_fp8(eight, emulate=True)
        drift = relative_rms(run(eight, [roles], None), run(exact, [roles], None))
        assert 1e-4 < drift < 0.2  # two roundings of 2^-4 in each product, not a broken scale

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_refuses_what_cannot_multiply_it(self, device):
        model = tiny_transformer().to(device)
        with pytest.raises(JodiError, match=r"needs a CUDA card of compute capability 8\.9"):
            approximate_fp8(model)
        assert not any(isinstance(m, Fp8Linear) for m in model.modules())

    def test_refuses_a_second_time(self):
        model = tiny_transformer()
        approximate_fp8(model, emulate=True)
        with pytest.raises(JodiError, match="already"):
            approximate_fp8(model, emulate=True)

    @pytest.mark.gpu
    def test_the_card_multiplies_as_the_emulation(self):
        if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
            pytest.skip("needs a CUDA card of compute capability 8.9 or above")
        layer = torch.nn.Linear(224, 672, device="cuda", dtype=torch.bfloat16)
        x = randn(3, 65, 224, seed=1).to("cuda", torch.bfloat16)
        card, emulated = (Fp8Linear(layer, emulate=e)(x) for e in (False, True))
        assert relative_rms(card, emulated) < 4e-3  # one rounding to bfloat16 each


class TestPipeline:
    def test_settings_say_what_was_approximate(self):
        pipeline = tiny_pipeline()
        image = random_picture()
        assert "approximate" not in pipeline.perceive(image, ["depth"], steps=4).settings
        result = pipeline.perceive(
            image, ["depth"], steps=4, approximate_step_cache=ALWAYS
        )  # all but the first and the last
        assert result.settings["approximate"] == {"step_cache": {"threshold": ALWAYS, "saved": 0.5}}
        pipeline.approximate_fp8(emulate=True)
        settings = pipeline.perceive(image, ["depth"], steps=2).settings
        assert settings["approximate"] == {"fp8": "emulated"}
        json.dumps(settings)

    def test_threshold_zero_is_exact(self):
        pipeline = tiny_pipeline()
        given = {"depth": random_picture(2)}
        exact = pipeline.control(given, "a red house", steps=3).latents
        zero = pipeline.control(given, "a red house", steps=3, approximate_step_cache=0.0).latents
        assert torch.equal(zero, exact)

    def test_an_evaluation_says_so_too(self):
        report = evaluate(
            tiny_pipeline(),
            scenes=1,
            parts=["any"],
            control_steps=4,
            training_scenes=1,
            resamples=0,
            approximate_step_cache=ALWAYS,
        )
        recorded = json.loads(report.values["approximate.step_cache"])
        assert recorded == {"threshold": ALWAYS, "saved": 0.5}

    def test_texts_are_read_again_after_the_weights_became_eight_bit(self):
        pipeline, other = tiny_pipeline(), tiny_pipeline()
        given = {"depth": random_picture()}
        pipeline.control(given, "a red house", steps=1)
        after = pipeline.approximate_fp8(emulate=True).control(given, "a red house", steps=1)
        fresh = other.approximate_fp8(emulate=True).control(given, "a red house", steps=1)
        assert torch.equal(after.latents, fresh.latents)
