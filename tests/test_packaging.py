"""What pip and ComfyUI install is what the code needs, and all of it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", line.strip())[0] for line in requirements}


def test_requirements_agree(project):
    """ComfyUI reads requirements.txt, pip reads pyproject.toml: the same five packages."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    plain = [line for line in lines if line.strip() and not line.startswith("#")]
    assert names(plain) == names(project["project"]["dependencies"])
    assert names(plain) == {"torch", "safetensors", "einops", "numpy", "pillow"}


def test_torch_is_never_pinned(project):
    """A pin would replace the torch of the ComfyUI that installs us."""
    for line in project["project"]["dependencies"]:
        assert not re.search(r"[=~]=|<", line), f"{line}: give a lower bound only"
    assert not re.search(r"[=<~]", (ROOT / "requirements.txt").read_text(encoding="utf-8"))


def test_every_package_is_installed(project):
    """A package missing from pyproject.toml works from a checkout and fails once installed.

    One that the archive lacks fails to install: benchmarks stay in the checkout.
    """
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {
        path.parent.relative_to(ROOT)
        for layer in ("kernels", "kit", "jodi_core", "ddit_core", "cli")
        for path in (ROOT / layer).rglob("__init__.py")
    }
    present = {".".join(["comfyui_jodi", *folder.parts]) for folder in folders}
    assert present <= listed, f"add to [tool.setuptools] packages: {sorted(present - listed)}"
    assert listed == {"comfyui_jodi", *present}
