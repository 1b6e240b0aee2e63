"""Training of the transformer: resumed runs are the same run, and something is learned."""

import dataclasses

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.model.transformer import JodiTransformer, init_weights
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.jodi_core.training.transformer import TrainingSettings, train_transformer
from jodi_pack.kit.training.state import RunFolder
from jodi_pack.tests.helpers import (
    TINY,
    WORDS,
    randn,
)

TEXT = ClosedVocabularyEncoder(WORDS, caption_length=6)
CAPTIONS = ["a red house", "the blue sky", "a tree", "a house under the sky"]
SETTINGS = TrainingSettings(
    steps=6, tokens=48, micro_batches=2, save_every=2, log_every=1, warmup=2, dtype=torch.float32
)


def latents():
    """Smooth latents whose domains follow from the image's, so that there is something to learn."""
    coarse = randn(4, 1, 4, 2, 2)
    return torch.cat([coarse * s for s in (1, -1, 0.5, 2, -0.5, 1.5, -2, 1)], dim=1)


def fresh_model():
    config = dataclasses.replace(
        TINY, latent_channels=4, caption_channels=TEXT.channels, caption_length=6
    )
    model = JodiTransformer(config)
    init_weights(model, 0)
    return model


def train(folder, settings=SETTINGS, **options):
    return train_transformer(
        latents(), CAPTIONS, TEXT, folder, settings, start_from=fresh_model(), **options
    )


class TestTrainTransformer:
    @pytest.mark.slow
    def test_resuming_after_a_kill_gives_the_very_same_weights(self, tmp_path):
        def kill(row):
            if row["step"] == 5:
                raise KeyboardInterrupt

        whole = train(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", report=kill)
        assert RunFolder(tmp_path / "killed").load()["step"] == 4
        resumed = train(tmp_path / "killed")
        for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
            assert torch.equal(a, b), name
        logs = [RunFolder(tmp_path / f).read_log() for f in ("whole", "killed")]
        for rows in logs:
            for row in rows:
                row.pop("time"), row.pop("samples_per_s")
        assert logs[0] == logs[1] and [r["step"] for r in logs[0]] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.slow
    def test_the_result_is_the_average_and_a_finished_run_is_not_run_again(self, tmp_path):
        model = train(tmp_path)
        state = RunFolder(tmp_path).load()
        assert not model.training
        for name, p in model.named_parameters():
            assert torch.equal(p, state["ema"][name]), name
        assert any(not torch.equal(state["ema"][k], state["model"][k]) for k in state["ema"])
        again = train(tmp_path, report=lambda row: pytest.fail("trained again"))
        assert all(
            torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
        )

    @pytest.mark.slow
    def test_another_seed_is_another_run(self, tmp_path):
        one = train(tmp_path / "1", dataclasses.replace(SETTINGS, steps=2))
        two = train(tmp_path / "2", dataclasses.replace(SETTINGS, steps=2, seed=1))
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)

    @pytest.mark.slow
    def test_bfloat16_trains_too(self, tmp_path):
        model = train(tmp_path, dataclasses.replace(SETTINGS, steps=3, dtype=torch.bfloat16))
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())

    @pytest.mark.slow
    def test_a_few_scenes_are_learned(self, tmp_path):
        settings = dataclasses.replace(
            SETTINGS, steps=60, tokens=64, save_every=60, log_every=15, adam_lr=5e-3
        )
        train(tmp_path, settings)
        rows = RunFolder(tmp_path).read_log()
        losses = [np.mean([v for k, v in row.items() if k.startswith("task.")]) for row in rows]
        assert losses[-1] < 0.7 * losses[0], losses
        assert {k for row in rows for k in row} >= {"image", "depth", "openpose", "task.control"}
