"""What Jodi's wires say and how they are cut into rows. Run by test_nodes.py inside a ComfyUI."""

import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.model.facts import VAEFacts
from jodi_pack.jodi_core.roles import Role
from jodi_pack.kit.errors import ImageError, JodiError, RoleError, ShapeError
from jodi_pack.kit.pictures.frame import Frame
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from jodi_pack.nodes.wires.job import job_entry, read_job
from jodi_pack.nodes.wires.pictures import image_of, mask_of, picture_of
from jodi_pack.nodes.wires.rows import (
    conditioning_rows,
    latent_rows,
    roles_of,
    row_numbers,
    row_seeds,
    with_extras,
)
from jodi_pack.tests.nodes.parts import image, raises, text

FRAME = Frame.fitting((90, 120), (48, 64))


def latent(rows=3, domains=8):
    return {"samples": torch.zeros(rows, 5, domains, 6, 6)}


def check_a_job_is_read_back():
    vae = VAEFacts(5, 8, 0.5)
    entry = job_entry(DOMAIN_NAMES, (1, 0, 2, 2, 2, 2, 2, 2), FRAME, (48, 64), 3, vae)
    job = read_job({**latent(), "jodi": entry})
    assert job.names == DOMAIN_NAMES and job.frames == (FRAME,) * 3 and job.vae is vae
    assert [job.role(i) for i in range(3)] == [Role.CONDITION, Role.GENERATE, Role.IGNORE]
    assert job.index("seg") == 6
    with raises(JodiError, "the 8 domains are", "warmth"):
        job.index("warmth")


def check_without_an_entry_nothing_is_assumed():
    job = read_job(latent())
    assert job.names == DOMAIN_NAMES and job.role(0) is None and job.frames == (None,) * 3
    assert job.vae is None


def check_rows_picked_by_other_nodes_keep_their_frames():
    frames = [Frame.fitting((n, 100), (48, 64)) for n in (60, 70, 80)]
    entry = {"names": list(DOMAIN_NAMES), "roles": [[0] + [2] * 7] * 3, "frames": frames}
    picked = read_job({**latent(2), "jodi": entry, "batch_index": [2, 0]})
    assert picked.frames == (frames[2], frames[0]) and picked.roles is not None
    # without a batch index there is no telling which rows they were
    assert read_job({**latent(2), "jodi": entry}).frames == (None, None)
    mixed = {**entry, "roles": [[0] + [2] * 7, [0] * 8, [0] * 8]}
    assert read_job({**latent(3), "jodi": mixed}).roles is None


def check_foreign_latents_are_refused():
    with raises(ShapeError, "third axis", "(1, 4, 8, 8)", "Jodi Roles"):
        read_job({"samples": torch.zeros(1, 4, 8, 8)})
    with raises(ShapeError, "8 domains", "got 1"):
        read_job(latent(domains=1))


def check_images_become_pictures():
    for channels in (1, 3, 4):
        picture = picture_of(torch.rand(2, 5, 7, channels), "depth")
        assert picture.shape == (2, 3, 5, 7) and picture.dtype == torch.float32
    pixels = image(2, 5, 7)
    assert torch.equal(image_of(picture_of(pixels, "depth")), pixels)
    for wrong in (torch.rand(5, 7, 3), torch.rand(1, 5, 7, 2), "picture"):
        with raises(ImageError, "depth: expected an IMAGE"):
            picture_of(wrong, "depth")
    with raises(ImageError, "depth: the IMAGE holds no pictures"):
        picture_of(torch.rand(0, 5, 7, 3), "depth")


def check_masks_of_maps():
    grey = torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert torch.allclose(mask_of(grey), grey[:, 0])
    colors = torch.tensor([SEGMENTATION_PALETTE[i] for i in (0, 1, 11)]) / 255
    classes = colors.T[None, :, None, :]
    assert mask_of(classes, "palette").tolist() == [[[0, 1, 1]]]


def check_conditioning_is_cut_like_the_host_repeats_it():
    import comfy.utils

    conditioning = text(rows=2)
    conditioning[0][1]["jodi_clean"] = torch.arange(5.0).view(5, 1)
    conditioning[0][1]["start_percent"] = 0.25
    whole = comfy.utils.repeat_to_batch_size(conditioning[0][0], 5)
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        cond, extras = conditioning_rows(conditioning, range(start, stop))[0]
        assert torch.equal(cond, whole[start:stop])
        assert extras["jodi_clean"].flatten().tolist() == list(range(start, stop))
        assert extras["attention_mask"].shape[0] == stop - start
        assert extras["start_percent"] == 0.25 and extras["pooled_output"] is None
    assert len(conditioning[0][0]) == 2  # the input is as it was


def check_latent_rows():
    mask = torch.rand(3, 1, 8, 6, 6)
    part = latent_rows({**latent(), "noise_mask": mask}, 1, 3)
    assert part["samples"].shape[0] == 2 and torch.equal(part["noise_mask"], mask[1:])
    part = latent_rows({**latent(), "noise_mask": mask[:1]}, 1, 3)
    assert torch.equal(part["noise_mask"], mask[:1])
    flat = torch.rand(1, 48, 48)
    assert latent_rows({**latent(), "noise_mask": flat}, 1, 3)["noise_mask"] is flat
    # one for each row, as Set Latent Noise Mask makes it
    each = torch.zeros(3, 1, 48, 48)
    each[1, :, :24], each[2] = 1, 1
    found = latent_rows({**latent(), "noise_mask": each}, 1, 3)["noise_mask"]
    assert found.shape == (2, 1, 8, 6, 6) and found[1].eq(1).all()
    assert found[0, 0, :, :3].eq(1).all() and not found[0, 0, :, 3:].any()


def made_together(rows=5):
    """LATENT and CONDITIONING of one job with the image given."""
    clean = torch.zeros(rows, 5, 8, 6, 6)
    clean[:, :, 0] = torch.randn(rows, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    roles = torch.tensor([[1, 2, 2, 0, 2, 2, 2, 2]])
    return {"samples": clean}, with_extras(text(), jodi_roles=roles, jodi_clean=clean)


def check_rows_that_other_nodes_pick_or_repeat():
    import nodes

    whole, conditioning = made_together()
    assert row_numbers(whole, conditioning, conditioning) == [0, 1, 2, 3, 4]
    (picked,) = nodes.LatentFromBatch().frombatch(whole, 2, 2)
    assert row_numbers(picked, conditioning) == [2, 3]
    assert row_seeds(picked, 10, False) == [12, 13]
    (twice,) = nodes.RepeatLatentBatch().repeat(whole, 2)
    numbers = row_numbers(twice, conditioning)
    clean = conditioning_rows(conditioning, numbers)[0][1]["jodi_clean"]
    assert torch.equal(clean, twice["samples"])
    # a number for each row, yet not those of the rows: the same noise for all
    same = {**whole, "batch_index": [0] * 5}
    assert row_numbers(same, conditioning) == [0, 1, 2, 3, 4]
    (odd,) = nodes.RepeatLatentBatch().repeat(picked, 2)
    for wrong in (odd, {"samples": whole["samples"][1:3]}, {"samples": whole["samples"][:4]}):
        with raises(ShapeError, "made for 5", "after sampling"):
            row_numbers(wrong, conditioning)
    one, conditioning = made_together(rows=1)
    (many,) = nodes.RepeatLatentBatch().repeat(one, 3)
    assert row_numbers(many, conditioning) == [0, 1, 2]


def check_roles_must_be_there():
    with raises(RoleError, "Jodi Roles"):
        roles_of(text())
    roles = torch.zeros(1, 8, dtype=torch.long)
    assert roles_of(with_extras(text(), jodi_roles=roles)) is roles


def check_seeds_follow_rows():
    assert row_seeds(latent(), 7, False) == [7, 8, 9]
    assert row_seeds(latent(), 7, True) == [7, 7, 7]
    assert row_seeds({**latent(2), "batch_index": [4, 1]}, 7, False) == [11, 8]
