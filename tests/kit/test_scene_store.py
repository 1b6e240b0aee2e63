"""Scenes and latents on disk, through kills and repeats."""

import json

import numpy as np
import pytest
import torch
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, render_scenes
from jodi_pack.kit.scenes.store import SceneStore, encode_store
from jodi_pack.tests.helpers import (
    tiny_autoencoder,
)


class TestSceneStore:
    @pytest.mark.long
    def test_pictures_and_captions_are_the_scenes(self, tmp_path):
        store = SceneStore.build(tmp_path, 5, 16, first_seed=40, chunk=2)
        scenes = render_scenes(range(40, 45), 16)
        assert len(store) == 5 and store.captions == scenes.captions
        got = store.batch(np.array([4, 0, 2]), np.array([3, 0, 7]))
        expected = torch.stack([scenes.pictures[s, d] for s, d in ((4, 3), (0, 0), (2, 7))]) * 2 - 1
        assert got.shape == (3, 3, 16, 16) and torch.allclose(got, expected, atol=1.01 / 255)

    @pytest.mark.slow
    def test_a_kill_costs_no_more_than_the_last_save(self, tmp_path):
        def kill(done, total):
            if done == 20:
                raise KeyboardInterrupt

        options = {"count": 24, "size": 8, "chunk": 1}
        with pytest.raises(KeyboardInterrupt):
            SceneStore.build(tmp_path / "a", **options, progress=kill)
        assert json.loads((tmp_path / "a" / "scenes.json").read_text())["done"] == 16
        with pytest.raises(JodiError, match="holds 16 of 24 scenes"):
            SceneStore(tmp_path / "a")
        # the kill may also have come between the two files
        captions = json.loads((tmp_path / "a" / "captions.json").read_text())
        (tmp_path / "a" / "captions.json").write_text(json.dumps([*captions, "of no scene"]))
        seen = []
        resumed = SceneStore.build(
            tmp_path / "a", **options, progress=lambda done, _: seen.append(done)
        )
        whole = SceneStore.build(tmp_path / "b", **options)
        assert seen[0] == 17
        assert np.array_equal(resumed.pictures, whole.pictures)
        assert resumed.captions == whole.captions

    def test_other_scenes_are_not_mixed_in(self, tmp_path):
        SceneStore.build(tmp_path, 2, 8)
        for other in ({"count": 3}, {"size": 16}, {"first_seed": 1}):
            with pytest.raises(JodiError, match="use another folder or remove it"):
                SceneStore.build(tmp_path, **{"count": 2, "size": 8, **other})

    def test_seeds_kept_for_evaluation_are_refused(self, tmp_path):
        for first, count in ((TRAIN_SEED_END, 1), (TRAIN_SEED_END - 2, 3), (-1, 2)):
            with pytest.raises(JodiError):
                SceneStore.build(tmp_path, count, 8, first_seed=first)
        assert not (tmp_path / "scenes.json").exists()
        assert len(SceneStore.build(tmp_path, 2, 8, first_seed=TRAIN_SEED_END - 2)) == 2

    def test_latents_are_those_of_the_autoencoder_and_kept(self, tmp_path):
        store = SceneStore.build(tmp_path / "scenes", 3, 16)
        model = tiny_autoencoder()
        latents = encode_store(store, model, tmp_path / "z.npy", batch=2)
        assert latents.shape == (3, 8, 4, 4, 4) and latents.dtype == torch.float16
        for scene, domain in ((0, 0), (2, 7)):
            z = model.encode(store.batch(np.array([scene]), np.array([domain])))
            assert torch.allclose(latents[scene, domain].float(), z[0], atol=2e-3, rtol=2e-3)
        assert torch.equal(encode_store(store, None, tmp_path / "z.npy"), latents)
