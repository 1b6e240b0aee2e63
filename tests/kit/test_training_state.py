"""The state of a training run: averages, rates, and files that survive a kill."""

import pytest
import torch
from jodi_pack.kit.training.state import Ema, RunFolder, learning_rate_factor


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
