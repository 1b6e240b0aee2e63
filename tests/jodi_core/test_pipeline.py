"""One job from pictures and words to pictures, with tiny random networks."""

import json

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.model.facts import PERCEPTION_STEPS, RELEASED_GUIDANCE, STEPS
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.jodi_core.text import TextFeatures
from jodi_pack.kit.errors import Interrupted, JodiError, ShapeError, TextError
from jodi_pack.kit.sampling import draw_noise
from jodi_pack.tests.helpers import TINY_AE, randn, random_picture, relative_rms, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def evaluations(pipeline):
    """Rows that the network evaluates, as the first block gives them on: one for each text."""
    seen = []
    handle = pipeline.transformer.blocks[0].register_forward_hook(
        lambda *call: seen.append(len(call[2]))
    )
    yield seen
    handle.remove()


class TestTasks:
    def test_perceive(self, pipeline):
        image = random_picture(2, 12, 20)
        result = pipeline.perceive(image, ["depth", "normal"], steps=3)
        assert result.plan.text() == "image=condition, depth=generate, normal=generate"
        assert set(result.raw) == {"depth", "normal"}
        assert set(result.pictures) == {"image", "depth", "normal"}
        assert all(p.shape == (2, 3, 12, 20) for p in result.pictures.values())
        assert torch.equal(result.pictures["image"], image)
        assert torch.equal(result.latents[:, 0], pipeline.encode_picture("image", image))
        assert result.settings["steps"] == 3 and result.settings["guidance"] == 1.0
        assert result.settings["dtype"] == "float32"

    def test_perceive_gives_all_labels_by_default(self, pipeline):
        result = pipeline.perceive(random_picture(), steps=1)
        assert tuple(result.raw) == pipeline.names[1:]

    def test_control(self, pipeline):
        maps = {"depth": random_picture(seed=1), "edge": random_picture(seed=2)}
        result = pipeline.control(maps, "a red house", generate=["image", "albedo"], steps=2)
        assert set(result.raw) == {"image", "albedo"}
        assert torch.equal(result.pictures["depth"], maps["depth"])
        assert result.settings["guidance"] == RELEASED_GUIDANCE

    def test_generate(self, pipeline):
        result = pipeline.generate(["a red house", "the blue sky"], ["depth"], steps=2)
        assert set(result.raw) == {"image", "depth"}
        assert all(p.shape == (2, 3, 16, 16) for p in result.pictures.values())

    def test_any_to_any(self, pipeline):
        plan = RolePlan.parse("depth=condition, normal=condition, image=g, segmentation=g")
        given = {"depth": random_picture(), "normal": random_picture(seed=1)}
        result = pipeline.run(plan, conditions=given, steps=2)
        assert set(result.raw) == {"image", "segmentation"}
        assert not result.latents[:, list(plan.ignored)].any()
        assert result.latents[:, list(plan.active)].any()

    def test_pictures_are_the_raw_output_post_processed(self, pipeline):
        result = pipeline.perceive(random_picture(), steps=2)
        for name, raw in result.raw.items():
            assert torch.equal(result.pictures[name], postprocess(name, raw))
            assert (
                0 <= float(result.pictures[name].min()) <= float(result.pictures[name].max()) <= 1
            )

    def test_the_stages_alone_make_the_same(self, pipeline):
        plan = RolePlan.from_names(["image"], ["depth"])
        depth = random_picture(height=8, width=24)
        whole = pipeline.control({"depth": depth}, "a tree", seed=3, steps=2, guidance=2.0)
        clean = pipeline.encode_conditions(plan, {"depth": depth}, (8, 24))
        text = pipeline.encode_text("a tree")
        latents = pipeline.sample(
            plan, clean, text, pipeline.encode_text(""), seed=3, steps=2, guidance=2.0
        )
        assert torch.equal(latents, whole.latents)
        assert torch.equal(pipeline.decode(latents, ["image"])["image"], whole.raw["image"])

    def test_settings_are_plain_values_that_repeat_the_job(self, pipeline):
        first = pipeline.generate("a tree", seed=np.int64(5), steps=2, guidance=3.0, own_mask=True)
        settings = json.loads(json.dumps(first.settings))
        again = pipeline.run(
            RolePlan.parse(settings["roles"]),
            **{k: settings[k] for k in ("prompt", "negative", "seed", "steps", "guidance")},
            **{k: settings[k] for k in ("sampler", "batch", "own_mask")},
            size=tuple(settings["size"]),
        )
        assert torch.equal(again.latents, first.latents)
        assert settings["task"] == "text to image"

    def test_one_channel_serves_as_a_condition(self, pipeline):
        gray = random_picture(channels=1)
        result = pipeline.control({"depth": gray}, steps=1)
        assert torch.equal(result.pictures["depth"], gray.expand(-1, 3, -1, -1))
        same = pipeline.control({"depth": gray.expand(-1, 3, -1, -1)}, steps=1)
        assert torch.equal(result.latents, same.latents)


class TestDefaults:
    def test_steps_and_guidance_follow_the_task(self, pipeline, evaluations):
        seen = []
        pipeline.perceive(random_picture(), ["depth"], callback=seen.append)
        assert len(seen) == PERCEPTION_STEPS and sum(evaluations) == PERCEPTION_STEPS
        seen.clear(), evaluations.clear()
        pipeline.generate("a tree", callback=seen.append)
        assert len(seen) == STEPS and sum(evaluations) == 2 * STEPS

    def test_metadata_overrides(self):
        pipeline = tiny_pipeline(
            metadata={"guidance": "1.5", "native_size": "8", "trained_roles": "any", "title": "toy"}
        )
        result = pipeline.generate("a tree", steps=1)
        assert result.settings["guidance"] == 1.5 and result.settings["size"] == [8, 8]
        assert result.settings["model"] == "toy" and pipeline.trained_roles == "any"

    def test_no_guidance_pass_where_the_image_is_given(self, pipeline, evaluations):
        plain = pipeline.perceive(random_picture(), ["depth"], steps=2)
        guided = pipeline.perceive(
            random_picture(), ["depth"], steps=2, guidance=7.0, prompt="a tree"
        )
        assert sum(evaluations) == 4
        assert torch.equal(plain.latents, guided.latents)

    def test_size_and_batch_come_from_the_parts(self, pipeline):
        two = pipeline.control({"depth": random_picture(2, 8, 12)}, "a tree", steps=1)
        assert two.raw["image"].shape == (2, 3, 8, 12)
        three = pipeline.control({"depth": random_picture(1, 8, 12)}, ["a", "tree", ""], steps=1)
        assert three.raw["image"].shape == (3, 3, 8, 12)
        assert pipeline.generate("a", size=(4, 8), batch=2, steps=1).raw["image"].shape == (
            2,
            3,
            4,
            8,
        )


class TestSeeds:
    def test_a_row_is_the_same_in_a_batch_of_any_size(self, pipeline):
        prompts = ["a red house", "", "the blue sky"]
        batch = pipeline.generate(prompts, ["depth"], seed=11, steps=3, guidance=2.0)
        for i, prompt in enumerate(prompts):
            alone = pipeline.generate(prompt, ["depth"], seed=11 + i, steps=3, guidance=2.0)
            assert relative_rms(batch.latents[i, :1], alone.latents[0, :1]) < 1e-4
        listed = pipeline.generate(prompts, ["depth"], seed=[11, 12, 13], steps=3, guidance=2.0)
        assert torch.equal(listed.latents, batch.latents)

    def test_noise_does_not_depend_on_what_is_wired(self, pipeline):
        def first_noise(result_of, **options):
            seen = []
            result_of(steps=1, seed=4, callback=seen.append, **options)
            return seen[0].x

        expected = draw_noise((1, 8, TINY_AE.latent_channels, 4, 4), 4)
        for noise in (
            first_noise(pipeline.perceive, image=random_picture()),
            first_noise(pipeline.control, conditions={"depth": random_picture()}),
            first_noise(pipeline.generate, prompt="a tree", labels=["normal"]),
        ):
            assert torch.equal(noise, expected)

    def test_nothing_sticks_between_calls(self, pipeline):
        def job():
            return pipeline.generate("a tree", seed=2, steps=2).latents

        before = job()
        pipeline.generate("the sky", negative="a red house", seed=9, steps=1, own_mask=True)
        pipeline.perceive(random_picture(1, 8, 32), steps=1)
        assert torch.equal(job(), before)

    def test_given_noise_replaces_the_seed(self, pipeline):
        noise = randn(1, 8, TINY_AE.latent_channels, 4, 4, seed=8)
        with_noise = pipeline.generate("a", steps=1, noise=noise, seed=1)
        assert torch.equal(with_noise.latents, pipeline.generate("a", steps=1, noise=noise).latents)
        assert not torch.equal(with_noise.latents, pipeline.generate("a", steps=1).latents)


class TestText:
    @pytest.mark.parametrize(
        "change",
        [
            {"prompt": "the blue sky"},
            {"negative": "a tree"},
            {"guidance": 6.0},
            {"sampler": "euler"},
        ],
    )
    def test_what_is_asked_has_an_effect(self, pipeline, change):
        base = {"prompt": "a red house", "steps": 4, "guidance": 3.0}
        plan = RolePlan.from_names(["image"])
        pair = (pipeline.run(plan, **options).latents for options in (base, {**base, **change}))
        assert relative_rms(*pair) > 1e-3

    def test_masks_of_the_two_halves(self, pipeline):
        options = {"prompt": "a", "negative": "a red house", "steps": 2, "guidance": 3.0}
        plan = RolePlan.from_names(["image"])
        published, own = (pipeline.run(plan, own_mask=m, **options).latents for m in (False, True))
        # As published, the negative prompt is read as far as the prompt is long.
        cut = pipeline.run(plan, own_mask=True, **{**options, "negative": "a"})
        assert relative_rms(published, own) > 1e-3
        assert relative_rms(published, cut.latents) < 1e-6

    def test_stored_features_stand_in_for_prompts(self, pipeline):
        text, negative = pipeline.encode_text("a tree"), pipeline.encode_text("the sky")
        plan = RolePlan.from_names(["image"])
        stored = pipeline.run(plan, text=text, negative_text=negative, steps=2)
        prompted = pipeline.run(plan, prompt="a tree", negative="the sky", steps=2)
        assert torch.equal(stored.latents, prompted.latents)


class TestWithoutTextEncoder:
    @pytest.fixture(scope="class")
    @classmethod
    def pipeline(cls):
        return tiny_pipeline(text=False)

    def test_perception_needs_none(self, pipeline):
        assert pipeline.perceive(random_picture(), ["depth"], steps=1).raw["depth"].isfinite().all()

    def test_an_empty_prompt_is_the_stored_null_text(self, pipeline):
        features = pipeline.encode_text("")
        null = pipeline.transformer.y_embedder.y_embedding
        assert torch.equal(features.caption[0, 0], null) and features.mask.bool().all()
        assert pipeline.control({"depth": random_picture()}, steps=1).raw["image"].isfinite().all()

    def test_stored_features_of_any_length_are_guided(self, pipeline):
        width = pipeline.transformer.config.caption_channels
        text = TextFeatures(randn(1, 1, 3, width), torch.ones(1, 3))
        plan = RolePlan.from_names(["image"])
        guided, plain = (
            pipeline.run(plan, text=text, steps=1, guidance=g).latents for g in (3.0, 1.0)
        )
        assert relative_rms(guided, plain) > 1e-3

    def test_a_prompt_is_refused_with_a_way_out(self, pipeline):
        for options in ({"prompt": "a tree"}, {"negative": "a tree"}):
            with pytest.raises(TextError, match="brings no text encoder"):
                pipeline.run(RolePlan.from_names(["image"]), steps=1, **options)


class TestPartialAndHold:
    shape = (1, 8, TINY_AE.latent_channels, 4, 4)

    def test_starts_from_the_given_latents_at_the_given_level(self, pipeline):
        init, seen = randn(*self.shape, seed=6), []
        pipeline.generate("a", steps=3, start=0.4, init=init, seed=1, callback=seen.append)
        assert len(seen) == 3 and seen[0].sigma == pytest.approx(0.4, abs=1e-6)
        expected = (1 - seen[0].sigma) * init + seen[0].sigma * draw_noise(self.shape, 1)
        assert torch.allclose(seen[0].x, expected, atol=1e-6)

    def test_a_low_level_changes_little(self, pipeline):
        init = randn(*self.shape, seed=6)
        near, far = (
            pipeline.generate("a", steps=3, start=s, init=init).latents[:, 0] for s in (0.01, 0.99)
        )
        assert relative_rms(near, init[:, 0]) < 0.1 < relative_rms(far, init[:, 0])

    def test_a_held_region_is_exact(self, pipeline):
        init = randn(*self.shape, seed=6)
        hold = torch.zeros(1, 8, 1, 4, 4)
        hold[:, 0, :, :2] = 1  # the upper half of the image
        hold[:, 3] = 1  # the whole depth map
        result = pipeline.generate("a", ["depth", "normal"], steps=3, init=init, hold=hold)
        held = hold.bool().expand_as(init)
        assert torch.equal(result.latents[held], init[held])
        free = pipeline.generate("a", ["depth", "normal"], steps=3)
        assert not torch.equal(result.latents[:, 0, :, 2:], init[:, 0, :, 2:])
        # what is held is seen by what is not
        assert relative_rms(result.latents[:, 4], free.latents[:, 4]) > 1e-4

    @pytest.mark.parametrize("options", [{"start": 0.5}, {"hold": torch.ones(1)}])
    def test_both_need_latents_to_start_from(self, pipeline, options):
        with pytest.raises(ShapeError, match="pass `init`"):
            pipeline.generate("a", steps=1, **options)


class TestCallback:
    def test_false_stops(self, pipeline, evaluations):
        with pytest.raises(Interrupted, match="after step 2 of 5"):
            pipeline.generate("a", steps=5, guidance=1.0, callback=lambda info: info.step < 2)
        assert sum(evaluations) == 2

    def test_reports_have_the_shape_of_the_latents(self, pipeline):
        seen = []
        result = pipeline.perceive(random_picture(2), ["depth"], steps=2, callback=seen.append)
        assert [i.step for i in seen] == [1, 2]
        assert all(i.x.shape == i.denoised.shape == result.latents.shape for i in seen)


class TestOtherSizes:
    @pytest.mark.parametrize(("num_labels", "patch_size"), [(3, 1), (1, 2), (7, 2)])
    def test_fewer_labels_and_larger_patches(self, num_labels, patch_size):
        pipeline = tiny_pipeline(num_labels=num_labels, patch_size=patch_size)
        assert pipeline.factor == 4 * patch_size and len(pipeline.names) == 1 + num_labels
        result = pipeline.perceive(random_picture(1, 8, 24), steps=2)
        assert tuple(result.raw) == pipeline.names[1:]
        assert result.latents.shape == (1, 1 + num_labels, TINY_AE.latent_channels, 2, 6)
        if patch_size == 2:
            with pytest.raises(ShapeError, match="multiples of 8, got 8x12"):
                pipeline.perceive(random_picture(1, 8, 12), steps=1)

    def test_names_come_from_the_metadata(self):
        pipeline = tiny_pipeline(num_labels=2, metadata={"domains": '["image", "depth", "edge"]'})
        assert pipeline.names == ("image", "depth", "edge")
        with pytest.raises(JodiError, match=r"a JSON list of 4 names.*\(it names 2\)"):
            tiny_pipeline(num_labels=3, metadata={"domains": '["image", "depth"]'})

    def test_tiles_keep_the_shape(self, pipeline):
        result = pipeline.perceive(random_picture(1, 24, 40), ["depth"], steps=1, tile=16)
        assert result.raw["depth"].shape == (1, 3, 24, 40)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_gives_float32_pictures(self, dtype):
        pipeline, exact = tiny_pipeline(dtype=dtype), tiny_pipeline()
        assert pipeline.dtype == dtype and pipeline.device.type == "cpu"
        given = {"depth": random_picture()}
        result = pipeline.control(given, "a tree", steps=2, guidance=2.0)
        expected = exact.control(given, "a tree", steps=2, guidance=2.0)
        assert result.latents.dtype == torch.float32
        assert all(p.dtype == torch.float32 for p in result.pictures.values())
        assert relative_rms(result.latents[:, 0], expected.latents[:, 0]) < 0.05
