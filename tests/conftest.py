"""Load the pack by path, exactly as the host does, under the name `jodi_pack`."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACK = "jodi_pack"


def _load_pack():
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


if PACK not in sys.modules:  # tests may import this file again, as a part of the pack
    _load_pack()


# Fixtures that start a ComfyUI as users do: whatever asks for one is slow.
SERVERS = {"server", "visit"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


def shared_dir() -> Path:
    """Folder of the reference vectors: $JODI_SHARED, else ../shared beside the project."""
    return Path(os.environ.get("JODI_SHARED", ROOT.parent / "shared"))


def required(kind: str) -> bool:
    """Whether a skip for lack of `kind` must fail instead ($JODI_REQUIRE, comma separated)."""
    return kind in os.environ.get("JODI_REQUIRE", "").split(",")


def skip_or_fail(kind: str, reason: str):
    if required(kind):
        pytest.fail(f"JODI_REQUIRE asks for {kind}: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    path = shared_dir() / "reference"
    if not path.is_dir():
        skip_or_fail("reference", f"no reference vectors at {path}; set JODI_SHARED")
    return path
