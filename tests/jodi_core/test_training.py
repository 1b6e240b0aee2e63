"""Training: the optimiser, the averages, what is kept on disk, and runs that were killed."""

import dataclasses
import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.model.transformer import JodiTransformer, init_weights
from jodi_pack.jodi_core.roles import Role, RolePlan
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.jodi_core.training.role_sampling import TASKS, sample_roles
from jodi_pack.jodi_core.training.run import PICTURE_SHARES
from jodi_pack.jodi_core.training.transformer import TrainingSettings, train_transformer
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, render_scenes
from jodi_pack.kit.scenes.store import SceneStore, encode_store
from jodi_pack.kit.training.autoencoder import reconstruction_loss, train_autoencoder
from jodi_pack.kit.training.muon import Muon, orthogonalize
from jodi_pack.kit.training.state import Ema, RunFolder, learning_rate_factor
from jodi_pack.tests.helpers import (
    TINY,
    TINY_AE,
    WORDS,
    randn,
    random_picture,
    relative_rms,
    tiny_autoencoder,
)


def well_conditioned(*shape, seed=0):
    """A random matrix with singular values from 0.3 to 1, on which bfloat16 is a small matter."""
    u, _, vh = torch.linalg.svd(randn(*shape, seed=seed), full_matrices=False)
    return u @ (torch.linspace(1, 0.3, u.shape[-1])[:, None] * vh)


class TestOrthogonalize:
    @pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (3, 12, 12), (2, 3, 5, 9)])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
    def test_every_singular_value_comes_near_one_and_directions_stay(self, shape, scale):
        u, _, vh = torch.linalg.svd(randn(*shape), full_matrices=False)
        spectrum = torch.linspace(1, 0.05, u.shape[-1]) * scale
        out = orthogonalize(u @ (spectrum[:, None] * vh))
        assert out.dtype == torch.float32
        # The quintic's own bounds are 0.68 to 1.13; bfloat16 adds a little.
        values = torch.linalg.svdvals(out)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.25
        turned = u.mT @ out @ vh.mT  # diagonal where the singular directions are the same
        off = turned - torch.diag_embed(torch.diagonal(turned, dim1=-2, dim2=-1))
        assert float(off.abs().max()) < 0.1

    def test_zero_stays_zero(self):
        assert not orthogonalize(torch.zeros(2, 4, 6)).any()


# Nesterov's mix at the first step with momentum 0.95. The scale would not matter but for bfloat16,
# whose rounding the iteration stretches to some percent.
FIRST = 0.05 + 0.95 * 0.05


class TestMuon:
    def moved(self, name, shape, grads, **options):
        """A parameter after one step for each gradient, started from zero."""
        p = torch.nn.Parameter(torch.zeros(shape))
        optimizer = Muon([(name, p)], lr=0.1, **options)
        for grad in grads:
            p.grad = grad.clone()
            optimizer.step()
        return p.detach()

    @pytest.mark.parametrize(
        ("name", "parts"),
        [("blocks.0.attn.qkv.weight", 3), ("blocks.0.cross_attn.kv_linear.weight", 2),
         ("blocks.0.mlp.inverted_conv.conv.weight", 2), ("blocks.0.attn.proj.weight", 1)],
    )  # fmt: skip
    def test_stacked_matrices_are_orthogonalised_each_alone(self, name, parts):
        grad = torch.cat([10.0**i * well_conditioned(8, 8, seed=i) for i in range(parts)])
        moved = self.moved(name, grad.shape, [grad])
        for piece, part in zip(moved.chunk(parts), grad.chunk(parts), strict=True):
            assert relative_rms(piece, -0.1 * orthogonalize(FIRST * part)) < 0.03
            assert float(torch.linalg.svdvals(piece).min()) > 0.06

    def test_momentum_is_nesterov_s(self):
        grads = [well_conditioned(6, 6, seed=s) for s in range(3)]
        moved, buffer, expected = self.moved("w", (6, 6), grads, momentum=0.9), 0, 0
        for grad in grads:
            buffer = 0.9 * buffer + 0.1 * grad
            expected = expected - 0.1 * orthogonalize(0.9 * buffer + 0.1 * grad)
        assert relative_rms(moved, expected) < 0.03

    def test_tall_matrices_step_further(self):
        grad = well_conditioned(32, 8)
        moved = self.moved("w", (32, 8), [grad])
        assert relative_rms(moved, -0.1 * 2 * orthogonalize(FIRST * grad)) < 0.03

    def test_convolutions_are_flattened_and_changed_in_place(self):
        grad = randn(8, 4, 1, 1)
        assert torch.allclose(
            self.moved("w", (8, 4, 1, 1), [grad]).flatten(1),
            self.moved("w", (8, 4), [grad.flatten(1)]),
        )

    def test_weights_decay_and_those_without_gradient_stay(self):
        a, b = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
        optimizer = Muon([("a", a), ("b", b)], lr=0.1, weight_decay=0.5)
        a.grad = torch.zeros(4, 4)
        optimizer.step()
        assert torch.allclose(a, torch.full((4, 4), 0.95)) and torch.equal(b, torch.ones(4, 4))


class TestEma:
    def test_is_the_running_average(self):
        model = torch.nn.Linear(2, 2)
        ema, expected = Ema(model, 0.9), [p.detach().clone() for p in model.parameters()]
        for step in range(30):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(step)
            ema.update(model, step)
            decay = min(0.9, (1 + step) / (10 + step))
            for average, p in zip(expected, model.parameters(), strict=True):
                average.mul_(decay).add_((1 - decay) * p.detach())
        ema.copy_to(model)
        for average, p in zip(expected, model.parameters(), strict=True):
            assert torch.allclose(average, p.detach(), rtol=1e-5)

    def test_leaves_the_model_alone_until_copied(self):
        model = torch.nn.Linear(2, 2)
        before = [p.detach().clone() for p in model.parameters()]
        Ema(model, 0.5).update(model, 0)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_learning_rate_climbs_stays_and_falls():
    factors = [learning_rate_factor(step, step / 100, 10) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert set(factors[10:70]) == {1.0}
    assert factors[70:] == pytest.approx([(100 - s) / 30 for s in range(70, 101)])
    assert learning_rate_factor(0, 0, 0) == 1.0 and learning_rate_factor(120, 1.2, 10) == 0.0


class TestRunFolder:
    def test_a_kill_while_saving_leaves_the_older_state(self, tmp_path, monkeypatch):
        run = RunFolder(tmp_path / "run")
        assert run.load() is None
        run.save({"step": 1, "w": torch.ones(2)})

        def killed(state, path):
            path.write(b"half a file")
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run.save({"step": 2})
        monkeypatch.undo()
        state = RunFolder(tmp_path / "run").load()
        assert state["step"] == 1 and torch.equal(state["w"], torch.ones(2))

    def test_the_log_keeps_the_last_report_of_a_step(self, tmp_path):
        run = RunFolder(tmp_path)
        assert run.read_log() == []
        for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.0), (3, 2.0)):
            run.log(step=step, loss=loss)
        with (tmp_path / "log.jsonl").open("a") as f:
            f.write('{"step": 4, "lo')
        assert [(r["step"], r["loss"]) for r in run.read_log()] == [(1, 5.0), (2, 3.0), (3, 2.0)]
        assert [r["step"] for r in run.read_log(up_to=2)] == [1, 2]


class TestRoleSampling:
    count = 4000

    @pytest.fixture(scope="class")
    @classmethod
    def drawn(cls):
        rng = np.random.default_rng(0)
        return [sample_roles(rng, 7) for _ in range(cls.count)]

    def near(self, share, expected, count):
        """Within five standard deviations of a fair draw."""
        return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)

    def test_tasks_have_their_shares(self, drawn):
        counts = Counter(str(task) for task, _ in drawn)
        assert sum(TASKS.values()) == pytest.approx(1)
        for task, share in TASKS.items():
            assert self.near(counts[task] / self.count, share, self.count), (task, counts)

    def test_every_pattern_has_a_meaning(self, drawn):
        for task, roles in drawn:
            assert len(roles) == 8 and set(roles) <= set(Role) and Role.GENERATE in roles
            if task != "free":
                assert RolePlan(tuple(roles)).trained("published")
        images = {"perception": {1}, "control": {0}, "joint": {0}, "text": {0}}
        images["free"] = {0, 1, 2}
        for task, allowed in images.items():
            assert {int(roles[0]) for name, roles in drawn if name == task} == allowed

    def test_labels_of_control_are_a_coin_each(self, drawn):
        control = [roles[1:] for task, roles in drawn if task == "control"]
        for label in zip(*control, strict=True):
            assert self.near(sum(r == Role.CONDITION for r in label) / len(label), 0.5, len(label))

    def test_perception_asks_for_few_labels_more_often(self, drawn):
        sizes = Counter(
            sum(r == Role.GENERATE for r in roles) for task, roles in drawn if task == "perception"
        )
        total, harmonic = sum(sizes.values()), sum(1 / k for k in range(1, 8))
        for k in range(1, 8):
            assert self.near(sizes[k] / total, 1 / k / harmonic, total)
        labels = Counter(
            i for task, roles in drawn if task == "perception"
            for i, r in enumerate(roles) if r == Role.GENERATE
        )  # fmt: skip
        share = total * 7 / harmonic / 7
        assert all(abs(labels[i] - share) < 0.15 * share for i in range(1, 8))

    def test_free_draws_every_role_of_every_domain(self, drawn):
        free = [roles for task, roles in drawn if task == "free"]
        assert all(set(column) == set(Role) for column in zip(*free, strict=True))

    def test_fewer_labels_and_seeds(self):
        for labels in (1, 3):
            rng = np.random.default_rng(1)
            drawn = [sample_roles(rng, labels) for _ in range(200)]
            assert all(len(roles) == 1 + labels and 0 in roles for _, roles in drawn)
            rng = np.random.default_rng(1)
            assert drawn == [sample_roles(rng, labels) for _ in range(200)]


class TestSceneStore:
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

    def test_another_seed_is_another_run(self, tmp_path):
        one = train(tmp_path / "1", dataclasses.replace(SETTINGS, steps=2))
        two = train(tmp_path / "2", dataclasses.replace(SETTINGS, steps=2, seed=1))
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)

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
