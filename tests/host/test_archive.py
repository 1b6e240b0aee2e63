"""What users get from the registry: small, whole, and nothing that its scan takes for an attack.

The scan's own rules are not public; the traits below are those that packs were held up for.
"""

import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from jodi_pack.jodi_core.embedded import EXAMPLES, TRANSFORMER
from jodi_pack.kit.weights.read import read_state_dict
from jodi_pack.tests.host import archive
from jodi_pack.tests.host.graphs import NAMES, add, changed
from jodi_pack.tests.host.server import PACK, FailedError
from jodi_pack.tests.hosts import ROOT

FOLDERS = {
    "cli",
    "ddit_core",
    "jodi_core",
    "kernels",
    "kit",
    "locales",
    "nodes",
    "subgraphs",
    "web",
    "workflows",
}
PLAIN = {
    "__init__.py",
    "__main__.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "NOTICE",
}
# Read, and never written: who starts ComfyUI chooses kernels there, in one line, in one place; and
# torchrun tells its processes of each other in no other way.
ALLOWED = {"kernels/selection.py: os.getenv", "kit/training/shards.py: os.environ"}
MEGABYTES = 21  # all but 1 of them are the built-in models
TEXT = {".py", ".md", ".json", ".toml", ".txt", ""}
HELD_UP = {
    "network": r"\.(connect|bind|send|recv|listen)\(|\b(aiohttp|urllib|httpx)\b",
    "network modules": r"^\s*(import|from) (socket|requests|http|ftplib|smtplib|ssl)\b",
    "a blacklisted address": r"://raw\.githubusercontent\.com",
    "environment": r"os\.environ|os\.(get|put)env|from os import|import os as",
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


def is_weights(file) -> bool:
    return "assets" in file.parts or file.suffix == ".safetensors"


def test_it_is_small(files, tmp_path):
    packed = tmp_path / "pack.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for file in files:
            target.write(ROOT / file, file)
    assert packed.stat().st_size < MEGABYTES * 1e6
    code = sum((ROOT / file).stat().st_size for file in files if not is_weights(file))
    assert code < 3e6


@pytest.mark.parametrize("what", HELD_UP)
def test_nothing_holds_it_up_in_the_scan(files, what):
    pattern = re.compile(HELD_UP[what], re.MULTILINE)
    found = []
    for file in files:
        if file.suffix in TEXT:
            text = (ROOT / file).read_text(encoding="utf-8")
            found += [f"{file.as_posix()}: {m.group()}" for m in pattern.finditer(text)]
    assert sorted(set(found)) == (sorted(ALLOWED) if what == "environment" else [])


def python(*arguments, cwd, **variables) -> subprocess.CompletedProcess:
    """This Python, without what a checkout's own environment would add."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={"PATH": "", "SYSTEMROOT": "", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_the_line_that_converts_works_as_it_is_written(tmp_path):
    """In a folder that was copied into custom_nodes, with nothing installed."""
    pack = archive.unpack(tmp_path / "custom_nodes" / PACK)
    lines = set()
    for page in [pack / "README.md", *(pack / "workflows").glob("*.json")]:
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"(?:^|\\n) {4}(python custom_nodes.*?)(?=\\n|$)", text, re.MULTILINE)
        # graphs of D-DiT alone have nothing to convert
        assert len(found) == 1 or (not found and "Jodi.pth" not in text), page
        lines.update(found)
    (line,) = lines
    models = tmp_path / "models" / "diffusion_models"
    models.mkdir(parents=True)
    # what a file is, its content says; a pickle of this size would lack the sizes
    shutil.copyfile(TRANSFORMER, models / "Jodi.pth")
    done = python(*line.split()[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    converted, about = read_state_dict(models / "jodi.safetensors")
    assert about["kind"] == "jodi" and set(converted) == set(read_state_dict(TRANSFORMER)[0])
    assert {tensor.dtype for tensor in converted.values()} == {torch.bfloat16}


def test_the_folder_runs_by_any_name(tmp_path):
    """A dash and dots, as in a downloaded archive; and it is this folder that runs."""
    pack = archive.unpack(tmp_path / "comfyui-jodi-0.1.0")
    assert "usage: jodi" in python(pack, "--help", cwd=tmp_path).stdout
    done = python(pack.name, "bench", "--table", "figures.json", cwd=tmp_path)
    assert done.returncode == 1 and "run them from a checkout" in done.stderr


def test_the_archive_installs(tmp_path):
    """As `pip install FOLDER` does it, but from the setuptools that is here: no network."""
    pytest.importorskip("setuptools", "70.1", reason="builds wheels by itself since 70.1")
    pack, built = archive.unpack(tmp_path / "comfyui-jodi"), tmp_path / "built"
    build = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    built.mkdir()
    done = python("-c", build, built, cwd=pack)
    assert done.returncode == 0, done.stderr
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--target", site]
    done = python("-m", "pip", "install", *options, wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (script,) = (path for path in site.rglob("jodi*") if path.stem == "jodi" and path.is_file())
    done = subprocess.run(
        [script, "--help"],
        env={"PATH": "", "SYSTEMROOT": "", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "usage: jodi" in done.stdout, done.stderr
    where = "import comfyui_jodi.cli.main as m; print(m.__file__)"
    found = python("-c", where, cwd=tmp_path, PYTHONPATH=str(site)).stdout
    assert found.startswith(str(site))
    made = python("-m", "comfyui_jodi", "info", cwd=tmp_path, PYTHONPATH=str(site))
    assert made.returncode == 0, made.stderr


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
    for line in ("os.getenv('A')", "os.putenv('A', '1')", "from os import getenv"):
        assert re.search(HELD_UP["environment"], line), line
    for what, pattern in HELD_UP.items():
        assert re.search(pattern, samples[what], re.MULTILINE), what
    assert not re.search(HELD_UP["code from text"], "model.eval(); re.compile(a)")


def test_no_text_widget_is_a_path(server):
    """Strings that reach the disk would let a page choose files; files come from lists only.

    But for the prefix of a saved file: the next test looks where that leads.
    """
    known = server.get("/object_info")
    strings = {
        (name, key)
        for name, schema in known.items()
        if name.startswith(("Jodi", "DDiT"))
        for part in schema["input"].values()
        for key, entry in part.items()
        if entry[0] == "STRING"
    }
    assert strings == {
        ("JodiTextEncode", "text"),
        ("JodiRoles", "hold"),
        ("JodiExtraDomain", "name"),
        ("JodiDecodeLabel", "other_domain"),
        ("JodiClassMasks", "classes"),
        ("JodiRelight", "color"),
        ("JodiRelight", "ambient"),
        ("JodiSaveLayersEXR", "filename_prefix"),
        ("DDiTTextEncode", "text"),
        ("DDiTCaption", "question"),
        ("DDiTAsk", "question"),
        ("DDiTFill", "text"),
    }


@pytest.mark.parametrize("prefix", ["../out", "a/../../out", "{outside}/out", "../output_2/out"])
def test_a_prefix_cannot_leave_the_output_folder(server, prefix):
    outside = server.folder / "outside"
    graph = {"1": {"class_type": "JodiExample", "inputs": {"picture": next(iter(EXAMPLES))}}}
    save = add(
        graph,
        "JodiSaveLayersEXR",
        image=["1", 0],
        filename_prefix=prefix.format(outside=outside),
        normals="opengl",
        z="near high",
        near=1.0,
        far=10.0,
    )
    with pytest.raises(FailedError, match="outside the output folder"):
        server.run(graph)
    assert not outside.exists() and not list(server.folder.rglob("*.exr"))
    place = f"b{len(prefix)}"  # a graph that ran before would not run again
    inside = changed(graph, save, filename_prefix=f"a/../{place}/%width%")
    assert server.run(inside).outputs[save]["text"][0].endswith("_00001_.exr")
    (file,) = server.folder.rglob("*.exr")
    assert file == server.folder / "output" / place / "512_00001_.exr"
    file.unlink()


def test_metadata_is_complete():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", about["name"])
    assert "comfyui" not in about["name"] and re.fullmatch(r"\d+\.\d+\.\d+", about["version"])
    assert (ROOT / about["license"]["file"]).is_file() and about["description"]
    assert "Operating System :: OS Independent" in about["classifiers"]
    assert comfy["DisplayName"] and comfy["requires-comfyui"] == ">=0.8.0"
    # Empty until somebody publishes: the id is theirs, and any other name would be a lie. The
    # registry refuses an empty one, so nothing can go out by mistake.
    assert comfy["PublisherId"] == ""
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
    nodes = [n for n in server.get("/object_info") if n.startswith(("Jodi", "DDiT"))]
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
