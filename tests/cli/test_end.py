"""Signals that end the program, devices that are none, and a machine that refuses."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jodi_pack.cli import evaluate
from jodi_pack.cli.model import choose_device
from jodi_pack.cli.options import UsageError

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="these signals are POSIX's")
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(params=SIGNALS, ids=str)
def sent(request, monkeypatch, picture):
    """The signal comes when a file is whole and has not got its name yet; a.png is there."""
    picture("a.png")

    def unhandled(number, frame):
        raise AssertionError("nobody handles the signal")

    before = signal.signal(request.param, unhandled)
    monkeypatch.setattr(os, "fsync", lambda fd: os.kill(os.getpid(), request.param))
    yield request.param
    assert signal.getsignal(request.param) is unhandled, "the handler of before is back"
    signal.signal(request.param, before)


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix == ".part"]


@POSIX
def test_a_signal_leaves_no_part_of_a_picture(jodi, tiny, tmp_path, sent):
    options = (*tiny.options, "--labels", "depth", "--steps", 1, "--out", "made")
    status, out, err = jodi("perceive", tmp_path / "a.png", *options)
    assert (status, out) == (128 + sent, []) and err[-1] == "asked to end; finished files are whole"
    assert list((tmp_path / "work" / "made").iterdir()) == []


@POSIX
def test_a_signal_leaves_no_part_of_weights(jodi, tiny, tmp_path, sent):
    status, out, _ = jodi("convert", tiny.transformer, "new.safetensors")
    assert (status, out) == (128 + sent, [])
    assert list((tmp_path / "work").iterdir()) == []


@POSIX
def test_a_signal_leaves_no_part_of_scenes(jodi, tmp_path, sent):
    status, _, _ = jodi("train", "scenes", "--run", "r", "--count", 1, "--workers", 1, "--size", 8)
    assert status == 128 + sent and not parts(tmp_path)


@POSIX
def test_what_was_started_to_survive_its_terminal_does(jodi, tiny, picture, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        monkeypatch.setattr(os, "fsync", lambda fd: os.kill(os.getpid(), signal.SIGHUP))
        options = (*tiny.options, "--labels", "depth", "--steps", 1)
        assert jodi("perceive", picture("a.png"), *options)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "name",
    ["hpu", "meta", "xla", "npu", "privateuseone", "cuda:99", "cpu:-1", "0", "", "CPU "],
)
def test_devices_that_are_none_here(name):
    with pytest.raises(UsageError, match=r"cannot be used here .*try --device cpu") as caught:
        choose_device(name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "command",
    [
        ("perceive", "a.png"),
        ("demo",),
        ("verify", "."),
        ("bench",),
        ("train", "latents", "--run", "r", "--vae", "embedded"),
    ],
    ids=" ".join,
)
def test_every_command_says_so_of_a_device(jodi, picture, command):
    picture("work/a.png")
    if command[1:2] == ("latents",):
        run = ("--run", "r", "--count", 1, "--workers", 1, "--size", 16)
        assert jodi("train", "scenes", *run)[0] == 0
    status, out, err = jodi(*command, "--device", "hpu")
    assert (status, out) == (2, []) and "'hpu' cannot be used here" in err[-1], err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b.json"), "a/b.json: Permission"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; check"),
        (MemoryError(), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to ..."), "not enough memory"),
    ],
)
def test_what_the_machine_refuses_is_no_fault_of_the_program(jodi, monkeypatch, error, told):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(evaluate, "load_pipeline", refuse)
    status, out, err = jodi("evaluate")
    assert (status, out, len(err)) == (1, [], 1), err
    assert told in err[0] and "fault of the program" not in err[0]


def run(words, folder, **options):
    line = [sys.executable, str(ROOT), *map(str, words)]
    return subprocess.run(
        line, cwd=folder, text=True, timeout=600, check=False, stderr=subprocess.PIPE, **options
    )


@POSIX
@pytest.mark.slow
def test_output_that_nobody_takes(tiny, picture, tmp_path):
    """Closed, full, or read by a program that has ended: no traceback, and files are made."""
    words = ("perceive", picture("a.png"), *tiny.options, "--labels", "depth,normal", "--steps", 1)
    for name in ("closed", "full", "gone"):
        command = (*words, "--out", name)
        if name == "closed":
            done = run(command, tmp_path, preexec_fn=lambda: os.close(1))
        elif name == "full":
            with open("/dev/full", "w") as full:
                done = run(command, tmp_path, stdout=full)
        else:
            reader, writer = os.pipe()
            os.close(reader)
            done = run(command, tmp_path, stdout=writer)
            os.close(writer)
        assert "Traceback" not in done.stderr and "unexpected" not in done.stderr, done.stderr
        assert (tmp_path / name / "a_depth.png").exists(), (name, done.stderr)
        assert name == "closed" or done.returncode == 1


@POSIX
@pytest.mark.slow
def test_messages_that_nobody_reads_stop_nothing(tiny, picture, tmp_path):
    words = ("perceive", picture("a.png"), *tiny.options, "--labels", "depth", "--steps", 1)
    line = [sys.executable, str(ROOT), *map(str, words), "--out", "made"]
    done = subprocess.run(
        line, cwd=tmp_path, timeout=600, check=False, preexec_fn=lambda: os.close(2)
    )
    assert done.returncode == 0 and (tmp_path / "made" / "a_depth.png").exists()
