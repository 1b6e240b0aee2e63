"""The sleeping team: it comes and goes, and changes no number."""

import os
import sys
import threading
import time

import pytest
import torch
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit import threads
from jodi_pack.kit.threads import short_waits

gomp = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="torch uses GCC's OpenMP library on Linux only"
)


def team_is_there() -> bool:
    return any(thread.name == threads.NAME for thread in threading.enumerate())


def system_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.fixture(autouse=True)
def short_linger(monkeypatch):
    """Gone at the start and at the end of every test, on cores that others want."""
    monkeypatch.setattr(threads, "LINGER", 0.05)
    monkeypatch.setattr(threads, "_cores_are_wanted", lambda: True)
    wait_until_gone()
    yield
    wait_until_gone()


def wait_until_gone() -> None:
    end = time.monotonic() + 60
    while team_is_there() and time.monotonic() < end:
        time.sleep(0.05)
    assert not team_is_there()


@gomp
def test_more_threads_than_cores_while_it_is_used_and_none_after():
    torch.zeros(1 << 20).add_(1)
    before, chosen = system_threads(), torch.get_num_threads()
    with short_waits("cpu"):
        assert team_is_there()
        assert system_threads() > before + len(os.sched_getaffinity(0))
        assert torch.get_num_threads() == chosen
    wait_until_gone()
    end = time.monotonic() + 60  # threads of the team end after the thread that owns it
    while system_threads() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert system_threads() <= before and torch.get_num_threads() == chosen


@gomp
def test_blocks_may_be_nested_and_end_by_errors():
    with short_waits("cpu"):
        with pytest.raises(ZeroDivisionError), short_waits(torch.device("cpu")):
            raise ZeroDivisionError
        time.sleep(0.3)  # longer than it lingers
        assert team_is_there()


@gomp
def test_many_threads_share_one_team():
    seen = []

    def use():
        for _ in range(20):
            with short_waits("cpu"):
                seen.append(sum(t.name == threads.NAME for t in threading.enumerate()))

    workers = [threading.Thread(target=use) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == [1] * 80


def test_other_devices_are_left_alone():
    with short_waits("cuda"), short_waits("mps"):
        assert not team_is_there()


def test_without_gccs_library_nothing_happens(monkeypatch):
    monkeypatch.setattr(threads, "_library", lambda: None)
    with short_waits("cpu"):
        assert not team_is_there()


@gomp
def test_on_idle_cores_nothing_happens(monkeypatch):
    monkeypatch.setattr(threads, "_cores_are_wanted", lambda: False)
    with short_waits("cpu"):
        assert not team_is_there()


@gomp
@pytest.mark.parametrize(("running", "wanted"), [(1, False), (2, True), (9, True)])
def test_cores_are_wanted_where_more_run_than_there_are(monkeypatch, running, wanted):
    monkeypatch.undo()
    threads._library()  # before reading is replaced
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    line = f"0.50 0.40 0.30 {running}/310 4242\n"
    monkeypatch.setattr(threads.Path, "read_text", lambda self: line)
    assert threads._cores_are_wanted() == wanted


@pytest.mark.slow
def test_pictures_are_the_same_bits(monkeypatch):
    pipeline = JodiPipeline.embedded()
    plan = pipeline.plan(["depth"], ["image"])
    job = {"conditions": {"image": torch.rand(1, 3, 64, 64)}, "size": (64, 64), "steps": 2}
    ours = pipeline.run(plan, **job)
    monkeypatch.setattr(threads, "_library", lambda: None)
    plain = JodiPipeline.embedded().run(plan, **job)
    assert torch.equal(ours.raw["depth"], plain.raw["depth"])
