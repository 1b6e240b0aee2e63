"""LATENTs that were moved about by nodes for flat pictures."""

import pytest
import torch
from jodi_pack.kit.errors import ShapeError
from jodi_pack.nodes.wires.places import Places, check_pasted
from jodi_pack.tests.helpers import randn

A, B = (randn(2, 3, 4, 6, 5, seed=seed) for seed in (1, 2))


@pytest.fixture
def places():
    found = Places()
    found.remember(A)
    found.remember(B)
    return found


MOVED = [
    A.flip(2),
    A.flip(3),
    A.flip(2, 3),
    A[:1].flip(3),
    A[:, :, :, 1:],
    A[:, :, :, :4],
    *(torch.rot90(A, times, dims=(3, 2)) for times in (1, 2, 3)),
]
KEPT = [
    A,
    A.half(),
    A[[1, 0]],
    A.repeat(2, 1, 1, 1, 1),
    torch.cat([A[:1], B]),
    A * 0.5 + B * 0.5,
    A + 1e-2,
    randn(2, 3, 4, 6, 5, seed=9),
    torch.zeros_like(A),
    A.repeat_interleave(2, 3).repeat_interleave(2, 4),
    A.repeat_interleave(2, 3),
]


@pytest.mark.parametrize("moved", MOVED, ids=lambda _: "")
def test_moved_latents_are_told(places, moved):
    with pytest.raises(ShapeError, match="nodes of the same names for images"):
        places.check(moved)


@pytest.mark.parametrize("kept", KEPT, ids=lambda _: "")
def test_other_latents_pass(places, kept):
    places.check(kept, pasted=True)


def test_ignored_domains_are_no_places(places):
    part = A.clone()
    part[:, :, 1:] = 0
    places.remember(part)
    places.check(part)
    with pytest.raises(ShapeError):
        places.check(part.flip(3))


def test_pasted_parts_are_told_where_they_were_asked_for(places):
    pasted = A.clone()
    pasted[:, :, :, 2:] = B[:, :, :, :4]
    places.check(pasted)
    with pytest.raises(ShapeError, match="a part of another LATENT"):
        places.check(pasted, pasted=True)


def test_the_graph_tells_which_node_pasted(monkeypatch, places):
    monkeypatch.setattr("jodi_pack.nodes.wires.places.MADE", places)
    pasted = A.clone()
    pasted[:, :, :, 2:] = B[:, :, :, :4]

    class Hidden:
        prompt = {"1": {"class_type": "LatentCompositeMasked"}}  # noqa: RUF012

    check_pasted(pasted, Hidden)
    Hidden.prompt = {"1": {"class_type": "LatentComposite"}}
    for hidden in (Hidden, None):
        with pytest.raises(ShapeError):
            check_pasted(pasted, hidden)


def test_the_oldest_are_forgotten():
    places = Places(limit=A[:, 0, :, :, 0].numel())
    for samples in (A, B, randn(2, 3, 4, 6, 5, seed=3)):
        places.remember(samples)
    places.check(A.flip(3))
    with pytest.raises(ShapeError):
        places.check(B.flip(3))
