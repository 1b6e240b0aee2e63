"""Every node has a help page and translations that cover it. Needs no ComfyUI."""

import json
import re
from pathlib import Path

import pytest
from jodi_pack.jodi_core.embedded import TEXT_ENCODER
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests/nodes/schema.json").read_text(encoding="utf-8"))
LANGUAGES = ("en", "zh")
IDS = (
    *("JodiLoad", "JodiLoadModel", "JodiLoadVAE", "JodiLoadTextEncoder", "JodiTextEncode"),
    *("JodiRoles", "JodiExtraDomain", "JodiSampler", "JodiSamplerSelect", "JodiScheduler"),
    *("JodiDecodeLabel", "JodiDecodeAll", "JodiDepth", "JodiNormal", "JodiSegmentation"),
    *("JodiContactSheet", "JodiEnsemble", "JodiPerceive", "JodiRelight", "JodiLatentTransform"),
    *("JodiSaveLayersEXR", "JodiGeometry", "JodiPoseKeypoints", "JodiPosePicture"),
    *("JodiClassMasks", "JodiMapForControlNet"),
    *("DDiTLoad", "DDiTTextEncode", "DDiTCaption", "DDiTAsk", "DDiTFill"),
)
CHINESE = re.compile("[\u4e00-\u9fff]")
BOTH = pytest.mark.parametrize("language", LANGUAGES)


def texts(language: str) -> dict:
    path = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(path.read_text(encoding="utf-8"))


def strings(values) -> list[str]:
    if isinstance(values, dict):
        return [s for value in values.values() for s in strings(value)]
    return [values]


def test_the_nodes_are_the_thirty_one():
    assert set(SCHEMA) == set(IDS)


@BOTH
def test_texts_cover_every_input_and_output(language):
    known = texts(language)
    assert set(known) == set(SCHEMA)
    for node, schema in SCHEMA.items():
        assert list(known[node]["inputs"]) == [i["id"] for i in schema["inputs"]], node
        outputs = [str(n) for n in range(len(schema["outputs"]))]
        assert list(known[node]["outputs"]) == outputs, node
        for item in (*known[node]["inputs"].values(), *known[node]["outputs"].values()):
            assert item["name"].strip() and item["tooltip"].strip(), (node, item)


@BOTH
def test_texts_hold_nothing_that_the_page_would_interpret(language):
    """Braces, bars and at-signs are placeholders, plurals and links of its message format."""
    for text in strings(texts(language)):
        assert not set("{}|@") & set(text), text


def test_chinese_texts_are_chinese():
    for node, values in texts("zh").items():
        assert CHINESE.search(values["display_name"] + values["description"]), node
        for name, item in {**values["inputs"], **values["outputs"]}.items():
            assert CHINESE.search(item["tooltip"]), (node, name)


@BOTH
@pytest.mark.parametrize("node", IDS)
def test_help_pages_cover_every_input_and_output(node, language):
    page = (ROOT / "web" / "docs" / node / f"{language}.md").read_text(encoding="utf-8")
    schema = SCHEMA[node]
    for item in schema["inputs"]:
        assert f"`{item['id']}`" in page, f"{item['id']} is not on the page"
        choices = [o for o in item.get("options", []) if item["type"] == "COMBO" and o]
        for option in choices if item["id"] not in ("class_name",) else ():
            assert f"`{option}`" in page, f"the choice {option} of {item['id']} is not explained"
    for item in schema["outputs"]:
        shown = item["name"] or item["type"]  # what stands at the socket
        assert f"`{shown}`" in page, f"{shown} is not on the page"
    assert page.startswith(f"# {texts(language)[node]['display_name']}\n")
    assert len(page) > 400
    if language == "zh":
        assert len(CHINESE.findall(page)) > 100
    assert "](http" not in page and "<script" not in page


@BOTH
def test_the_words_of_the_built_in_model_are_listed(language):
    with safe_open(TEXT_ENCODER, "pt") as file:
        words = json.loads(file.metadata()["vocabulary"])
    page = (ROOT / "web" / "docs" / "JodiTextEncode" / f"{language}.md").read_text(encoding="utf-8")
    assert ", ".join(words) in page


def test_no_page_without_a_node():
    folders = {path.name for path in (ROOT / "web" / "docs").iterdir()}
    assert folders == set(IDS)
