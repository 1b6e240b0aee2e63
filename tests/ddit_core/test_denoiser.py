"""The published noise levels, and guidance."""

import pytest
import torch
from jodi_pack.ddit_core.model.denoiser import make_published_sigmas, prepare_denoiser
from jodi_pack.kit.errors import JodiError, TextError
from jodi_pack.tests.ddit_core.small import SMALL, published, small_model
from jodi_pack.tests.helpers import randn

# FlowMatchEulerDiscreteScheduler of diffusers 0.31, shift 3, 28 steps.
PUBLISHED_28 = (
    1.0, 0.987381, 0.974108, 0.960129, 0.945387, 0.929818, 0.913349, 0.8959, 0.877382, 0.857692,
    0.836717, 0.814325, 0.790368, 0.764677, 0.737056, 0.707278, 0.675082, 0.64016, 0.602151,
    0.560625, 0.515072, 0.464876, 0.409289, 0.347393, 0.278049, 0.199827, 0.110906, 0.008929, 0,
)  # fmt: skip


def test_the_published_levels():
    assert make_published_sigmas() == pytest.approx(PUBLISHED_28, abs=1e-6)
    assert make_published_sigmas(1) == [1.0, 0.0]
    assert make_published_sigmas(3, 1.0) == pytest.approx([1.0, 0.5005, 0.001, 0], abs=1e-9)


@pytest.mark.parametrize(("steps", "shift", "words"), [(0, 3, "1 step"), (4, 0, "shift")])
def test_levels_that_cannot_be(steps, shift, words):
    with pytest.raises(JodiError, match=words):
        make_published_sigmas(steps, shift)


def texts():
    return randn(1, 6, SMALL.context_channels, seed=1), randn(1, 6, SMALL.context_channels, seed=2)


def test_guidance_leads_away_from_the_negative_text():
    model = small_model()
    x, (text, negative) = randn(2, 5, 4, 4), texts()
    denoise = prepare_denoiser(model, text, negative, rows=2, sigmas=[0.8, 0.0], guidance=7.0)
    time = torch.full((2,), 800.0)
    with_, without = (published(model, x, time, t.expand(2, -1, -1))[0] for t in (text, negative))
    expected = x.double() - 0.8 * (without + 7 * (with_ - without))
    torch.testing.assert_close(denoise(x, 0.8).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("case", ["guidance 1", "guidance below 1", "one text twice"])
def test_no_second_evaluation_where_it_changes_nothing(case):
    model, rows = small_model(), []
    model.image_proj_out.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    text, negative = texts()
    guidance = {"guidance 1": 1.0, "guidance below 1": 0.5, "one text twice": 7.0}[case]
    negative = text.clone() if case == "one text twice" else None
    denoise = prepare_denoiser(model, text, negative, rows=2, sigmas=[0.8, 0], guidance=guidance)
    denoise(randn(2, 5, 4, 4), 0.8)
    assert rows == [2]


def test_guidance_needs_a_negative_text():
    with pytest.raises(TextError, match="negative"):
        prepare_denoiser(small_model(), texts()[0], None, rows=1, sigmas=[1.0, 0.0])


def test_latents_stay_in_float32():
    model = small_model(dtype=torch.bfloat16)
    denoise = prepare_denoiser(model, *texts(), rows=1, sigmas=[0.8, 0])
    assert denoise(randn(1, 5, 4, 4), 0.8).dtype == torch.float32
