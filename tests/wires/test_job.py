"""The entry that travels with a LATENT, read back."""

import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.model.facts import VAEFacts
from jodi_pack.jodi_core.roles import Role
from jodi_pack.kit.errors import JodiError, ShapeError
from jodi_pack.kit.pictures.frame import Frame
from jodi_pack.nodes.wires.job import make_job_entry, read_job
from jodi_pack.tests.wires.given import latent, raises

FRAME = Frame.fitting((90, 120), (48, 64))


def test_a_job_is_read_back():
    vae = VAEFacts(5, 8, 0.5)
    entry = make_job_entry(DOMAIN_NAMES, (1, 0, 2, 2, 2, 2, 2, 2), FRAME, (48, 64), 3, vae)
    job = read_job({**latent(), "jodi": entry})
    assert job.names == DOMAIN_NAMES and job.frames == (FRAME,) * 3 and job.vae is vae
    assert [job.role(i) for i in range(3)] == [Role.CONDITION, Role.GENERATE, Role.IGNORE]
    assert job.index("seg") == 6
    with raises(JodiError, "the 8 domains are", "warmth"):
        job.index("warmth")


def test_without_an_entry_nothing_is_assumed():
    job = read_job(latent())
    assert job.names == DOMAIN_NAMES and job.role(0) is None and job.frames == (None,) * 3
    assert job.vae is None


def test_rows_picked_by_other_nodes_keep_their_frames():
    frames = [Frame.fitting((n, 100), (48, 64)) for n in (60, 70, 80)]
    entry = {"names": list(DOMAIN_NAMES), "roles": [[0] + [2] * 7] * 3, "frames": frames}
    picked = read_job({**latent(2), "jodi": entry, "batch_index": [2, 0]})
    assert picked.frames == (frames[2], frames[0]) and picked.roles is not None
    # without a batch index there is no telling which rows they were
    assert read_job({**latent(2), "jodi": entry}).frames == (None, None)
    mixed = {**entry, "roles": [[0] + [2] * 7, [0] * 8, [0] * 8]}
    assert read_job({**latent(3), "jodi": mixed}).roles is None


def test_foreign_latents_are_refused():
    with raises(ShapeError, "third axis", "(1, 4, 8, 8)", "Jodi Roles"):
        read_job({"samples": torch.zeros(1, 4, 8, 8)})
    with raises(ShapeError, "8 domains", "got 1"):
        read_job(latent(domains=1))
