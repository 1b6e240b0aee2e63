"""The evaluations that docs/ddit.md states are those that the sampler makes."""

from pathlib import Path

import pytest
from jodi_pack.ddit_core.evaluation.counts import CASES, count_evaluations

DOCS = Path(__file__).resolve().parents[2] / "docs" / "ddit.md"


@pytest.mark.parametrize("index", [6, 7])
def test_the_table_in_the_docs(index):
    name, length, given, text, steps = CASES[index]
    c = count_evaluations(length, given, text, steps)
    counts = f"{c.published:.1f} | {c.stopping:.1f} | {c.ours:.1f}"
    assert f"| {name} | {length} | {given} | {steps} | {counts} |" in DOCS.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("index", range(6))
def test_the_rest_of_the_table(index):
    test_the_table_in_the_docs(index)


def test_the_published_mean_follows_its_formula():
    """1 + (K - 1)(1 - (1 - 1/K)^N) + 1 for N masked places."""
    c = count_evaluations(20, 4, 2, 8, seeds=range(300))
    assert c.published == pytest.approx(2 + 7 * (1 - (1 - 1 / 8) ** 16), abs=0.15)
    assert c.ours <= c.stopping < c.published
