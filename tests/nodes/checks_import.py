"""Loading the pack into a running host adds our modules, and changes nothing of the host's.

Run by test_nodes.py inside a ComfyUI; each look is taken in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jodi_pack

ROOT = Path(jodi_pack.__file__).parent

# ComfyUI waits for our modules when it starts, so these are loaded when they are used.
LATER = (
    "benchmarks",
    "cli",
    "jodi_core.evaluation",
    "jodi_core.training",
    "kit.scenes",
    "kit.training",
    "kit.weights.convert",
)

# The host's own cache of folder listings, filled by whoever asks for a list of files.
LISTINGS = ["len folder_paths.filename_list_cache"]

# Loads the host's own modules as its main.py does, looks at them, loads the pack, looks again.
PROBE = """
import asyncio, importlib.util, json, logging, os, sys, threading, warnings
host, root = sys.argv[1:3]
sys.argv = sys.argv[:1]
sys.path[0] = host
os.chdir(host)
from comfy.cli_args import args
args.cpu = True
import utils.extra_config, execution, nodes, server
import torch

def of_the_host():
    seen = {}
    for name, module in list(sys.modules.items()):
        file = str(getattr(module, "__file__", ""))
        if not file.startswith(host + os.sep) or "site-packages" in file:
            continue
        for key, value in list(vars(module).items()):
            seen[f"{name}.{key}"] = id(value)
            if isinstance(value, (dict, list, set)):
                seen[f"len {name}.{key}"] = len(value)
            if isinstance(value, type) and value.__module__ == name:
                for part, thing in list(vars(value).items()):
                    seen[f"{name}.{key}.{part}"] = id(thing)
    return seen

def state():
    return {
        "environment": dict(os.environ),
        "sys.path": list(sys.path),
        "warning filters": len(warnings.filters),
        "logging handlers": [repr(h) for h in logging.root.handlers],
        "logging level": logging.root.level,
        "threads": threading.active_count(),
        "torch generator": torch.get_rng_state().sum().item(),
        "torch threads": torch.get_num_threads(),
        "default dtype": repr(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
    }

before, hosts, known = state(), of_the_host(), set(sys.modules)
exec_before = os.listdir(host)
spec = importlib.util.spec_from_file_location(
    "pack_x_", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
)
pack = importlib.util.module_from_spec(spec)
sys.modules["pack_x_"] = pack
spec.loader.exec_module(pack)
alone = sorted(set(sys.modules) - known)
extension = asyncio.run(pack.comfy_entrypoint())
for node in asyncio.run(extension.get_node_list()):
    node.GET_SCHEMA()
    node.INPUT_TYPES()
after, hosts_after = state(), of_the_host()
print("REPORT " + json.dumps({
    "alone": alone,
    "new": sorted(set(sys.modules) - known),
    "state": {k: [repr(before[k]), repr(after[k])] for k in before if before[k] != after[k]},
    "host": sorted(k for k in hosts if hosts_after.get(k) != hosts[k]),
    "looked at": len(hosts),
    "files": sorted(set(os.listdir(host)) - set(exec_before)),
}))
"""


def probe() -> dict:
    """Run PROBE with this Python on this host."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, os.getcwd(), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    reports = [line for line in done.stdout.splitlines() if line.startswith("REPORT ")]
    assert done.returncode == 0 and reports, done.stderr[-3000:]
    return json.loads(reports[0].removeprefix("REPORT "))


def check_loading_adds_what_nodes_need_and_changes_nothing():
    report = probe()
    assert report["alone"] == ["pack_x_"]
    ours = {name.removeprefix("pack_x_.") for name in report["new"]} - {"pack_x_"}
    more = sorted(n for n in ours if n.startswith(LATER) or "triton_" in n)
    assert not more, f"start-up loads {more} too; import them where they are used"
    paths = [p.relative_to(ROOT).with_suffix("").parts for p in (ROOT / "nodes").rglob("*.py")]
    nodes = {".".join(parts).removesuffix(".__init__") for parts in paths}
    assert nodes <= ours, f"no node needs {sorted(nodes - ours)}"
    assert report["state"] == {} and report["files"] == []
    assert report["looked at"] > 5000
    assert report["host"] == LISTINGS, f"changed in the host: {report['host']}"
