"""Schedules against published numbers, samplers against flows whose solution is known."""

import itertools
import math

import numpy as np
import pytest
import torch
from jodi_pack.kit.errors import Interrupted, JodiError, ShapeError
from jodi_pack.kit.sampling import (
    SAMPLERS,
    draw_noise,
    hold_region,
    make_flow_sigmas,
    sample_dpmpp_2m,
    sample_euler,
)
from jodi_pack.tests.helpers import randn

# 1000 sigma at shift 3, as the published code computes them (jodi_pipeline.py, 20 and 10 steps).
TWENTY = """999.666 982.420 963.941 944.094 922.722 899.640 874.635 847.457 817.810 785.340 749.625
    710.152 666.296 617.284 562.148 499.667 428.265 345.888 249.792 136.240 0"""
TEN = "999.666 963.941 922.722 874.635 817.810 749.625 666.296 562.148 428.265 249.792 0"


class TestSchedule:
    @pytest.mark.parametrize("published", [TWENTY, TEN], ids=["20", "10"])
    def test_equals_the_published_one(self, published):
        expected = [float(v) for v in published.split()]
        ours = make_flow_sigmas(len(expected) - 1)
        assert [1000 * s for s in ours] == pytest.approx(expected, abs=6e-4)
        assert ours[-1] == 0.0

    @pytest.mark.parametrize("steps", [1, 2, 7, 100])
    @pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 12.0])
    def test_equals_the_formula(self, steps, shift):
        ours = make_flow_sigmas(steps, shift)
        base = [0.999 * (steps - i) / steps for i in range(steps + 1)]
        expected = [shift * b / (1 + (shift - 1) * b) for b in base]
        # float32, whose rounding the shift stretches by its slope at either end
        assert ours == pytest.approx(expected, abs=1.2e-7 * max(shift, 1 / shift))
        assert all(a > b for a, b in itertools.pairwise(ours))

    @pytest.mark.parametrize("start", [0.05, 0.4, 0.9])
    def test_a_partial_schedule_begins_at_its_level(self, start):
        sigmas = make_flow_sigmas(5, start=start)
        assert sigmas[0] == pytest.approx(start, abs=1e-6)
        assert len(sigmas) == 6 and sigmas[-1] == 0.0
        assert all(a > b for a, b in itertools.pairwise(sigmas))

    def test_starting_at_one_is_the_whole_schedule(self):
        assert make_flow_sigmas(6, start=1.0) == make_flow_sigmas(6)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"steps": 0}, "at least 1 step, got 0"),
            ({"steps": 4, "shift": 0}, "must be positive, got 0"),
            ({"steps": 4, "start": 0}, r"must be in \(0, 1\], got 0"),
            ({"steps": 4, "start": 1.01}, "got 1.01"),
            ({"steps": 4, "start": math.nan}, "got nan"),
        ],
    )
    def test_what_makes_no_schedule_is_refused(self, arguments, words):
        with pytest.raises(JodiError, match=words):
            make_flow_sigmas(**arguments)


SPREAD = 0.5


def gaussian_estimate(x, sigma):
    """Clean estimate where the clean data are normal with deviation SPREAD: a known flow."""
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return (1 - sigma) * SPREAD**2 / variance * x


def gaussian_solution(x, sigma):
    """Where the flow carries x from level sigma to 0."""
    return SPREAD / math.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2) * x


def error(sampler, sigmas):
    out = sampler(gaussian_estimate, torch.ones(1, dtype=torch.float64), sigmas)
    from_start = gaussian_solution(1.0, sigmas[0])
    return abs(float(out) - from_start / gaussian_solution(1.0, sigmas[-1]))


@pytest.mark.parametrize(("sampler", "order"), [(sample_euler, 1), (sample_dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order):
    # Even in log-SNR, in which the method is derived; the published schedule's last steps grow
    # without bound there, which hides the order.
    def even(steps):
        log_snr = torch.linspace(-3, 3, steps + 1, dtype=torch.float64)
        return torch.sigmoid(-log_snr).tolist()

    errors = [error(sampler, even(steps)) for steps in (64, 128, 256, 512)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(abs(o - order) < 0.1 for o in orders), orders


@pytest.mark.parametrize("sampler", [sample_euler, sample_dpmpp_2m])
def test_the_published_schedule_converges_to_the_flow(sampler):
    errors = [error(sampler, make_flow_sigmas(steps)) for steps in (16, 256, 2048)]
    assert errors[0] > 10 * errors[1] > 30 * errors[2]
    assert errors[2] < 1e-3


@pytest.mark.parametrize("name", SAMPLERS)
class TestEverySampler:
    def test_one_evaluation_a_step_at_each_level(self, name):
        seen, sigmas = [], make_flow_sigmas(7)

        def denoise(x, sigma):
            seen.append(sigma)
            return x * 0.5

        SAMPLERS[name](denoise, randn(2, 3), sigmas)
        assert seen == sigmas[:-1]

    def test_ends_exactly_on_the_last_estimate(self, name):
        clean = randn(2, 3)
        for steps in (1, 2, 3, 9):
            out = SAMPLERS[name](lambda x, s: clean, randn(2, 3, seed=1), make_flow_sigmas(steps))
            assert torch.equal(out, clean)

    def test_the_noise_is_left_as_it_is(self, name):
        noise = randn(2, 3)
        before = noise.clone()
        SAMPLERS[name](gaussian_estimate, noise, make_flow_sigmas(4))
        assert torch.equal(noise, before)

    def test_a_schedule_may_start_at_pure_noise(self, name):
        sigmas = [1.0, *make_flow_sigmas(200)[1:]]
        out = SAMPLERS[name](gaussian_estimate, torch.ones(1, dtype=torch.float64), sigmas)
        assert float(out) == pytest.approx(SPREAD, rel=0.02)

    def test_every_step_is_reported(self, name):
        reports, sigmas = [], make_flow_sigmas(3)
        SAMPLERS[name](gaussian_estimate, randn(2, 3), sigmas, reports.append)
        assert [(r.step, r.steps, r.sigma) for r in reports] == [
            (i + 1, 3, sigmas[i]) for i in range(3)
        ]
        for report in reports:
            assert torch.equal(report.denoised, gaussian_estimate(report.x, report.sigma))

    def test_a_callback_stops_it_before_the_next_evaluation(self, name):
        evaluations = []

        def denoise(x, sigma):
            evaluations.append(sigma)
            return x

        with pytest.raises(Interrupted, match="after step 2 of 9"):
            SAMPLERS[name](denoise, randn(2), make_flow_sigmas(9), lambda info: info.step < 2)
        assert len(evaluations) == 2

    def test_only_false_stops(self, name):
        for answer in (None, True, 0, ""):
            SAMPLERS[name](gaussian_estimate, randn(2), make_flow_sigmas(3), lambda _, a=answer: a)


def test_dpmpp_2m_equals_its_exponential_form():
    # Lu et al. 2022, algorithm 2, with alpha = 1 - sigma and h in half log-SNR, taken literally.
    def estimate(x, sigma):
        return torch.tanh(x) * (1 - 0.3 * sigma)

    sigmas, x, previous = make_flow_sigmas(9), randn(5, dtype=torch.float64), None
    ours = sample_dpmpp_2m(estimate, x, sigmas)
    log_snr = [math.log((1 - s) / s) for s in sigmas[:-1]]
    for k in range(8):
        s, t, now = sigmas[k], sigmas[k + 1], estimate(x, sigmas[k])
        h = log_snr[k + 1] - log_snr[k]
        mixed = now
        if k:
            r = (log_snr[k] - log_snr[k - 1]) / h
            mixed = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * previous
        x, previous = t / s * x - (1 - t) * math.expm1(-h) * mixed, now
    assert torch.allclose(ours, estimate(x, sigmas[8]), rtol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
class TestHold:
    shape = (2, 3, 2, 4, 5)

    def parts(self, dtype=torch.float32):
        clean, noise = (randn(*self.shape, seed=s, dtype=dtype) for s in (1, 2))
        return clean, noise

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(1, 3, 1, 1, 1), (2, 1, 1, 4, 5), (2, 3, 1, 4, 5), (4, 5)])
    def test_what_is_held_is_exact_and_the_rest_is_not_touched(self, name, dtype, shape):
        clean, noise = self.parts(dtype)
        hold = (randn(*shape, seed=4) > 0).to(dtype)
        assert hold.any() and not hold.all()
        denoise = hold_region(gaussian_estimate, clean, noise, hold)
        out = SAMPLERS[name](denoise, noise, make_flow_sigmas(4))
        free = SAMPLERS[name](gaussian_estimate, noise, make_flow_sigmas(4))
        held = hold.bool().expand(self.shape)
        assert torch.equal(out[held], clean[held])
        assert torch.equal(out[~held], free[~held])

    def test_the_network_sees_held_parts_at_the_current_level(self, name):
        clean, noise = self.parts()
        hold = torch.zeros(1, 3, 1, 1, 1)
        hold[:, 1] = 1
        seen = []

        def denoise(x, sigma):
            seen.append((x, sigma))
            return x * 0

        SAMPLERS[name](hold_region(denoise, clean, noise, hold), noise, make_flow_sigmas(5))
        for x, sigma in seen:
            level = (1 - sigma) * clean[:, 1] + sigma * noise[:, 1]
            assert torch.allclose(x[:, 1], level, atol=1e-6)

    def test_half_a_hold_lies_between(self, name):
        clean, noise = self.parts()
        hold = torch.full((1, 1, 1, 1, 1), 0.5)
        out = SAMPLERS[name](
            hold_region(lambda x, s: x * 0, clean, noise, hold), noise, make_flow_sigmas(3)
        )
        assert torch.allclose(out, clean / 2, atol=1e-6)


def test_a_hold_mask_that_does_not_fit_is_refused():
    clean = torch.zeros(2, 3, 2, 4, 5)
    with pytest.raises(ShapeError, match=r"hold mask \(2, 3, 4, 5\) does not fit"):
        hold_region(gaussian_estimate, clean, clean, torch.zeros(2, 3, 4, 5))


class TestNoise:
    shape = (4, 8, 5, 3, 2)

    def test_a_row_is_the_same_in_a_batch_of_any_size(self):
        batch = draw_noise(self.shape, 7)
        for i in range(4):
            assert torch.equal(batch[i], draw_noise((1, *self.shape[1:]), 7 + i)[0])
        assert torch.equal(batch, draw_noise(self.shape, [7, 8, 9, 10]))

    def test_is_standard_normal_and_rows_differ(self):
        noise = draw_noise((3, 8, 32, 16, 16), 0)
        assert noise.dtype == torch.float32 and noise.device.type == "cpu"
        assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
        assert abs(float((noise[0] * noise[1]).mean())) < 0.02

    def test_the_global_generator_is_left_alone(self):
        torch.manual_seed(3)
        expected = torch.randn(2)
        torch.manual_seed(3)
        draw_noise(self.shape, 1)
        assert torch.equal(torch.randn(2), expected)

    @pytest.mark.parametrize("seed", [-1, 2**63 - 1, 2**64 - 1, np.int64(5), np.uint32(5)])
    def test_any_integer_is_a_seed(self, seed):
        assert torch.equal(
            draw_noise(self.shape, seed)[1], draw_noise(self.shape, int(seed) + 1)[0]
        )

    def test_large_seeds_do_not_repeat_small_ones(self):
        """torch's generator reads 32 bits of a seed, so numbers apart by 2**32 would be one."""
        large = [5 + 2**32, 5 + 2**63, 5 + 2**64, 5 + 10**30, 5 - 2**63]
        drawn = [draw_noise((1, 8), seed) for seed in (5, *large)]
        for i, one in enumerate(drawn):
            assert all(not torch.equal(one, other) for other in drawn[:i])
            assert torch.equal(one, draw_noise((1, 8), (5, *large)[i]))
        torch.manual_seed(2**32 - 1)
        assert torch.equal(draw_noise((1, 8), 2**32 - 1)[0], torch.randn(8))

    def test_one_seed_per_row(self):
        with pytest.raises(ShapeError, match="3 seeds were given for a batch of 4"):
            draw_noise(self.shape, [1, 2, 3])
