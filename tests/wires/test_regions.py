"""Areas and masks over all domains."""

import pytest
import torch
from jodi_pack.nodes.wires.regions import spread_region

SHAPE = (2, 5, 8, 6, 10)  # 2 rows, 8 domains, 6 x 10 cells


def region(factor=8, **values):
    return spread_region(values, SHAPE, factor)


def test_shares_become_cells():
    assert region(area=("percentage", 0.5, 0.25, 0.5, 0.0))["area"] == (8, 3, 2, 0, 3, 0)
    assert region(area=("percentage", 0.01, 1.0, 0.0, 0.0))["area"] == (8, 1, 10, 0, 0, 0)


@pytest.mark.parametrize(("factor", "cells"), [(8, (4, 6, 2, 0)), (32, (1, 2, 0, 0))])
def test_units_of_the_host_become_cells(factor, cells):
    assert region(factor, area=(4, 6, 2, 0))["area"] == cells


def test_areas_with_a_time_of_their_own_are_left():
    area = ("percentage", 1.0, 0.5, 0.5, 0.0, 0.0, 0.5)
    assert region(area=area)["area"] == area


def test_masks_are_those_of_every_domain():
    mask = torch.zeros(1, 48, 80)
    mask[:, 8:24, 40:] = 1
    found = region(mask=mask, strength=0.5)
    assert found["mask"].shape == (1, 8, 6, 10) and found["strength"] == 0.5
    expected = torch.zeros(6, 10)
    expected[1:3, 5:] = 1
    assert all(torch.equal(domain, expected) for domain in found["mask"][0])
    assert "area" not in found
    bounded = region(mask=mask, set_area_to_bounds=True)
    assert bounded["area"] == (8, 2, 5, 0, 1, 5) and "set_area_to_bounds" not in bounded
    assert region(mask=0 * mask, set_area_to_bounds=True)["area"] == (8, 1, 1, 0, 0, 0)


def test_masks_of_rows():
    masks = torch.stack([torch.zeros(48, 80), torch.ones(48, 80), torch.ones(48, 80)])
    assert region(mask=masks[:2])["mask"].amax((1, 2, 3)).tolist() == [0, 1]
    assert region(mask=masks)["mask"].shape[0] == 2
    assert region(mask=masks[1])["mask"].shape == (1, 8, 6, 10)


def test_nothing_is_changed_in_place():
    values = {"mask": torch.ones(1, 6, 10), "set_area_to_bounds": True}
    before = dict(values)
    spread_region(values, SHAPE, 8)
    assert values == before
