"""Tests of differences, against every sign pattern and against integrals of the t density."""

import itertools
import math

import numpy as np
import pytest
from jodi_pack.jodi_core.evaluation.paired import correct_by_holm, find_p_by_flips, find_p_by_t


def test_flips_come_near_to_all_sign_patterns():
    differences = np.random.default_rng(5).standard_normal(10) + 0.5
    means = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=10)
    ]
    exact = sum(m >= abs(differences.sum()) - 1e-12 for m in means) / len(means)
    p = find_p_by_flips(differences, flips=40_000)
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact / 40_000))


def test_flips_of_nothing_and_of_no_difference():
    assert math.isnan(find_p_by_flips(np.array([math.nan])))
    assert find_p_by_flips(np.zeros(5)) == 1
    clear = np.ones(30)
    assert find_p_by_flips(clear, flips=999) == 1 / 1000


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9])
def test_t_is_the_integral_of_its_density(count):
    values = np.random.default_rng(count).standard_normal(count) + 1
    t = abs(values.mean()) / (values.std(ddof=1) / math.sqrt(count))
    freedom = count - 1
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    steps = 200_000
    at = (np.arange(steps) + 0.5) * t / steps
    inside = (scale * (1 + at**2 / freedom) ** (-(freedom + 1) / 2)).sum() * t / steps
    assert find_p_by_t(values) == pytest.approx(1 - 2 * inside, abs=1e-6)


def test_t_of_too_little():
    assert math.isnan(find_p_by_t(np.array([1.0])))
    assert math.isnan(find_p_by_t(np.array([1.0, 1.0, 1.0])))


def test_holm_by_hand():
    # Ranked .01, .02, .03, .04 of four: times 4, 3, 2, 1, and never below the one before.
    p = {"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02, "e": math.nan}
    held = correct_by_holm(p)
    assert held["b"] == pytest.approx(0.04) and held["d"] == pytest.approx(0.06)
    assert held["c"] == pytest.approx(0.06) and held["a"] == pytest.approx(0.06)
    assert math.isnan(held["e"]) and correct_by_holm({"x": 0.9, "y": 0.8})["x"] == 1.0
