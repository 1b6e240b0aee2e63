"""The training loop: the data of every micro-batch, resuming, averages, rates."""

import dataclasses

import numpy as np
import pytest
import torch
from jodi_pack.kit.training import loop
from jodi_pack.kit.training.loop import LoopSettings, Losses, run_training
from jodi_pack.kit.training.state import RunFolder, learning_rate_factor


class Line:
    """A task small enough to be done again by hand: w is pulled to the numbers drawn."""

    def __init__(self):
        self.model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(self.model.weight)
        self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=1.0)]
        self.rates = [0.1]
        self.drawn = []

    def losses(self, rng, progress):
        target = float(rng.standard_normal())
        self.drawn.append((round(progress * SETTINGS.steps), target))
        loss = 0.5 * (self.model.weight - target).square().sum()
        return Losses(loss, 3, [("loss", float(loss.detach()), 1.0)])


SETTINGS = LoopSettings(
    steps=7, micro_batches=2, seed=5, warmup=2, clip=0.5, ema=0.9, save_every=3, log_every=2
)


def by_hand(settings):
    """Weight and average after every step, from the definitions."""
    w, average = 0.0, 0.0
    for step in range(settings.steps):
        targets = [
            np.random.default_rng((settings.seed, step, i)).standard_normal()
            for i in range(settings.micro_batches)
        ]
        grad = sum(w - t for t in targets) / settings.micro_batches
        grad *= min(1.0, settings.clip / (abs(grad) + 1e-6))
        w -= 0.1 * learning_rate_factor(step, step / settings.steps, settings.warmup) * grad
        decay = min(settings.ema, (1 + step) / (10 + step))
        average += (1 - decay) * (w - average)
    return w, average


def test_updates_are_those_of_the_definition(tmp_path):
    task = Line()
    run_training(task, tmp_path, SETTINGS)
    w, average = by_hand(SETTINGS)
    state = RunFolder(tmp_path).load()
    assert state["step"] == 7 and float(state["model"]["weight"]) == pytest.approx(w, rel=1e-9)
    assert float(task.model.weight.detach()) == pytest.approx(average, rel=1e-9)


def test_a_stopped_run_goes_on_with_the_same_data(tmp_path):
    class Killed(Line):
        def losses(self, rng, progress):
            if round(progress * SETTINGS.steps) == 5:
                raise KeyboardInterrupt
            return super().losses(rng, progress)

    whole, killed, resumed = Line(), Killed(), Line()
    run_training(whole, tmp_path / "whole", SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        run_training(killed, tmp_path / "killed", SETTINGS)
    run_training(resumed, tmp_path / "killed", SETTINGS)
    assert resumed.drawn == [item for item in whole.drawn if item[0] >= 3]  # saved after 3 updates
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_rows_hold_means_since_the_last_one(tmp_path):
    task, rows = Line(), []
    run_training(task, tmp_path, SETTINGS, rows.append)
    assert [row["step"] for row in rows] == [2, 4, 6]
    logged = RunFolder(tmp_path).read_log()
    assert [row["loss"] for row in logged] == [row["loss"] for row in rows]
    assert all(row["samples_per_s"] > 0 for row in rows)


def test_denormals_count_again_after_a_run(tmp_path):
    tiny = torch.tensor([1e-40])
    before = bool((tiny * 1.0 != 0).all())
    run_training(Line(), tmp_path, SETTINGS)
    assert bool((tiny * 1.0 != 0).all()) == before


def test_time_ends_a_training_and_is_counted_over_all_runs(tmp_path, monkeypatch):
    """A clock that moves one second at each look: the updates follow from the seconds."""
    now = iter(range(10_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))
    settings = dataclasses.replace(SETTINGS, steps=1000, seconds=6.0, save_every=2)
    task = Line()
    run_training(task, tmp_path, settings)
    state = RunFolder(tmp_path).load()
    assert 0 < state["step"] < 10 and len(task.drawn) == 2 * state["step"]
    assert state["seconds"] >= 6
    again = Line()
    run_training(again, tmp_path, settings)
    assert again.drawn == [] and torch.equal(again.model.weight, task.model.weight)
