"""What users get from the registry: small, whole, and nothing that its scan takes for an attack.

The scan's own rules are not public; the traits below are those that packs were held up for.
"""

import json
import re
import zipfile

import pytest
from jodi_pack.tests.host import archive
from jodi_pack.tests.host.graphs import NAMES
from jodi_pack.tests.host.server import PACK
from jodi_pack.tests.hosts import ROOT

FOLDERS = {"cli", "jodi_core", "kernels", "locales", "nodes", "subgraphs", "web", "workflows"}
PLAIN = {
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "NOTICE",
}
MEGABYTES = 20  # all but 1 of them is the built-in model
TEXT = {".py", ".md", ".json", ".toml", ".txt", ""}
HELD_UP = {
    "network": r"\.(connect|bind|send|recv|listen)\(|\b(aiohttp|urllib|httpx)\b",
    "network modules": r"^\s*(import|from) (socket|requests|http|ftplib|smtplib|ssl)\b",
    "a blacklisted address": r"://raw\.githubusercontent\.com",
    "environment": r"os\.environ|os\.putenv",
    "commands": r"\bsubprocess\b|os\.(system|popen|exec|spawn)|\bpty\b",
    "code from text": r"(?<![\w.])(?<!def )(eval|exec|compile|__import__)\(",
    "hidden data": r"\b(base64|marshal)\b",
    "unsafe pickles": r"^\s*(import|from) (pickle|dill|joblib)\b",
}


@pytest.fixture(scope="module")
def files() -> list:
    return archive.files()


def test_it_holds_what_a_user_needs_and_no_more(files):
    top = {file.parts[0] for file in files}
    assert top == FOLDERS | PLAIN
    assert not [file for file in files if "__pycache__" in file.parts or file.suffix == ".pyc"]


def test_it_is_small(files, tmp_path):
    packed = tmp_path / "pack.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for file in files:
            target.write(ROOT / file, file)
    assert packed.stat().st_size < MEGABYTES * 1e6
    code = sum((ROOT / file).stat().st_size for file in files if "assets" not in file.parts)
    assert code < 3e6


@pytest.mark.parametrize("what", HELD_UP)
def test_nothing_holds_it_up_in_the_scan(files, what):
    pattern = re.compile(HELD_UP[what], re.MULTILINE)
    found = []
    for file in files:
        if file.suffix in TEXT:
            text = (ROOT / file).read_text(encoding="utf-8")
            found += [f"{file}: {match.group()}" for match in pattern.finditer(text)]
    assert not found


def test_the_scan_notices():
    samples = {
        "network": "sock.connect(address)",
        "network modules": "    from http import client",
        "a blacklisted address": "https://raw.githubusercontent.com/a",
        "environment": "os.environ.get('A')",
        "commands": "import subprocess",
        "code from text": "x = eval(text)",
        "hidden data": "import base64",
        "unsafe pickles": "import pickle",
    }
    for what, pattern in HELD_UP.items():
        assert re.search(pattern, samples[what], re.MULTILINE), what
    assert not re.search(HELD_UP["code from text"], "model.eval(); re.compile(a)")


def test_no_text_widget_is_a_path(server):
    """Strings that reach the disk would let a page choose files; files come from lists only."""
    known = server.get("/object_info")
    strings = {
        (name, key)
        for name, schema in known.items()
        if name.startswith("Jodi")
        for part in schema["input"].values()
        for key, entry in part.items()
        if entry[0] == "STRING"
    }
    assert strings == {
        ("JodiTextEncode", "text"),
        ("JodiRoles", "hold"),
        ("JodiExtraDomain", "name"),
        ("JodiDecodeLabel", "other_domain"),
    }


def test_metadata_is_complete():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", about["name"])
    assert "comfyui" not in about["name"] and re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert (ROOT / about["license"]["file"]).is_file() and about["description"]
    assert "Operating System :: OS Independent" in about["classifiers"]
    assert comfy["DisplayName"] and comfy["requires-comfyui"] == ">=0.8.0"
    assert "PublisherId" in comfy
    # WEB_DIRECTORY registers the pages already; both would serve them twice
    assert "web" not in comfy


def test_a_newcomer_finds_everything(server):
    """The folder as it comes, in a fresh ComfyUI: nodes, help, languages, templates, blueprints."""
    pack = server.folder / "custom_nodes" / PACK
    assert {path.name for path in pack.iterdir()} - {"__pycache__"} == FOLDERS | PLAIN
    log = server.log_text()
    assert "IMPORT FAILED" not in log and "Cannot import" not in log
    assert not [line for line in log.splitlines() if "pyproject" in line], "metadata not readable"
    assert re.search(rf"seconds: \S*{PACK}\n", log)
    nodes = [name for name in server.get("/object_info") if name.startswith("Jodi")]
    for name in nodes:
        for language in ("en", "zh"):
            page = server.fetch(f"/extensions/{PACK}/docs/{name}/{language}.md")
            assert page.startswith(b"#"), name
    texts = server.get("/i18n")
    for language in ("en", "zh"):
        assert set(nodes) <= set(texts[language]["nodeDefs"])
    for name in NAMES:
        served = server.fetch(f"/api/workflow_templates/{PACK}/{name}.json")
        assert json.loads(served) == json.loads((pack / f"workflows/{name}.json").read_bytes())
        picture = server.fetch(f"/api/workflow_templates/{PACK}/{name}.jpg")
        assert picture[:3] == b"\xff\xd8\xff", f"{name}.jpg is no JPEG"
    offered = server.get("/api/global_subgraphs")
    for key, entry in offered.items():
        if entry["source"] == "custom_node":
            stored = (pack / "subgraphs" / f"{entry['name']}.json").read_bytes()
            assert json.loads(server.get(f"/api/global_subgraphs/{key}")["data"]) == json.loads(
                stored
            )
