"""The precision of the released model on a CPU follows what was measured there."""

import pytest
import torch
from jodi_pack.jodi_core import pipeline
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.tests.helpers import TINY


@pytest.mark.parametrize(
    ("gain", "released"), [(2.4, torch.bfloat16), (1.1, torch.float32), (0.3, torch.float32)]
)
def test_half_precision_only_where_it_is_faster_and_published(monkeypatch, gain, released):
    monkeypatch.setattr(pipeline, "measure_bfloat16_gain", lambda: gain)
    assert pipeline.choose_cpu_dtype(JODI_1600M) == released
    assert pipeline.choose_cpu_dtype(TINY) == torch.float32


@pytest.mark.long
def test_gain_is_measured_once():
    assert 0 < pipeline.measure_bfloat16_gain() < 1000
    assert pipeline.measure_bfloat16_gain() == pipeline.measure_bfloat16_gain()
