"""How many pictures `jodi label` labels a second, and what the cluster engine costs of that.

    python benchmarks/label.py 500 2000

For each number of small random pictures: one process without Dask, then one worker and two. Each
run is a command of its own. Between the two numbers lies what a picture costs, without what
the start of a run costs: seconds on the clock, and seconds of processor time of all its processes,
which depend less on what else the machine does.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = ("--labels", "depth", "--steps", "1", "--batch", "4", "--device", "cpu", "--quiet")
WAYS = {
    "one process": (),
    "one worker": ("--workers", "1"),
    "two workers": ("--workers", "2"),
}


def make_pictures(folder: Path, count: int) -> None:
    """PNGs of 64 x 64 smooth colours."""
    folder.mkdir()
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(folder / f"p{i:05}.png")


def measure(photos: Path, out: Path, options) -> tuple[float, float]:
    """Seconds on the clock, and of processor time, that a run takes."""
    line = [sys.executable, str(ROOT), "label", str(photos), "--out", str(out), *OPTIONS, *options]
    started, before = time.monotonic(), os.times()
    subprocess.run(line, check=True)
    after = os.times()
    used = [getattr(after, n) - getattr(before, n) for n in ("children_user", "children_system")]
    return time.monotonic() - started, sum(used)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(counts: list[int]) -> None:
    tell("| pictures | how | seconds | a second | processor seconds |\n" + "| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as place:
        seen = {}
        for count in counts:
            photos = Path(place) / f"photos{count}"
            make_pictures(photos, count)
            for name, options in WAYS.items():
                seconds, used = measure(photos, Path(place) / f"{count}{name}", options)
                seen.setdefault(name, []).append((count, seconds, used))
                rate = f"{count / seconds:.2f}"
                tell(f"| {count} | {name} | {seconds:.1f} | {rate} | {used:.1f} |")
    for name, rows in seen.items():
        (few, early, light), (many, late, heavy) = rows[0], rows[-1]
        if many > few:
            more = many - few
            tell(
                f"{name}: {1000 * (late - early) / more:.0f} ms a picture on the clock, "
                f"{1000 * (heavy - light) / more:.0f} ms of processor time"
            )


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [500, 2000])
