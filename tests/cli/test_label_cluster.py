"""`jodi label` on a cluster of Dask: killed in every way, and the same bits in the end."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if os.name == "nt":
    pytest.skip("processes are killed by signals here", allow_module_level=True)
psutil = pytest.importorskip("psutil", reason="distributed is not installed")
pytest.importorskip("distributed")

ROOT = Path(__file__).resolve().parents[2]
WORKERS, BATCH = 2, 2
KEY = "annotation_depth"
PATIENCE = 600  # seconds that a busy machine may take for what takes a few


def make_pictures(folder: Path, count: int) -> Path:
    """Small pictures of three shapes, as PNG and JPEG."""
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        size = [(64, 64), (80, 60), (56, 72)][i % 3]
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        image.save(folder / f"p{i:05}.{'jpg' if i % 2 else 'png'}")
    return folder


class Run:
    """One `jodi label`, in a process group of its own."""

    def __init__(self, photos: Path, out: Path, *options):
        line = [sys.executable, str(ROOT), "label", str(photos), "--out", str(out)]
        line += ["--labels", "depth", "--steps", "1", "--batch", str(BATCH), "--device", "cpu"]
        self.out = out
        self.log = out.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [*line, *map(str, options)],
            cwd=out.parent,
            stderr=self.log,
            stdout=self.log,
            start_new_session=True,
            # as many threads as each of the workers gets by itself: bits depend on their number
            env={**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // WORKERS))},
        )

    @property
    def told(self) -> str:
        return self.out.with_suffix(".log").read_text()

    def wait(self) -> int:
        status = self.process.wait(timeout=PATIENCE)
        self.log.close()
        return status

    def workers(self) -> list:
        """Processes that compute, as soon as there are any."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
        except psutil.Error:
            return []

    def kill_worker(self, chance: random.Random) -> None:
        until = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < until:
            found = self.workers()
            if found:
                found = sorted(found, key=lambda p: p.pid)
                chance.choice(found).send_signal(signal.SIGKILL)
                return
            time.sleep(0.05)

    def kill_driver(self) -> None:
        """The workers of a killed driver must end by themselves."""
        orphans = self.workers()
        self.process.kill()
        self.wait()
        _, alive = psutil.wait_procs(orphans, timeout=60)
        assert not alive, "workers outlive their driver"


def wait_for(run: Run, batches: int) -> None:
    """Until so many batches are finished, or the run is."""
    until = time.monotonic() + PATIENCE
    while run.process.poll() is None and len(finished(run.out)) < batches:
        assert time.monotonic() < until, run.told
        time.sleep(0.02)


def finished(out: Path) -> set[int]:
    return {int(path.stem) for path in (out / ".label").glob("*.jsonl")}


def written(out: Path) -> dict[str, tuple]:
    """Which file each map is, told by what changes when it is written again."""
    stats = {path.stem: path.stat() for path in (out / KEY).glob("[!.]*.png")}
    return {stem: (s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for stem, s in stats.items()}


def batches_of(out: Path) -> dict[str, int]:
    batches = json.loads((out / "label.json").read_text())["batches"]
    return {source["stem"]: n for n, batch in enumerate(batches) for source in batch}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def label_undisturbed(photos: Path, out: Path, *options) -> dict[str, bytes]:
    run = Run(photos, out, *options)
    assert run.wait() == 0, run.told
    return contents(out)


class Watch:
    """What kills cost: batches that were written again, of finished and of all.

    A batch may be written again long after the kill that broke it off: the worker that has it now
    may still be starting. So what kills may cost is summed up, and what they did is taken from it.
    """

    def __init__(self, out: Path):
        self.out, self.seen, self.finished, self.left = out, {}, set(), 0

    def look(self, allowed: int) -> None:
        """After a kill that may cost `allowed` batches, and before the next."""
        done, now = finished(self.out), written(self.out)
        self.left += allowed
        if self.seen:
            number = batches_of(self.out)
            again = {number[stem] for stem, before in self.seen.items() if now[stem] != before}
            assert not again & self.finished, "a finished batch was computed again"
            self.left -= len(again)
            assert self.left >= 0, f"batches {sorted(again)} were written again, of no kill"
        self.seen, self.finished = now, done


def check(out: Path, whole: dict[str, bytes], count: int) -> None:
    """Every file valid, every picture labelled exactly once, the bits of an undisturbed run."""
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["image"] for line in lines}) == count
    for line in lines:
        for key in ("image", KEY):
            with Image.open(out / line[key]) as image:
                image.load()
                assert image.size == (line["info"]["width"], line["info"]["height"])
    found = contents(out)
    assert set(found) == set(whole), "the same files, and no others"
    different = [path for path, data in whole.items() if found[path] != data]
    assert not different


@pytest.mark.long
def test_killed_workers_and_drivers_change_nothing(tmp_path):
    """12 pictures in 6 batches by 2 workers: a worker is killed, the driver, and one goes on alone.

    Starting a process costs more than labelling here, so few are started.
    """
    photos, out = make_pictures(tmp_path / "photos", 12), tmp_path / "made"
    alone = label_undisturbed(photos, tmp_path / "alone")
    watch, run = Watch(out), Run(photos, out, "--workers", WORKERS)
    wait_for(run, 1)
    run.kill_worker(random.Random(0))
    watch.look(0)
    wait_for(run, 3)
    run.kill_driver()
    watch.look(1)
    run = Run(photos, out)
    assert run.wait() == 0, run.told
    watch.look(WORKERS)
    check(out, alone, 12)


@pytest.mark.slow
def test_many_pictures_and_a_kill_every_seconds(tmp_path):
    """JODI_LABEL_PICTURES pictures (2 000), a kill every JODI_LABEL_SECONDS (20)."""
    count = int(os.environ.get("JODI_LABEL_PICTURES", "2000"))
    seconds = float(os.environ.get("JODI_LABEL_SECONDS", "20"))
    chance = random.Random(int(os.environ.get("JODI_LABEL_SEED", "0")))
    photos, out = make_pictures(tmp_path / "photos", count), tmp_path / "made"
    whole = label_undisturbed(photos, tmp_path / "whole", "--workers", WORKERS)
    options, kills = ("--workers", WORKERS), {"worker": 0, "driver": 0}
    watch, run, allowed = Watch(out), Run(photos, out, *options), 0
    while True:
        try:
            run.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        else:
            break
        what = chance.choice(["worker", "worker", "driver"])
        kills[what] += 1
        if what == "worker":
            run.kill_worker(chance)
        else:
            run.kill_driver()
        if (out / KEY).is_dir():
            watch.look(allowed)
            allowed = 0
        allowed += 1 if what == "worker" else WORKERS
        if what == "driver":
            run = Run(photos, out, *options)
    assert run.wait() == 0, run.told
    watch.look(allowed)
    print(f"{count} pictures, kills: {kills}")
    assert sum(kills.values()) >= 2, "the pictures were too few to be disturbed"
    check(out, whole, count)


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_line_goes_on(tmp_path):
    """Ctrl-C reaches the whole group of processes, as from a terminal."""
    photos, out = make_pictures(tmp_path / "photos", 24), tmp_path / "made"
    run = Run(photos, out, "--workers", WORKERS)
    wait_for(run, 2)
    workers = run.workers()
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait() == 130, run.told
    assert "Traceback" not in run.told
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert not (out / "metadata.jsonl").exists()
    before, done = written(out), finished(out)
    assert len(done) >= 2
    run = Run(photos, out, "--workers", WORKERS)
    assert run.wait() == 0, run.told
    number, after = batches_of(out), written(out)
    assert all(after[stem] == f for stem, f in before.items() if number[stem] in done)
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 24


def dask(*words) -> subprocess.Popen:
    line = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    if words[0] == "worker":
        line = [sys.executable, "-m", "distributed.cli.dask_worker"]
    return subprocess.Popen(
        [*line, *words[1:]], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def scheduler():
    """Starts schedulers, each with a worker: scheduler() -> (process, worker, address)."""
    started = []

    def start():
        process = dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        started.append(process)
        address = ""
        while not address:
            line = process.stderr.readline()
            assert line, "the scheduler did not start"
            address = next(iter(re.findall(r"Scheduler at:\s+(tcp://\S+)", line)), "")
        started.append(dask("worker", address, "--nthreads", "1", "--no-dashboard"))
        return process, started[-1], address

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_lost_scheduler_is_named_and_the_work_goes_on_with_another(tmp_path, scheduler):
    photos, out = make_pictures(tmp_path / "photos", 24), tmp_path / "made"
    process, _, address = scheduler()
    run = Run(photos, out, "--scheduler", address)
    wait_for(run, 2)
    process.kill()
    assert run.wait() == 1, run.told
    assert f"the scheduler at {address} is lost (" in run.told.splitlines()[-1]
    assert "Traceback" not in run.told
    done = finished(out)
    assert len(done) >= 2
    before = written(out)
    run = Run(photos, out, "--scheduler", scheduler()[2])
    assert run.wait() == 0, run.told
    number, after = batches_of(out), written(out)
    assert all(after[stem] == f for stem, f in before.items() if number[stem] in done)
    assert len((out / "metadata.jsonl").read_text().splitlines()) == 24


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_named(tmp_path):
    photos, out = make_pictures(tmp_path / "photos", 1), tmp_path / "made"
    run = Run(photos, out, "--scheduler", "tcp://127.0.0.1:9")
    assert run.wait() == 1
    assert "cannot be reached" in run.told and "Traceback" not in run.told
    assert not out.exists()
