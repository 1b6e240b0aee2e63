"""The evaluations that docs/ddit.md states are those that the sampler makes."""

from pathlib import Path

import pytest
import torch
from jodi_pack.ddit_core.evaluation.counts import CASES, count_evaluations
from jodi_pack.ddit_core.model.config import DDIT_SD3
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from torch.utils.flop_counter import FlopCounterMode

DOCS = Path(__file__).resolve().parents[2] / "docs" / "ddit.md"


@pytest.mark.slow
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


@pytest.mark.long
def test_the_published_mean_follows_its_formula():
    """1 + (K - 1)(1 - (1 - 1/K)^N) + 1 for N masked places."""
    c = count_evaluations(20, 4, 2, 8, seeds=range(300))
    assert c.published == pytest.approx(2 + 7 * (1 - (1 - 1 / 8) ** 16), abs=0.15)
    assert c.ours <= c.stopping < c.published


@pytest.mark.slow
def test_the_work_of_one_evaluation_in_the_docs():
    """Floating point operations of the full-size network, counted without weights."""
    network = DDiTTransformer(DDIT_SD3, device="meta")
    picture, places = torch.empty(1, 16, 64, 64, device="meta"), torch.zeros(1, 4, device="meta")
    rows = {}
    for length in (128, 256):
        text = torch.empty(1, length, 4096, device="meta")
        time = torch.zeros(1, device="meta")
        context = network.prepare_picture(picture)
        for name, run in {
            "plain network, both heads": lambda: network(picture, time, text),  # noqa: B023
            "one step of a text": lambda: network.logits(text, context, places.long()),  # noqa: B023
            "once for each picture": lambda: network.prepare_picture(picture),
        }.items():
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                run()
            rows.setdefault(name, []).append(counter.get_total_flops() / 1e12)
    for name, (short, long) in rows.items():
        assert f"| {name} | {short:.3f} | {long:.3f} |" in DOCS.read_text(encoding="utf-8")
