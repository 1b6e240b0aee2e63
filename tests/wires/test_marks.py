"""Zeros that say which domains a LATENT leaves out."""

import torch
from jodi_pack.kit.errors import ShapeError
from jodi_pack.nodes.wires.job import check_uncut, find_left_out, mark_empty, mark_ignored
from jodi_pack.nodes.wires.transform import Area, transform
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.wires.given import raises

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


def test_parts_of_an_empty_latent_are_told_from_those_of_other_nodes():
    for roles in (ROLES, torch.zeros_like(ROLES)):
        whole = mark_empty(mark_ignored(torch.zeros(2, 3, 4, 5, 6), roles))
        assert not whole.any()
        assert torch.equal(find_left_out(whole), roles == 2)
        check_uncut(whole, 4)
        for part in (whole[:, :, :1], whole[:, :, 2:], whole.flip(2)[:, :, :3], whole.mT[:, :, 1:]):
            with raises(ShapeError, "cut the LATENT of Jodi Roles", "instead of 4"):
                check_uncut(part.repeat(2, 1, 1, 1, 1), 4)
    for domains in (1, 3, 7):
        check_uncut(torch.zeros(1, 3, domains, 5, 6), 4)


def test_marks_of_empty_domains_change_no_content():
    samples = mark_ignored(randn(2, 3, 4, 5, 6, seed=1), ROLES)
    samples[0, :, 0] = 0
    marked = mark_empty(samples)
    assert torch.equal(marked, samples) and torch.equal(find_left_out(marked), IGNORED)
    assert torch.signbit(marked[0, 0, 0]).all() and not torch.signbit(marked[0, 1:, 0]).any()
    assert torch.equal(mark_empty(samples[:, :1]), samples[:, :1])


def test_turning_a_latent_keeps_what_it_leaves_out_and_what_is_still_to_be_made():
    """The picture is given, depth is still empty, all else is left out."""
    roles = torch.tensor([[1, 2, 2, 0, 2, 2, 2, 2]])
    start = torch.zeros(1, 3, 8, 6, 4)
    start[:, :, 0] = randn(1, 3, 6, 4, seed=3)
    latent = {"samples": mark_empty(mark_ignored(start, roles))}

    def decode(samples, index):
        return samples[:, :, index]  # a "picture" of a pixel to a cell

    turned = {}
    for operation in ("flip horizontal", "rotate 90", "resize"):
        turned[operation] = transform(latent, operation, Area(0, 0, 5, 7), 1, decode, torch.clone)
        samples = turned[operation]["samples"]
        assert torch.equal(find_left_out(samples), roles == 2), operation
        assert samples[:, :, 0].any() and not samples[:, :, 1:].any()
    assert turned["resize"]["samples"].shape == (1, 3, 8, 7, 5)
