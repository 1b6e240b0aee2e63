"""Whether wires belong to one job."""

import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.kit.errors import RoleError, ShapeError
from jodi_pack.nodes.wires.agreement import (
    check_domains,
    check_entries,
    check_finite,
    check_given,
    check_latent,
    check_sampled,
    check_together,
)
from jodi_pack.nodes.wires.job import LatentJob, mark_ignored, read_job
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.wires.given import made_together, raises, text

ROLES = torch.tensor([[1, 2, 2, 0, 2, 2, 2, 2]])


def test_wires_of_one_job_pass():
    latent, conditioning = made_together()
    wires = {"positive": conditioning, "negative": conditioning}
    check_together(latent, read_job(latent), range(5), **wires)


def test_another_picture_of_a_given_domain():
    latent, conditioning = made_together()
    other = {"samples": latent["samples"] + 0.1 * (latent["samples"] != 0)}
    clean = conditioning[0][1]["jodi_clean"]
    check_latent(latent["samples"], ROLES, clean)
    with raises(ShapeError, "different pictures of image", "same Jodi Roles"):
        check_latent(other["samples"], ROLES, clean)


def test_content_in_an_ignored_domain():
    samples = randn(1, 5, 8, 6, 6, seed=1)
    with raises(ShapeError, "holds something in lineart"):
        check_latent(samples, ROLES, None)
    job = LatentJob(DOMAIN_NAMES, tuple(ROLES[0].tolist()), (None,))
    with raises(ShapeError, "lineart has the role ignore"):
        check_sampled(samples, job)
    check_sampled(mark_ignored(samples, ROLES), job)


def test_empty_latents_say_whose_they_are():
    empty = mark_ignored(torch.zeros(1, 5, 8, 6, 6), ROLES)
    check_domains(empty, ROLES, DOMAIN_NAMES)
    with raises(RoleError, "hold no roles", "text to Jodi Roles"):
        check_domains(empty, None, DOMAIN_NAMES)
    with raises(ShapeError, "is for depth", "same Jodi Roles"):
        check_domains(empty, torch.tensor([[1, 2, 2, 2, 0, 2, 2, 2]]), DOMAIN_NAMES)
    with raises(ShapeError, "leaves out normal"):
        check_domains(empty, torch.tensor([[1, 2, 2, 0, 0, 2, 2, 2]]), DOMAIN_NAMES)
    for roles in (None, ROLES):
        check_domains(torch.zeros(1, 5, 8, 6, 6), roles, DOMAIN_NAMES)


def test_entries_of_one_sampling():
    check_entries(None, None)
    check_entries(ROLES, ROLES.clone())
    for pair in ((ROLES, None), (None, ROLES)):
        with raises(ShapeError, "holds no roles"):
            check_entries(*pair)
    with raises(ShapeError, "negative", "not those of positive"):
        check_entries(ROLES, torch.zeros_like(ROLES))


def test_entries_with_other_pictures():
    first = randn(1, 5, 8, 6, 6, seed=3)
    for same in (None, first, first.clone(), first.half(), first.repeat(4, 1, 1, 1, 1)):
        check_given(first, same, DOMAIN_NAMES)
        check_given(same, first, DOMAIN_NAMES)
    other = first.repeat(2, 1, 1, 1, 1)
    other[1, :, 3] += 0.1
    for pair in ((first, other), (other, first)):
        with raises(ShapeError, "different pictures of depth", "same Jodi Roles"):
            check_given(*pair, DOMAIN_NAMES)


def test_negative_without_roles():
    latent, conditioning = made_together()
    with raises(ShapeError, "negative holds no roles"):
        check_together(latent, read_job(latent), range(5), positive=conditioning, negative=text())


def test_values_that_are_no_numbers():
    check_finite(torch.ones(3), "the LATENT holds")
    for wrong in (float("nan"), float("inf")):
        with raises(ShapeError, "the LATENT holds values", "bf16 or fp32"):
            check_finite(torch.tensor([1.0, wrong]), "the LATENT holds")
