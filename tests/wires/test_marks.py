"""Zeros that say which domains a LATENT leaves out."""

import torch
from jodi_pack.nodes.wires.job import find_left_out, mark_ignored
from jodi_pack.tests.helpers import randn

ROLES = torch.tensor([[0, 2, 1, 2], [2, 0, 2, 0]])
IGNORED = ROLES == 2


def test_marks_are_zeros_and_survive_what_other_nodes_do():
    samples = mark_ignored(torch.zeros(2, 3, 4, 5, 6), ROLES)
    assert not samples.any()
    for kept in (
        samples,
        samples.clone().half().float(),
        samples.repeat(2, 1, 1, 1, 1)[2:],
        torch.cat([samples[:1], samples[1:]]),
        torch.nn.functional.interpolate(samples, scale_factor=(1, 2, 2), mode="nearest"),
        samples * 0.41407 / 0.41407,
    ):
        assert torch.equal(find_left_out(kept), IGNORED)


def test_content_is_kept_and_traces_go():
    samples = randn(2, 3, 4, 5, 6, seed=1)
    emptied = mark_ignored(samples, ROLES)
    for row, domain in torch.cartesian_prod(torch.arange(2), torch.arange(4)).tolist():
        expected = 0 if IGNORED[row, domain] else samples[row, :, domain]
        assert (emptied[row, :, domain] == expected).all()
    assert torch.equal(find_left_out(emptied), IGNORED)


def test_plain_zeros_and_whole_latents_say_nothing():
    assert not find_left_out(torch.zeros(1, 3, 4, 5, 6)).any()
    assert not find_left_out(
        -torch.zeros(1, 3, 4, 5, 6)
    ).any()  # every domain: somebody's arithmetic
    assert not find_left_out(randn(1, 3, 4, 5, 6, seed=2)).any()
