"""How many seconds the pack adds to the start of ComfyUI. The goal is below 0.1.

    python benchmarks/startup.py [COMFYUI ...] [--runs 7] [--json FILE]

Without a folder: those of $COMFYUI_PATH, else ~/ComfyUI. Each runs with its own .venv or venv, or
with this Python. Two ways to measure, both in fresh processes, the first of which does not count:
- load: what the host does to load the pack, once its own nodes are loaded;
- start: the host's start up to serving, with and without the pack by turns, and the difference of
  the medians. Its spread is that of a start of many seconds, so load is the sharper figure.
Seconds of the clock, and of processor time, which other work on the machine disturbs less. Compiled
files are kept, as they are on a user's machine from the second start on.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.1  # seconds
NOT_COPIED = (
    ".*",
    "__pycache__",
    "node_modules",
    "tests",
    "docs",
    "runs",
    "output",
    "build",
    "venv",
)
FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")
PLACES = (".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe")

# The host's own start-up, up to the point where it loads packs, then ours, timed.
LOAD = """
import asyncio, json, logging, os, sys, time
pack, base = sys.argv[1:]
sys.argv = ["main.py", "--cpu", "--base-directory", base]
sys.path.insert(0, os.getcwd())
import main, nodes, server
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
server.PromptServer(loop)
loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False))
known, modules = set(nodes.NODE_CLASS_MAPPINGS), set(sys.modules)
clock, cpu = time.perf_counter(), time.process_time()
loaded = loop.run_until_complete(
    nodes.load_custom_node(pack, known, module_parent="custom_nodes"))
clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
ours = len(set(nodes.NODE_CLASS_MAPPINGS) - known)
new = sorted({n.split(".")[0] for n in set(sys.modules) - modules if not n.startswith(pack)})
with open(os.path.join(base, "load.json"), "w") as file:
    json.dump({"loaded": loaded, "nodes": ours, "modules": new, "clock": clock, "cpu": cpu}, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("comfyui", nargs="*", type=Path, help="ComfyUI folders")
    parser.add_argument("--runs", type=int, default=7, help="of each kind; one more is thrown away")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    folders = options.comfyui or _usual_places()
    for folder in folders:
        if not (folder / "main.py").is_file():
            parser.error(f"{folder} holds no ComfyUI (main.py); name its folder")
    results = [measure(folder.resolve(), options.runs) for folder in folders]
    sys.stdout.write(table(results) + "\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(host: Path, runs: int) -> dict:
    """All seconds of one host, by kind: lists of {"clock": s, "cpu": s}."""
    kinds = {"load": [], "start without": [], "start with": []}
    result: dict = {}
    with tempfile.TemporaryDirectory() as temporary:
        bare, full = (_base(Path(temporary) / name) for name in ("bare", "full"))
        pack = full / "custom_nodes" / "jodi"
        shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(*NOT_COPIED))
        for _ in range(runs + 1):
            result = load(host, pack, bare)
            kinds["load"].append({key: result[key] for key in ("clock", "cpu")})
            kinds["start without"].append(start(host, bare))
            kinds["start with"].append(start(host, full))
    seconds = {kind: values[1:] for kind, values in kinds.items()}
    return {
        "host": str(host),
        "nodes": result["nodes"],
        "modules": result["modules"],
        "seconds": seconds,
    }


def load(host: Path, pack: Path, base: Path) -> dict:
    """One load of the pack. Raises: RuntimeError where the host could not load it."""
    _run(host, ["-c", LOAD, str(pack), str(base)])
    result = json.loads((base / "load.json").read_text(encoding="utf-8"))
    if not result["loaded"] or not result["nodes"]:
        raise RuntimeError(f"{host} did not load the pack; see its log on a usual start")
    return result


def start(host: Path, base: Path) -> dict:
    """One whole start: the host ends by itself where it would begin to serve."""
    return _run(host, ["main.py", "--cpu", "--quick-test-for-ci", "--base-directory", str(base)])


def _run(host: Path, arguments: list[str]) -> dict:
    python = next((str(host / p) for p in PLACES if (host / p).is_file()), sys.executable)
    before, begun = _children(), time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [python, *arguments],
        cwd=host,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    clock, after = time.perf_counter() - begun, _children()
    if done.returncode:
        raise RuntimeError(f"{host} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    if before is None or after is None:
        return {"clock": clock}
    return {"clock": clock, "cpu": after - before}


def _children() -> float | None:
    """Processor seconds of the processes that have ended, where the system tells them."""
    spent = os.times()
    return None if os.name == "nt" else spent.children_user + spent.children_system


def _base(folder: Path) -> Path:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    return folder


def _usual_places() -> list[Path]:
    named = [part for part in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if part]
    return [Path(part).expanduser() for part in named or ["~/ComfyUI"]]


def table(results: list[dict]) -> str:
    lines = [f"{'medians, seconds':40} {'clock':>16} {'processor':>16}"]
    for result in results:
        lines.append(f"{result['host']}: {result['nodes']} nodes")
        seconds = result["seconds"]
        for kind, runs in seconds.items():
            lines.append(f"  {kind:38} {_spread(runs, 'clock')} {_spread(runs, 'cpu')}")
        added = [
            _median(seconds["start with"], key) - _median(seconds["start without"], key)
            for key in ("clock", "cpu")
        ]
        lines.append(f"  {'start, difference':38} {added[0]:+16.3f} {added[1]:+16.3f}")
        lines.append(f"  modules it loads beside its own: {', '.join(result['modules']) or 'none'}")
        # on one thread, and waiting for nothing: on a free machine the clock shows the same
        key = "cpu" if "cpu" in seconds["load"][0] else "clock"
        verdict = "below" if _median(seconds["load"], key) < GOAL else "NOT below"
        lines.append(f"  load is {verdict} {GOAL} s ({key})")
    return "\n".join(lines)


def _median(runs: list[dict], key: str) -> float:
    values = [run[key] for run in runs if key in run]
    return statistics.median(values) if values else float("nan")


def _spread(runs: list[dict], key: str) -> str:
    """Median and half the distance between the quartiles."""
    values = sorted(run[key] for run in runs if key in run)
    if not values:
        return f"{'-':>16}"
    quarter = len(values) // 4
    half = (values[-1 - quarter] - values[quarter]) / 2
    return f"{_median(runs, key):8.3f} ± {half:5.3f}"


if __name__ == "__main__":
    main()
