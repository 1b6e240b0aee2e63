"""Rows of wires as the host's own nodes pick and repeat them. Run by test_nodes.py in a ComfyUI."""

import comfy.utils
import torch
from jodi_pack.kit.errors import ShapeError
from jodi_pack.nodes.wires.rows import (
    add_extras,
    find_row_numbers,
    make_row_seeds,
    take_conditioning_rows,
)
from jodi_pack.tests.nodes.parts import raises, text

import nodes


def check_conditioning_is_cut_like_the_host_repeats_it():
    conditioning = text(rows=2)
    whole = comfy.utils.repeat_to_batch_size(conditioning[0][0], 5)
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        cond, _ = take_conditioning_rows(conditioning, range(start, stop))[0]
        assert torch.equal(cond, whole[start:stop])


def made_together(rows=5):
    """LATENT and CONDITIONING of one job with the image given."""
    clean = torch.zeros(rows, 5, 8, 6, 6)
    clean[:, :, 0] = torch.randn(rows, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    roles = torch.tensor([[1, 2, 2, 0, 2, 2, 2, 2]])
    return {"samples": clean}, add_extras(text(), jodi_roles=roles, jodi_clean=clean)


def check_rows_that_the_hosts_nodes_pick_or_repeat():
    whole, conditioning = made_together()
    (picked,) = nodes.LatentFromBatch().frombatch(whole, 2, 2)
    assert find_row_numbers(picked, conditioning) == [2, 3]
    assert make_row_seeds(picked, 10, False) == [12, 13]
    (twice,) = nodes.RepeatLatentBatch().repeat(whole, 2)
    clean = take_conditioning_rows(conditioning, find_row_numbers(twice, conditioning))[0][1][
        "jodi_clean"
    ]
    assert torch.equal(clean, twice["samples"])
    (odd,) = nodes.RepeatLatentBatch().repeat(picked, 2)
    with raises(ShapeError, "made for 5", "after sampling"):
        find_row_numbers(odd, conditioning)
