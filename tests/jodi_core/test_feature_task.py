"""Training on stored features: the order, the roles, the loss, one process against two."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.model.transformer import JodiTransformer, init_weights
from jodi_pack.jodi_core.roles import Role, _published
from jodi_pack.jodi_core.training.network import TrainedJodi, recompute_blocks
from jodi_pack.jodi_core.training.order import BatchOrder
from jodi_pack.jodi_core.training.records import scan
from jodi_pack.jodi_core.training.role_sampling import draw_any, draw_published, draw_with_new
from jodi_pack.kit.errors import CheckpointError
from jodi_pack.kit.pictures.files import save_png
from jodi_pack.kit.training import saves as module
from jodi_pack.kit.training.saves import Saves, restore_state
from jodi_pack.kit.training.shards import Shards
from jodi_pack.kit.training.state import Ema, parameters_as
from jodi_pack.tests.jodi_core import feature_runs
from jodi_pack.tests.jodi_core.feature_runs import (
    NAMES,
    SMALL,
    UPDATES,
    make_folder,
    make_store,
    make_task,
    run,
    sampled,
    shrink,
)
from torch.func import functional_call


@pytest.fixture
def root(tmp_path):
    make_folder(tmp_path / "data")
    return tmp_path


class TestOrder:
    KINDS = ("a", "a", "b", "a", "b", "a", "a")

    def test_every_record_comes_in_every_epoch_with_its_own_kind(self):
        order = BatchOrder(self.KINDS, 2, seed=1)
        assert order.batches == 4
        for epoch in range(3):
            batches = [order.at(epoch * 4 + i) for i in range(4)]
            assert {i for batch in batches for i in batch} == set(range(7))
            assert all(len({self.KINDS[i] for i in batch}) == 1 for batch in batches)

    def test_it_is_a_function_of_the_number(self):
        first, second = BatchOrder(self.KINDS, 2, 1), BatchOrder(self.KINDS, 2, 1)
        forward = [first.at(i) for i in range(12)]
        assert [second.at(i) for i in reversed(range(12))] == forward[::-1]
        assert [BatchOrder(self.KINDS, 2, 2).at(i) for i in range(12)] != forward


class TestRoles:
    def test_published_patterns_and_no_others(self):
        rng = np.random.default_rng(0)
        drawn = {draw_published(rng, (True,) * 4)[1] for _ in range(2000)}
        patterns = itertools.product([*Role], repeat=4)
        assert drawn == {tuple(p) for p in patterns if _published(p)}

    def test_what_is_missing_is_ignored(self):
        rng = np.random.default_rng(0)
        for draw in (draw_published, draw_any, draw_with_new(3)):
            for _ in range(200):
                _, roles = draw(rng, (True, False, True, True))
                assert roles[1] == Role.IGNORE and Role.GENERATE in roles
        assert draw_published(rng, (True, False))[1] == (Role.GENERATE, Role.IGNORE)

    def test_the_new_domain_takes_part_but_for_replay(self):
        rng = np.random.default_rng(0)
        drawn = [draw_with_new(2)(rng, (True,) * 3) for _ in range(600)]
        old = [roles for task, roles in drawn if task.startswith("old")]
        assert all(roles[2] == Role.IGNORE for roles in old) and 240 < len(old) < 360
        assert all(roles[2] != Role.IGNORE for task, roles in drawn if task.startswith("new"))
        alone = [draw_with_new(2)(rng, (True, False, True))[1] for _ in range(50)]
        assert all(roles[2] != Role.IGNORE for roles in alone)


class TestNetwork:
    def test_it_is_the_same_function(self):
        model = JodiTransformer(SMALL)
        init_weights(model, 0)
        for p in model.parameters():
            p.data += 0.1
        trained = TrainedJodi.of(model)
        again = TrainedJodi.of(model)
        recompute_blocks(again)
        torch.manual_seed(0)
        x, clean = torch.randn(2, 2, 3, 3, 4, 4)
        caption, mask = torch.randn(2, 1, 4, 6), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
        role = torch.tensor([[0, 0, 1]] * 2)
        args = (x, torch.tensor([100.0, 700.0]), caption, mask, role, clean)
        results, gradients = [], []
        for network in (model, trained, again):
            out = network(*args)
            out.square().sum().backward()
            results.append(out)
            gradients.append({n: p.grad.clone() for n, p in network.named_parameters()
                              if p.grad is not None})  # fmt: skip
            network.zero_grad()
        for other, grads in zip(results[1:], gradients[1:], strict=True):
            torch.testing.assert_close(other, results[0])
            assert grads.keys() == gradients[0].keys()
            for name, gradient in grads.items():
                torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=1e-5)


class TestTask:
    def test_the_loss_counts_generated_domains_alone(self, root):
        """Against the definition, row by row and element by element."""
        task = make_task(root, UPDATES)
        for step in range(4):
            batch = task.draw(step, 0)
            noisy = batch.clean + batch.sigma[:, None, None, None, None] * (
                batch.noise - batch.clean
            )
            with torch.no_grad():
                velocity = task.model(
                    noisy.double(), batch.sigma * 1000,
                    None if batch.caption is None else batch.caption.double(), batch.mask,
                    torch.tensor([batch.roles] * len(noisy)), batch.clean.double(),
                )  # fmt: skip
            total, count = 0.0, 0
            for row in range(len(noisy)):
                for i, role in enumerate(batch.roles):
                    if role == Role.GENERATE:
                        wanted = batch.noise[row, i] - batch.clean[row, i]
                        total += float((velocity[row, i] - wanted).square().sum())
                        count += wanted.numel()
            assert float(task.losses_of(step, 0, 0.0).mean.detach()) == pytest.approx(
                total / count, rel=1e-6
            )

    def test_rows_have_the_text_of_their_picture_or_none(self, root):
        task = make_task(root, UPDATES)
        texts = {i: task.store.load(e).texts["caption"] for i, e in enumerate(task.entries)}
        dropped = 0
        for step in range(40):
            batch = task.draw(step, 1)
            chosen = task.order.at(step * 2 + 1)
            if batch.caption is None:
                assert batch.roles[0] == Role.CONDITION
                continue
            for row, index in enumerate(chosen):
                text = batch.caption[row, 0][batch.mask[row] > 0]
                if torch.equal(text, task.null.cpu()):
                    dropped += 1
                else:
                    torch.testing.assert_close(text, texts[index])
        assert 0 < dropped < 40

    def test_short_arithmetic_keeps_wide_weights(self, root):
        """Against casting inside the graph, where gradients find the wide weights themselves."""
        task = make_task(root, UPDATES, dtype=torch.bfloat16, own=torch.float32)
        wide = make_task(root, UPDATES, dtype=torch.float32, own=torch.float32)
        for index in (0, 1):
            task.losses_of(0, index, 0.0).mean.backward()
            batch = wide.draw(0, index)
            short = parameters_as(wide.model, torch.bfloat16) | {
                name: buffer.bfloat16() for name, buffer in wide.model.named_buffers()
            }
            wide.network = lambda *given, short=short: functional_call(wide.model, short, given)
            wide.dtype = torch.bfloat16
            wide._errors(batch).mean().backward()
        assert all(p.grad is None for p in task.network.parameters())
        for p, q in zip(task.model.parameters(), wide.model.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None)
            if q.grad is not None:
                assert p.grad.dtype == torch.float32
                torch.testing.assert_close(p.grad, q.grad)
        with torch.no_grad():
            next(task.model.parameters()).add_(1.0)
        task.refresh()
        assert torch.equal(task.network.domain_embedding, task.model.domain_embedding.bfloat16())


def in_processes(what, root):
    """Run `feature_runs.py` as a program."""
    program = Path(feature_runs.__file__)
    done = subprocess.run(
        [sys.executable, str(program), what, str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_are_one(root):
    alone, rows = run(root, "one")
    in_processes("two", root)
    two = torch.load(root / "two.pt")
    for name, p in alone.model.named_parameters():
        torch.testing.assert_close(two["state"][name], p.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two["sampled"], sampled(alone), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(rows, two["rows"], strict=True):
        for key in set(ours) - {"samples_per_s"}:
            assert ours[key] == pytest.approx(theirs[key], abs=1e-4), key
    # what two processes saved, one goes on from
    assert Saves(root / "two" / "saves", 2).steps() == [8, 10]
    task = make_task(root, UPDATES)
    step, _ = Shards(Saves(root / "two" / "saves", 2)).restore(task, Ema(task.model, 0.9))
    assert step == 10


class TestKill:
    @pytest.mark.slow
    def test_a_killed_run_goes_on_as_if_it_had_not_been(self, root):
        """Killed with signal 9 just before and after files reach the disk and folders their name.

        Every run dies at a later one of these moments, and the next goes on from what it left.
        """
        whole, _ = run(root, "whole", steps=5, save_every=1)
        in_processes("killed", root)
        resumed, _ = run(root, "killed", steps=5, save_every=1)
        for p, q in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(p, q)
        saves = root / "killed" / "saves"
        assert [path.name for path in sorted(saves.iterdir())] == ["step-00000004", "step-00000005"]

    @pytest.mark.long
    def test_a_full_disk_leaves_the_older_saves(self, root, monkeypatch):
        def full(path, text):
            raise OSError(28, "No space left on device")

        run(root, "full", steps=4)
        monkeypatch.setattr(module, "write_text", full)
        with pytest.raises(CheckpointError, match="No space left"):
            run(root, "full", steps=8)
        assert [p.name for p in (root / "full" / "saves").iterdir()] == ["step-00000004"]

    @pytest.mark.long
    def test_another_model_is_refused(self, root):
        run(root, "run", steps=4)
        save = root / "run" / "saves" / "step-00000004"
        other = torch.nn.Linear(2, 2)
        with pytest.raises(CheckpointError, match="another training"):
            restore_state(save, other, [], Ema(other, 0.9))


class TestFeatures:
    def test_what_is_there_is_not_made_again_and_what_changed_is(self, root):
        made = []

        def counting(pictures):
            made.append(len(pictures))
            return shrink(pictures)

        store = make_store(root, counting)
        records = [(record, {}) for record in scan(root / "data", NAMES)[0]]
        entries, faults = store.prepare(records)
        assert not faults and made == [3, 3, 3, 3, 2, 3]
        assert [e.grid for e in entries[:2]] == [(3, 5), (4, 4)]
        store.prepare(records)
        assert len(made) == 6
        save_png(root / "data" / "p1.png", torch.zeros(3, 32, 32))
        (root / "data" / "p2.txt").write_text("another thing")
        again, _ = store.prepare([(record, {}) for record in scan(root / "data", NAMES)[0]])
        assert len(made) == 8
        with pytest.raises(Exception, match="made again by another run"):
            store.load(entries[1])
        assert torch.equal(store.load(again[1]).latents["image"], torch.full((3, 4, 4), -1.0))
        next(entries[0].path.parent.glob("*.safetensors")).write_bytes(b"torn")
        assert len(store.prepare(records)[1]) == 0

    def test_a_bad_picture_is_a_fault_with_its_place(self, root):
        lines = []
        for i in (1, 2):
            lines.append({"image": f"p{i}.png", "caption": "x"})
        (root / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (root / "data" / "p2.png").write_bytes(b"no picture")
        records, _ = scan(root / "data", NAMES)
        entries, faults = make_store(root).prepare([(record, {}) for record in records])
        assert len(entries) == 1 and faults[0].place.endswith("metadata.jsonl:2")
