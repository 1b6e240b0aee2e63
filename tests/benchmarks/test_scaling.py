"""The scaling benchmark: its count of memory, its law, and one case of each kind of work."""

import pytest
import torch
from jodi_pack.benchmarks.scaling import PeakBytes, fit_law, measure_nano


def test_the_peak_is_the_most_that_is_alive_at_once():
    with PeakBytes() as memory:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 8000
        view = b[10:].view(-1)
        del b  # its memory lives on in the view
        c = a * 2  # 12000
        del c, view  # 4000
        d = a - 1  # 8000
    assert memory.peak == 12000 and memory.live == 8000
    del d
    assert memory.live == 4000


def test_a_straight_line_is_found():
    law = fit_law([1, 2, 4, 8], [7, 9, 13, 21])
    assert law.start == pytest.approx(5) and law.each == pytest.approx(2)
    assert law.explained == pytest.approx(1)


def test_an_update_keeps_what_recomputing_does_not():
    peaks = {
        work: measure_nano(8, 8, 1, work).peak for work in ("inference", "update", "recompute")
    }
    assert peaks["inference"] < peaks["recompute"] < peaks["update"]
