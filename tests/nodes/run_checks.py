"""Run the functions named `check_*` of one file inside a ComfyUI, and report each.

Started by the host's own Python: run_checks.py HOST FILE REPORT. The pack is loaded as the host
does it, by path. REPORT becomes JSON: name of the check -> null, or the traceback.
"""

import importlib.util
import inspect
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, path: Path, **kwargs):
    spec = importlib.util.spec_from_file_location(name, path, **kwargs)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main(host: Path, file: Path, report: Path) -> None:
    sys.argv = sys.argv[:1]  # the host reads them
    sys.path[0] = str(host)  # this folder goes: nothing of ours is imported by a plain name
    os.chdir(host)
    from comfy.cli_args import args

    args.cpu = True
    import torch

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "2"))))
    load("jodi_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    checks = load("checks", file)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, check in list(vars(checks).items()):
            if not name.startswith("check_") or check.__module__ != checks.__name__:
                continue  # something that the file imports
            try:
                check(Path(folder)) if inspect.signature(check).parameters else check()
                results[name] = None
            except BaseException:  # the host's interrupt is one
                results[name] = traceback.format_exc()
    report.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
