"""Find real ComfyUIs, and run checks inside them with their own Python.

Looked for at $COMFYUI_PATH (several, separated by the path separator); else the ComfyUI whose
`custom_nodes` holds this pack; else ~/ComfyUI. Each runs with $COMFYUI_PYTHON, or its own .venv or
venv, or this Python. With JODI_REQUIRE=comfyui their absence is a failure, not a skip.
"""

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "tests" / "nodes" / "run_checks.py"
PATIENCE = 3600  # seconds for one file of checks, on a machine that does other things too


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the Python that runs it."""

    path: Path
    python: str

    @property
    def version(self) -> str:
        file = self.path / "comfyui_version.py"
        found = (
            re.search(r'"([\d.]+)"', file.read_text(encoding="utf-8")) if file.exists() else None
        )
        return found.group(1) if found else "unknown"

    def __str__(self) -> str:
        return f"{self.path.name}-{self.version}"


def find_hosts() -> list[Host]:
    """Every ComfyUI that the tests should run in; empty when there is none.

    Raises: FileNotFoundError when $COMFYUI_PATH names a folder that is no ComfyUI.
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        folders = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
        wrong = [str(folder) for folder in folders if not _is_comfyui(folder)]
        if wrong:
            raise FileNotFoundError(f"COMFYUI_PATH: {', '.join(wrong)} holds no ComfyUI (main.py)")
    else:
        around = ROOT.parent.parent if ROOT.parent.name == "custom_nodes" else None
        folders = [f for f in (around, Path.home() / "ComfyUI") if f and _is_comfyui(f)][:1]
    return [Host(folder.resolve(), _python(folder)) for folder in folders]


def host_params() -> list:
    """Parameters for tests that need a host: one each, or one None where there is none."""
    found = [pytest.param(host, id=str(host)) for host in find_hosts()]
    return found or [pytest.param(None, id="no-comfyui")]


def present(host: Host | None) -> Host:
    """The host, or a skip (a failure under JODI_REQUIRE=comfyui) where there is none."""
    if host is not None:
        return host
    reason = "no ComfyUI found; set COMFYUI_PATH to one"
    if "comfyui" in os.environ.get("JODI_REQUIRE", "").split(","):
        pytest.fail(f"JODI_REQUIRE asks for comfyui: {reason}", pytrace=False)
    pytest.skip(reason)


def check_names(file: Path) -> list[str]:
    """The functions named check_* of a file, without importing it."""
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
    ]


@functools.cache
def run_checks(host: Host, file: Path) -> dict[str, str | None]:
    """Run all checks of a file inside a host: name -> None, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [host.python, str(RUNNER), str(host.path), str(file), str(report)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if not report.exists():
            raise RuntimeError(f"{file.name} did not run in {host}:\n{done.stderr[-6000:]}")
        return json.loads(report.read_text(encoding="utf-8"))


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def _python(folder: Path) -> str:
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return named
    inside = ("bin/python", "Scripts/python.exe", "python.exe")
    for environment in (".venv", "venv", "../python_embeded"):
        for place in inside:
            candidate = folder / environment / place
            if candidate.is_file():
                return str(candidate)
    return sys.executable
