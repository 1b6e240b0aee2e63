"""One visit of a real page for each ComfyUI; the tests look at its report."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from jodi_pack.tests import hosts
from jodi_pack.tests.host.server import PACK, Server

VISIT = Path(__file__).with_name("page.mjs")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 1500  # seconds, for a machine that does other things too


def tools() -> tuple[str, str, Path]:
    """node, a browser ($JODI_CHROMIUM or on the path) and the folder of playwright-core."""
    node = shutil.which("node")
    browser = os.environ.get("JODI_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")
    named = os.environ.get("JODI_PLAYWRIGHT", "~/browser/node_modules")
    modules = Path(named).expanduser()
    playwright = (modules / "playwright-core").is_dir()
    lacking = {
        "node": node,
        "a Chromium (JODI_CHROMIUM)": browser,
        "playwright-core (JODI_PLAYWRIGHT, a node_modules)": playwright,
    }
    absent = [name for name, there in lacking.items() if not there]
    if absent:
        reason = f"no {', '.join(absent)}"
        if "browser" in os.environ.get("JODI_REQUIRE", "").split(","):
            pytest.fail(f"JODI_REQUIRE asks for browser: {reason}", pytrace=False)
        pytest.skip(reason)
    return node, browser, modules


@pytest.fixture(scope="session", params=hosts.host_params())
def visit(request, tmp_path_factory) -> dict:
    """The report of page.mjs; `folder` holds its pictures ($JODI_SCREENSHOTS keeps them)."""
    node, browser, modules = tools()
    host = hosts.present(request.param)
    keep = os.environ.get("JODI_SCREENSHOTS")
    folder = Path(keep) / str(host) if keep else tmp_path_factory.mktemp("page")
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(host, tmp_path_factory.mktemp("comfyui"))
    try:
        server.start()
        done = subprocess.run(
            [node, str(VISIT), server.url, PACK, str(folder), browser, str(modules)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stdout + done.stderr + server.log_text()[-2000:]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {**report, "folder": folder}
