"""Training of the autoencoder: resumed runs, unit latents, and the loss by its formula."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.training.run import PICTURE_SHARES
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.scenes.store import SceneStore
from jodi_pack.kit.training.autoencoder import reconstruction_loss, train_autoencoder
from jodi_pack.kit.training.state import RunFolder
from jodi_pack.tests.helpers import (
    TINY_AE,
    random_picture,
)


class TestTrainAutoencoder:
    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, tmp_path_factory):
        return SceneStore.build(tmp_path_factory.mktemp("scenes"), 6, 16)

    def train(self, store, folder, steps=4, **options):
        config = dataclasses.replace(TINY_AE, scaling_factor=1.0)
        return train_autoencoder(
            store,
            folder,
            PICTURE_SHARES,
            steps=steps,
            config=config,
            batch=4,
            save_every=2,
            **options,
        )

    @pytest.mark.slow
    def test_resuming_after_a_kill_gives_the_very_same_weights(self, store, tmp_path, monkeypatch):
        whole = self.train(store, tmp_path / "whole")
        save = RunFolder.save

        def kill(self, state):
            if state["step"] == 4:
                raise KeyboardInterrupt
            save(self, state)

        monkeypatch.setattr(RunFolder, "save", kill)
        with pytest.raises(KeyboardInterrupt):
            self.train(store, tmp_path / "killed")
        monkeypatch.undo()
        resumed = self.train(store, tmp_path / "killed")
        for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b), name

    @pytest.mark.slow
    def test_latents_get_unit_variance_and_the_class_is_untouched(self, store, tmp_path):
        model = self.train(store, tmp_path)
        assert type(model) is DCAE and "forward" not in vars(model)
        with torch.inference_mode():
            pictures = [store.batch(np.arange(6), np.full(6, d)) for d in range(8)]
            z = model.encode(torch.cat(pictures))
        assert float(z.std()) == pytest.approx(1, abs=0.1)

    @pytest.mark.slow
    def test_a_few_pictures_are_learned(self, store, tmp_path):
        self.train(store, tmp_path, steps=100, lr=4e-3)
        rows = RunFolder(tmp_path).read_log()
        assert [r["step"] for r in rows] == [50, 100]
        assert rows[1]["loss"] < 0.8 * rows[0]["loss"], rows


def test_reconstruction_loss_equals_its_formula():
    output, target = random_picture(2, 4, 5), random_picture(2, 4, 5, seed=1)
    expected = []
    for b in range(2):
        e = (output[b] - target[b]).double()
        right = [abs(float(e[c, r, k + 1] - e[c, r, k])) for c, r, k in grid(3, 4, 4)]
        down = [abs(float(e[c, r + 1, k] - e[c, r, k])) for c, r, k in grid(3, 3, 5)]
        flat = [float(v) for v in e.flatten()]
        expected.append(
            0.5 * np.mean(np.abs(flat)) + np.mean(np.square(flat))
            + 0.5 * np.mean(right) + 0.5 * np.mean(down)
        )  # fmt: skip
    assert reconstruction_loss(output, target).tolist() == pytest.approx(expected, rel=1e-5)


def grid(*sizes):
    return itertools.product(*(range(s) for s in sizes))
