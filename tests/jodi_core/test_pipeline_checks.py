"""What the pipeline refuses, before any network runs, and which parts go together."""

import pytest
import torch
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.errors import ImageError, JodiError, RoleError, ShapeError
from jodi_pack.tests.helpers import TINY_AE, random_picture, tiny_autoencoder, tiny_pipeline
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"sampler": "heun"}, JodiError, "'heun' is unknown; use dpmpp_2m or euler"),
            ({"steps": 0}, JodiError, "at least 1 step, got 0"),
            ({"batch": 0}, ShapeError, "at least 1 row, got 0"),
            ({"batch": -2}, ShapeError, "at least 1 row, got -2"),
            ({"size": (16, 18)}, ShapeError, "positive multiples of 4, got 16x18"),
            ({"size": (0, 16)}, ShapeError, "got 0x16"),
            ({"prompt": ["a", "tree"], "batch": 3}, ShapeError, "prompt has 2; give 1 or 3"),
            ({"negative": ["a", "tree"], "batch": 3}, ShapeError, "negative prompt has 2"),
            ({"prompt": []}, ShapeError, "prompt has 0"),
            ({"seed": [1, 2]}, ShapeError, "2 seeds were given for a batch of 1"),
            ({"noise": torch.zeros(1, 8, 4, 4, 2)}, ShapeError, "noise .* must have the shape"),
            ({"init": torch.zeros(8, 4, 4, 4)}, ShapeError, "init .* must have the shape"),
            ({"start": 0.0}, JodiError, "in .0, 1., got 0"),
            ({"conditions": {"depth": torch.zeros(1, 3, 8, 8)}}, RoleError, "not asked for depth"),
        ],
    )  # fmt: skip
    def test_a_job_that_does_not_fit_is_refused(self, pipeline, options, error, words):
        job, evaluations = {"prompt": "a", "steps": 1, **options}, []
        block = pipeline.transformer.blocks[0]
        handle = block.register_forward_hook(lambda *_: evaluations.append(1))
        with pytest.raises(error, match=words):
            pipeline.run(RolePlan.from_names(["image"]), **job)
        handle.remove()
        assert not evaluations

    @pytest.mark.parametrize(
        ("pictures", "error", "words"),
        [
            ({}, RoleError, "missing depth"),
            ({"depth": torch.zeros(1, 3, 15, 16)}, ShapeError, "multiples of 4, got 15x16"),
            ({"depth": torch.zeros(3, 16, 16)}, ImageError, "depth: expected a picture"),
            ({"depth": torch.full((1, 3, 16, 16), 255.0)}, ImageError, "values in 0..1"),
            ({"depth": torch.full((1, 3, 16, 16), torch.nan)}, ImageError, "values in 0..1"),
        ],
    )
    def test_conditions_that_do_not_fit_are_refused(self, pipeline, pictures, error, words):
        with pytest.raises(error, match=words):
            pipeline.run(RolePlan.from_names(["image"], ["depth"]), conditions=pictures, steps=1)

    def test_pictures_of_two_sizes_are_refused(self, pipeline):
        maps = {"depth": random_picture(), "edge": random_picture(height=20)}
        with pytest.raises(ShapeError, match="one size, got 16x16, 20x16"):
            pipeline.control(maps, steps=1)
        with pytest.raises(ShapeError, match="one size, got 16x16, 32x32"):
            pipeline.control({"depth": random_picture()}, steps=1, size=(32, 32))

    def test_a_stage_alone_checks_its_pictures(self, pipeline):
        plan = RolePlan.from_names(["image"], ["depth"])
        with pytest.raises(RoleError, match="depth is a condition"):
            pipeline.encode_conditions(plan, {}, (16, 16))
        for size, batch in (((8, 8), 1), ((16, 16), 3)):
            with pytest.raises(ShapeError, match=f"expected 1 or {batch} rows of"):
                pipeline.encode_conditions(plan, {"depth": random_picture(2)}, size, batch)

    def test_unknown_names_are_refused(self, pipeline):
        with pytest.raises(JodiError, match="no domain is called 'colour'"):
            pipeline.decode(torch.zeros(1, 8, 4, 2, 2), ["colour"])
        with pytest.raises(RoleError, match="no domain is called 'thermal'"):
            pipeline.perceive(random_picture(), ["thermal"])

    def test_a_plan_over_other_domains_is_refused(self, pipeline):
        plan = RolePlan.from_names(["a"], names=("a", "b"))
        with pytest.raises(RoleError, match="the plan is for a, b; the model has image"):
            pipeline.run(plan, prompt="a", steps=1)


class TestParts:
    def test_parts_must_share_their_latents(self, pipeline):
        other = tiny_autoencoder(TINY_AE.from_dict({**vars(TINY_AE), "latent_channels": 2}))
        with pytest.raises(ShapeError, match=r"of 4 channels.* makes latents of 2 channels"):
            JodiPipeline(pipeline.transformer, other)

    def test_the_released_model_wants_the_released_autoencoder(self):
        config = TINY_AE.from_dict({**vars(TINY_AE), "latent_channels": JODI_1600M.latent_channels})
        parts = JodiTransformer(JODI_1600M, device="meta"), DCAE(config, device="meta")
        with pytest.raises(ShapeError, match=r"32 x 32 pixels.*: dc-ae-f32c32-sana-1\.0"):
            JodiPipeline(*parts)

    def test_from_files(self, pipeline, tmp_path):
        for name, part in (("model", pipeline.transformer), ("vae", pipeline.autoencoder)):
            metadata = {"config": part.config.to_json(), "title": "toy", "native_size": "16"}
            save_file(part.state_dict(), tmp_path / f"{name}.safetensors", metadata)
        loaded = JodiPipeline.from_files(
            tmp_path / "model.safetensors", tmp_path / "vae.safetensors"
        )
        assert loaded.text_encoder is None and loaded.metadata["title"] == "toy"
        assert loaded.dtype == torch.float32
        ours, theirs = (p.perceive(random_picture(), steps=2).latents for p in (pipeline, loaded))
        assert torch.equal(ours, theirs)
