"""Masks of texts that other nodes joined."""

import torch
from jodi_pack.nodes.wires.texts import Masks
from jodi_pack.tests.helpers import randn

ONE, TWO, THREE = randn(1, 6, 4, seed=1), randn(1, 6, 4, seed=2), randn(1, 4, 4, seed=3)
KEPT = [torch.tensor([mask]) for mask in ([1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0])]


def known() -> Masks:
    masks = Masks()
    for features, mask in zip((ONE, TWO, THREE), KEPT, strict=True):
        masks.remember(features, mask)
    return masks


def test_joined_texts_have_the_masks_of_their_parts():
    joined = torch.cat([ONE, TWO, THREE], dim=1)
    found = known().complete(joined, KEPT[0])
    assert torch.equal(found, torch.cat(KEPT, dim=1))
    rows = torch.cat([torch.cat([ONE, TWO], 1), torch.cat([ONE, ONE], 1)])
    assert torch.equal(known().complete(rows, KEPT[0])[:, 6:], torch.cat([KEPT[1], KEPT[0]]))


def test_unknown_texts_are_not_guessed():
    assert known().complete(torch.cat([ONE, TWO * 1.01], dim=1), KEPT[0]) is None
    assert known().complete(torch.cat([ONE, TWO[:, :5]], dim=1), KEPT[0]) is None


def test_only_the_latest_are_kept():
    masks = Masks(limit=1)
    masks.remember(ONE, KEPT[0])
    masks.remember(TWO, KEPT[1])
    assert masks.complete(torch.cat([TWO, ONE], dim=1), KEPT[1]) is None
