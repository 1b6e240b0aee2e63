"""Importing the pack changes nothing: each check imports it in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Third-party packages the core may load; what these load in turn is theirs to answer for.
ALLOWED = ("torch", "einops", "numpy", "safetensors", "PIL")
# Slow to load, and needed by no import: a decorator or a default argument has pulled them in.
HEAVY = ("torch._dynamo", "torch._inductor", "torch.distributed", "torch.utils.tensorboard")

# Loads the root as ComfyUI does (by path, under a name that is a path), then the modules named on
# the command line, and prints what differs afterwards. The allowed packages are loaded before the
# first look, since importing torch alone registers warning filters and starts helpers.
PROBE = """
import importlib, importlib.util, json, logging, os, random, sys, threading, warnings
root, allowed, modules = json.loads(sys.argv[1])
for name in allowed:
    importlib.import_module(name)
if allowed:
    import einops.layers.torch, numpy, PIL.Image, PIL.PngImagePlugin, safetensors.torch, torch

def state():
    seen = {
        "environment": dict(os.environ),
        "sys.path": list(sys.path),
        "working folder": sorted(os.listdir()),
        "warning filters": repr(warnings.filters),
        "logging handlers": [repr(h) for h in logging.root.handlers],
        "logging level": logging.root.level,
        "logger jodi": [len(logging.getLogger("jodi").handlers), logging.getLogger("jodi").level],
        "threads": threading.active_count(),
        "random": hash(random.getstate()),
        "exception hook": repr(sys.excepthook),
    }
    if allowed:
        seen |= {
            "torch generator": torch.get_rng_state().sum().item(),
            "numpy generator": repr(numpy.random.get_state()[1][:4]),
            "torch threads": torch.get_num_threads(),
            "default dtype": repr(torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
            "matmul precision": torch.get_float32_matmul_precision(),
            "TF32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
            "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "CUDA in use": torch.cuda.is_initialized(),
            "picture size limit": PIL.Image.MAX_IMAGE_PIXELS,
        }
    return seen

before, known = state(), set(sys.modules)
print("-- ours from here --", file=sys.stderr, flush=True)
pack = root.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(
    pack, os.path.join(root, "__init__.py"), submodule_search_locations=[root]
)
module = importlib.util.module_from_spec(spec)
sys.modules[pack] = module
spec.loader.exec_module(module)
for name in modules:
    importlib.import_module(pack + "." + name)
after = state()
changed = {k: [before[k], after[k]] for k in before if before[k] != after[k]}
new = sorted(m for m in set(sys.modules) - known if m != pack and not m.startswith(pack + "."))
print(json.dumps({"changed": changed, "new": new, "stdlib": sorted(sys.stdlib_module_names)}))
"""


def probe(folder: Path, root: Path = ROOT, modules=(), allowed=()) -> dict:
    """Run PROBE in an empty `folder`: what changed, and which foreign modules came in."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([str(root), list(allowed), list(modules)])],
        cwd=folder,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *printed, report = done.stdout.splitlines()
    complaints = done.stderr.partition("-- ours from here --")[2].strip()
    return json.loads(report) | {"printed": [*printed, *complaints.splitlines()]}


def core_modules() -> list[str]:
    """Every module that runs without ComfyUI and changes no program: not those that need Triton."""
    layers = ("kernels", "kit", "jodi_core", "ddit_core", "nodes/wires")
    paths = [p for layer in layers for p in (ROOT / layer).rglob("*.py")]
    dotted = [p.relative_to(ROOT).with_suffix("").parts for p in sorted(paths)]
    names = [".".join(parts).removesuffix(".__init__") for parts in dotted]
    return [name for name in names if not name.split(".")[-1].startswith("triton_")]


def test_root_is_free(tmp_path):
    """ComfyUI imports every pack at start-up: ours must add nothing, not even a module."""
    report = probe(tmp_path)
    assert (report["changed"], report["printed"], report["new"]) == ({}, [], [])


@pytest.mark.slow
def test_core_has_no_side_effects(tmp_path):
    modules = core_modules()
    assert {"kit.config", "jodi_core.pipeline", "nodes.wires.rows"} <= {*modules}
    report = probe(tmp_path, modules=modules, allowed=ALLOWED)
    assert (report["changed"], report["printed"]) == ({}, [])

    foreign = {m.split(".")[0] for m in report["new"]} - {*ALLOWED, *report["stdlib"]}
    assert not foreign, f"importing the core loaded {sorted(foreign)}, not only {ALLOWED}"
    heavy = [m for m in report["new"] if m in HEAVY]
    assert not heavy, f"importing the core loaded {heavy}; import them where they are used"


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("import os; os.environ['JODI_TEST'] = '1'", "environment"),
        ("import sys; sys.path.append('elsewhere')", "sys.path"),
        ("import logging; logging.basicConfig()", "logging handlers"),
        ("import logging; logging.getLogger('jodi').setLevel(10)", "logger jodi"),
        ("import warnings; warnings.simplefilter('ignore')", "warning filters"),
        ("import random; random.seed(0)", "random"),
        ("open('left_behind', 'w').close()", "working folder"),
        ("print('hello')", "printed"),
        ("import sqlite3", "new"),
    ],
)
def test_the_probe_notices(tmp_path, line, key):
    """The same look at a pack that does what ours must not."""
    root = tmp_path / "pack"
    work = tmp_path / "work"
    root.mkdir()
    work.mkdir()
    (root / "__init__.py").write_text(line, encoding="utf-8")
    report = probe(work, root)
    assert report[key] if key in report else key in report["changed"]


def test_root_is_not_on_sys_path():
    on_path = [p for p in sys.path if Path(p or ".").resolve() == ROOT]
    assert not on_path, (
        "the project folder is on sys.path, where `import nodes` and `import kernels` would find "
        "ours instead of ComfyUI's and others'. Run `pytest`, not `python -m pytest` (which adds "
        "the working folder), and take the folder out of PYTHONPATH."
    )
