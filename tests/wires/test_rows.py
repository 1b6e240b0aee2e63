"""Rows of wires: shared, cut, picked and seeded."""

import torch
from jodi_pack.jodi_core.job.checks import agree_on_rows
from jodi_pack.kit.errors import RoleError, ShapeError
from jodi_pack.nodes.wires.rows import (
    add_extras,
    find_row_numbers,
    make_row_seeds,
    read_roles,
    take_conditioning_rows,
    take_latent_rows,
)
from jodi_pack.tests.wires.given import latent, made_together, raises, text


def test_rows_are_shared_by_stated_rules():
    assert agree_on_rows({}) == 1 and agree_on_rows({}, 4) == 4
    assert agree_on_rows({"image": 1, "depth": 5}) == 5
    assert agree_on_rows({"image": 5, "depth": 5}, 5) == 5
    with raises(ShapeError, "image asks for 5 rows", "depth has 3", "give 1 or 5"):
        agree_on_rows({"image": 5, "depth": 3})
    with raises(ShapeError, "batch asks for 2 rows", "image has 5"):
        agree_on_rows({"image": 5}, 2)
    with raises(ShapeError, "batch asks for 8 rows", "image has 5"):
        agree_on_rows({"image": 5}, 8)


def test_conditioning_is_cut_as_its_rows_repeat():
    conditioning = text(rows=2)
    conditioning[0][1]["jodi_clean"] = torch.arange(5.0).view(5, 1)
    conditioning[0][1]["start_percent"] = 0.25
    whole = conditioning[0][0][[0, 1, 0, 1, 0]]
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        cond, extras = take_conditioning_rows(conditioning, range(start, stop))[0]
        assert torch.equal(cond, whole[start:stop])
        assert extras["jodi_clean"].flatten().tolist() == list(range(start, stop))
        assert extras["attention_mask"].shape[0] == stop - start
        assert extras["start_percent"] == 0.25 and extras["pooled_output"] is None
    assert len(conditioning[0][0]) == 2  # the input is as it was


def test_latent_rows():
    mask = torch.rand(3, 1, 8, 6, 6)
    part = take_latent_rows({**latent(), "noise_mask": mask}, 1, 3)
    assert part["samples"].shape[0] == 2 and torch.equal(part["noise_mask"], mask[1:])
    part = take_latent_rows({**latent(), "noise_mask": mask[:1]}, 1, 3)
    assert torch.equal(part["noise_mask"], mask[:1])
    flat = torch.rand(1, 48, 48)
    assert take_latent_rows({**latent(), "noise_mask": flat}, 1, 3)["noise_mask"] is flat
    # one for each row, as Set Latent Noise Mask makes it
    each = torch.zeros(3, 1, 48, 48)
    each[1, :, :24], each[2] = 1, 1
    found = take_latent_rows({**latent(), "noise_mask": each}, 1, 3)["noise_mask"]
    assert found.shape == (2, 1, 8, 6, 6) and found[1].eq(1).all()
    assert found[0, 0, :, :3].eq(1).all() and not found[0, 0, :, 3:].any()


def test_rows_that_other_nodes_pick_or_repeat():
    whole, conditioning = made_together()
    assert find_row_numbers(whole, conditioning, conditioning) == [0, 1, 2, 3, 4]
    picked = {"samples": whole["samples"][2:4], "batch_index": [2, 3]}
    assert find_row_numbers(picked, conditioning) == [2, 3]
    assert make_row_seeds(picked, 10, False) == [12, 13]
    twice = {"samples": whole["samples"].repeat(2, 1, 1, 1, 1)}
    numbers = find_row_numbers(twice, conditioning)
    clean = take_conditioning_rows(conditioning, numbers)[0][1]["jodi_clean"]
    assert torch.equal(clean, twice["samples"])
    # a number for each row, yet not those of the rows: the same noise for all
    same = {**whole, "batch_index": [0] * 5}
    assert find_row_numbers(same, conditioning) == [0, 1, 2, 3, 4]
    odd = {"samples": picked["samples"].repeat(2, 1, 1, 1, 1), "batch_index": [2, 3, 4, 5]}
    for wrong in (odd, {"samples": whole["samples"][1:3]}, {"samples": whole["samples"][:4]}):
        with raises(ShapeError, "made for 5", "after sampling"):
            find_row_numbers(wrong, conditioning)
    one, conditioning = made_together(rows=1)
    many = {"samples": one["samples"].repeat(3, 1, 1, 1, 1)}
    assert find_row_numbers(many, conditioning) == [0, 1, 2]


def test_roles_must_be_there():
    with raises(RoleError, "Jodi Roles"):
        read_roles(text())
    roles = torch.zeros(1, 8, dtype=torch.long)
    assert read_roles(add_extras(text(), jodi_roles=roles)) is roles


def test_seeds_follow_rows():
    assert make_row_seeds(latent(), 7, False) == [7, 8, 9]
    assert make_row_seeds(latent(), 7, True) == [7, 7, 7]
    assert make_row_seeds({**latent(2), "batch_index": [4, 1]}, 7, False) == [11, 8]
