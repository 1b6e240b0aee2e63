"""`auto` finds the faster implementation by itself: real kernels in the interpreter where there is
no GPU; the clock alone is replaced there, because an interpreter's speed means nothing."""

import json
import logging
import threading

import pytest
import torch
from jodi_pack.kernels import choices, dispatch, implementations, reference, selection, trials
from jodi_pack.kernels.choices import KERNEL, TORCH, Choice
from jodi_pack.kit.kernel_choices import remember_kernels_in
from jodi_pack.tests.helpers import randn

OPERATION = "layer_norm_modulate"


@pytest.fixture(autouse=True)
def undecided(device, monkeypatch):
    """Nothing decided, nothing remembered; kernels are tried on this machine's device."""
    monkeypatch.setattr(selection, "TRIED_ON", ("cuda", "cpu"))
    monkeypatch.setattr(choices, "_decided", {})
    monkeypatch.setattr(choices, "_memory", None)
    monkeypatch.setattr(choices, "_read", set())
    trials.forget()
    with selection.use("auto"):
        yield
    trials.wait()
    trials.forget()


@pytest.fixture
def clock(monkeypatch):
    """Seconds of each side, to be set: clock["kernel"], clock["torch"]."""
    seconds = {"kernel": 1e-5, "torch": 1e-4}

    def measured(call, arguments, on):
        call(*arguments)
        return seconds["torch" if call is getattr(reference, call.__name__) else "kernel"]

    monkeypatch.setattr(trials, "_seconds", measured)
    return seconds


@pytest.fixture
def arguments(device):
    return [t.to(device) for t in (randn(1, 2, 3, 8), randn(1, 2, 8), randn(1, 2, 8))]


@pytest.fixture
def answered(monkeypatch):
    """Who answered each call of the seam."""
    by = []
    kernel, plain = implementations.kernel, implementations.plain
    monkeypatch.setattr(dispatch, "kernel", lambda name: by.append(KERNEL) or kernel(name))
    monkeypatch.setattr(dispatch, "plain", lambda name: by.append(TORCH) or plain(name))
    return by


def index(tensor):
    return selection._index(tensor.device)


def call(arguments):
    return dispatch.layer_norm_modulate(*arguments, 1e-6)


def test_torch_answers_until_the_kernel_is_compiled_then_the_faster_one(
    clock, arguments, answered, monkeypatch
):
    expected = reference.layer_norm_modulate(*arguments, 1e-6)
    go_on = threading.Event()
    compile_one = trials._compile
    monkeypatch.setattr(trials, "_compile", lambda *a: go_on.wait(60) and compile_one(*a))
    for _ in range(3):
        assert torch.equal(call(arguments), expected)
    assert answered == [TORCH] * 3
    go_on.set()
    trials.wait()
    for _ in range(2):
        torch.testing.assert_close(call(arguments), expected, rtol=1e-5, atol=1e-5)
    assert answered == [TORCH] * 3 + [KERNEL] * 2


@pytest.mark.parametrize(
    ("kernel", "torchs", "winner"),
    [(1.0, 2.0, KERNEL), (2.0, 1.0, TORCH), (0.99, 1.0, TORCH), (0.9, 1.0, KERNEL)],
)
def test_the_faster_wins_and_torch_keeps_a_draw(clock, arguments, kernel, torchs, winner):
    clock |= {"kernel": kernel, "torch": torchs}
    choice = trials.judge(OPERATION, (*arguments, 1e-6))
    assert choice == Choice(winner, kernel * 1e6, torchs * 1e6)


@pytest.mark.parametrize("wrong", [lambda x: 1.001 * x, lambda x: x / 0, torch.zeros_like])
def test_a_kernel_that_differs_is_refused_and_named(
    clock, arguments, answered, monkeypatch, caplog, wrong
):
    real = implementations.kernel(OPERATION)
    monkeypatch.setattr(trials, "kernel", lambda name: lambda *a: wrong(real(*a)))
    call(arguments)
    trials.wait()
    with caplog.at_level(logging.INFO, logger="jodi"):
        call(arguments)
        call(arguments)
    assert answered == [TORCH] * 3
    (line,) = (r for r in caplog.records if OPERATION in r.message)
    assert line.levelno == logging.WARNING and "differ by" in line.message


def test_a_kernel_that_fails_leaves_the_call_to_torch(
    clock, arguments, answered, monkeypatch, caplog
):
    def broken(name):
        def fail(*_):
            raise RuntimeError("out of resources: shared memory\nand a long trace")

        return fail

    monkeypatch.setattr(trials, "kernel", broken)
    with caplog.at_level(logging.INFO, logger="jodi"):
        call(arguments)
        trials.wait()
        call(arguments)
    assert answered == [TORCH] * 2
    assert "torch (RuntimeError: out of resources: shared memory)" in caplog.text


def test_each_shape_class_has_a_trial_of_its_own(clock, device):
    for rows in (3, 4, 5, 8):
        x = randn(1, 1, rows, 8).to(device)
        dispatch.layer_norm_modulate(x, x[:, :, 0], x[:, :, 0], 1e-6)
        trials.wait()
        dispatch.layer_norm_modulate(x, x[:, :, 0], x[:, :, 0], 1e-6)
    assert set(choices.table(index(x))) == {
        f"layer_norm_modulate float32 8 {rows} 111" for rows in (4, 8)
    }


def test_operands_are_not_kept_alive_while_a_kernel_compiles(clock, monkeypatch, device):
    import weakref

    go_on = threading.Event()
    monkeypatch.setattr(trials, "_compile", lambda *a: go_on.wait(60))
    x = randn(1, 2, 3, 8).to(device)
    seen = weakref.ref(x)
    dispatch.layer_norm_modulate(x, x[:, :, 0].clone(), x[:, :, 0].clone(), 1e-6)
    del x
    alive = seen() is not None
    go_on.set()
    assert not alive


def test_every_operation_can_be_tried(clock, device):
    x, shift, scale, gate = (t.to(device) for t in (randn(1, 2, 4, 16), *[randn(1, 2, 16)] * 3))
    q, k, v = (
        randn(1, 4, 2, 8).to(device),
        randn(1, 4, 2, 8).to(device),
        randn(1, 4, 2, 8).to(device),
    )
    weight, bias = randn(16, 1, 3, 3).to(device), randn(16).to(device)
    maps = randn(1, 8, 4, 4).to(device).contiguous(memory_format=torch.channels_last)
    calls = {
        "relu_linear_attention": (q, k, v, 1e-8, None),
        "layer_norm_modulate": (x, shift, scale, 1e-6),
        "gated_residual_norm_modulate": (x, x, gate, shift, scale, 1e-6),
        "depthwise_conv3x3_glu": (x, weight, bias, (2, 2)),
        "rms_norm_channels": (maps, bias[:8], bias[:8], 1e-5, maps, "relu"),
    }
    assert set(calls) == set(implementations.OPERATIONS)
    for operation, given in calls.items():
        for _ in range(2):
            getattr(dispatch, operation)(*given)
            trials.wait()
    winners = {shape.split()[0]: c.winner for shape, c in choices.table(index(x)).items()}
    assert winners == dict.fromkeys(calls, KERNEL)


class TestMemory:
    def decided(self, arguments):
        call(arguments)
        trials.wait()
        call(arguments)
        return choices.table(index(arguments[0]))

    def restart(self, monkeypatch):
        monkeypatch.setattr(choices, "_decided", {})
        monkeypatch.setattr(choices, "_read", set())
        trials.forget()

    def test_a_choice_outlives_the_process(self, tmp_path, clock, arguments, answered, monkeypatch):
        remember_kernels_in(tmp_path / "new" / "folder")
        first = self.decided(arguments)
        self.restart(monkeypatch)
        answered.clear()
        call(arguments)  # no trial: the first call is answered by the winner
        assert answered == [KERNEL] and choices.table(index(arguments[0])) == first

    @pytest.mark.parametrize("what", ["torch", "triton", "driver", "source"])
    def test_another_version_asks_again(
        self, tmp_path, clock, arguments, answered, monkeypatch, what
    ):
        remember_kernels_in(tmp_path)
        self.decided(arguments)
        before = choices.made_by(index(arguments[0]))
        if what == "torch":
            monkeypatch.setattr(torch, "__version__", "99.0")
        elif what == "triton":
            monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
        elif what == "source":
            monkeypatch.setattr(choices, "_source", lambda: "other")
        else:
            monkeypatch.setattr(choices, "made_by", lambda i: before.replace("driver ", "driver 9"))
        self.restart(monkeypatch)
        answered.clear()
        self.decided(arguments)
        assert answered == [TORCH, KERNEL]
        kept = json.loads((tmp_path / "kernels.json").read_text())
        assert list(kept) == [choices.made_by(index(arguments[0]))] != [before]

    def test_other_cards_keep_theirs(self, tmp_path, clock, arguments):
        other = {"Another card, driver 1": {"layer_norm_modulate": {"winner": "torch"}}}
        (tmp_path / "kernels.json").write_text(json.dumps(other))
        remember_kernels_in(tmp_path)
        self.decided(arguments)
        kept = json.loads((tmp_path / "kernels.json").read_text())
        assert len(kept) == 2 and kept["Another card, driver 1"] == other["Another card, driver 1"]

    @pytest.mark.parametrize(
        "content", [b"", b"[]", b"{", b"\xff\xfe", b'{"X": 3}', b'{"MADE": {"a": {"winner": 4}}}']
    )
    def test_a_damaged_file_costs_a_trial(self, tmp_path, clock, arguments, answered, content):
        made_by = choices.made_by(index(arguments[0]))
        (tmp_path / "kernels.json").write_bytes(content.replace(b"MADE", made_by.encode()))
        remember_kernels_in(tmp_path)
        assert self.decided(arguments)
        assert answered == [TORCH, KERNEL]
        json.loads((tmp_path / "kernels.json").read_text())

    def test_a_folder_that_cannot_be_written_is_a_line_in_the_log(
        self, tmp_path, clock, arguments, answered, caplog
    ):
        (tmp_path / "file").write_text("")
        remember_kernels_in(tmp_path / "file")
        with caplog.at_level(logging.WARNING, logger="jodi"):
            self.decided(arguments)
        assert answered == [TORCH, KERNEL] and "cannot be kept" in caplog.text


def test_a_compiler_looks_up_and_never_measures(clock, arguments, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not selection.kernel_answers(OPERATION, 8, tuple(arguments), (*arguments, 1e-6))
    assert not trials._states


def test_plain_cpu_calls_are_not_tried(clock, monkeypatch):
    monkeypatch.setattr(selection, "TRIED_ON", ("cuda",))
    x = randn(1, 2, 3, 8)
    dispatch.layer_norm_modulate(x, x[:, :, 0], x[:, :, 0], 1e-6)
    assert not trials._states


@pytest.mark.gpu
def test_on_a_gpu_the_clock_is_the_cards(gpu):
    x = torch.randn(2, 8, 1024, 2240, device=gpu, dtype=torch.bfloat16)
    shift = torch.randn(2, 8, 2240, device=gpu, dtype=torch.bfloat16)
    choice = trials.judge(OPERATION, (x, shift, shift, 1e-6))
    assert choice.reason is None and choice.kernel_us > 0 and choice.torch_us > 0
