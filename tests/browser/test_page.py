"""ComfyUI's page, in a real browser: what a newcomer does with the pack, and what they then see."""

import json

import pytest
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.tests.host.graphs import NAMES, find, read
from jodi_pack.tests.hosts import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.comfyui]
FIRST = "perceive_everything"
READABLE = 0.6  # below, the page draws neither titles nor notes
NODES = sorted(json.loads((ROOT / "tests" / "nodes" / "schema.json").read_text(encoding="utf-8")))
ONLY = ("built-in jodi-nano", "built-in ddit-nano", "none", None)
BLUEPRINTS = sorted(file.stem for file in (ROOT / "subgraphs").glob("*.json"))


def template(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_page_reports_no_error(visit):
    assert not visit["errors"]


def test_every_template_is_on_the_shelf_with_its_picture(visit):
    assert sorted(card["name"] for card in visit["cards"]) == NAMES
    for card in visit["cards"]:
        own = load_image(ROOT / "workflows" / f"{card['name']}.jpg")[0]
        # newer pages name it by no path; their stand-in for a missing one has another size
        assert card["pictures"] == [own.shape[-1]], card["name"]


@pytest.mark.parametrize("name", NAMES)
def test_template_opens_whole(visit, name):
    """By its card: no missing node, no broken link, and every value as it was saved."""
    opened, stored = visit["templates"][name], template(name)
    assert opened["scale"] >= READABLE
    assert not opened["missing"]
    assert not opened["broken"]
    assert {n["id"]: n["type"] for n in opened["nodes"]} == {
        n["id"]: n["type"] for n in stored["nodes"]
    }
    by_id = {n["id"]: n for n in stored["nodes"]}
    downloads = [m["name"] for n in stored["nodes"] for m in n["properties"].get("models", ())]
    # newer pages mark loaders whose files are to be downloaded first, older ones ask in a dialog
    assert all(by_id[int(key)]["properties"].get("models") for key in opened["flagged"])
    for dialog in opened["dialogs"]:
        assert downloads and all(file in dialog for file in downloads), dialog
    links = [link[1:5] for link in stored["links"]]
    assert sorted(opened["links"]) == sorted(links)
    for node in opened["nodes"]:
        if node["type"].startswith("Jodi"):
            assert node["values"] == by_id[node["id"]]["widgets_values"], node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_would_run_the_api_twin(visit, name):
    posted, twin = visit["templates"][name]["prompt"], read(name)
    assert set(posted) == set(twin)
    for key, node in twin.items():
        assert posted[key]["class_type"] == node["class_type"]
        for entry, value in node["inputs"].items():
            assert posted[key]["inputs"][entry] == value, (node["class_type"], entry)


def test_perception_runs_to_the_end_and_its_pictures_appear(visit):
    run = visit["run"]
    assert run["ended"] == "success"
    graph = read(FIRST)
    previews = [key for key, node in graph.items() if node["class_type"] == "PreviewImage"]
    assert {key: run["drawn"].get(key) for key in previews} == {k: [[512, 512]] for k in previews}
    ((width, height),) = run["drawn"][find(graph, "SaveImage")]
    assert width > 4 * 192 and height > 2 * 192, "eight maps in two lines of four"
    (summary,) = run["texts"].values()
    assert any(text.startswith("image perception: generates") for text in summary)
    screenshot = load_image(visit["folder"] / "ran.png")[0]
    assert screenshot.std() > 0.05


def test_roles_can_be_wired_by_hand(visit):
    """Two wires drawn with the mouse are in the graph that is saved, and in the one that is run."""
    wired = visit["wired"]
    source, roles = int(wired["image"]), int(wired["roles"])  # newer pages give text
    slots = [wired["sockets"].index(name) for name in ("image", "depth")]
    assert wired["links"] == [[source, 0, roles, slot] for slot in slots]
    assert not wired["broken"]
    inputs = wired["prompt"][str(roles)]["inputs"]
    assert inputs["image"] == inputs["depth"] == [str(source), 0]
    assert not {"lineart", "edge", "normal"} & set(inputs)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprint_comes_out_of_the_node_library(visit, name):
    box = visit["blueprints"][name]
    stored = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    (outer,), (inner,) = stored["nodes"], stored["definitions"]["subgraphs"]
    assert box["title"] == name
    assert not box["missing"]
    assert box["inside"] == [node["type"] for node in inner["nodes"]]
    assert box["inputs"] == [[i["name"], i["type"]] for i in outer["inputs"] if "widget" not in i]
    assert box["outputs"] == [[o["name"], o["type"]] for o in outer["outputs"]]


def test_blueprint_runs(visit):
    boxed = visit["boxed"]
    assert boxed["ended"] == "success"
    assert boxed["drawn"][str(boxed["shown"])] == [[64, 64]]


def test_an_error_is_told_in_a_toast(visit):
    """In our own words, under the node's title, and with no folder before the error's name."""
    refused = visit["refused"]
    assert "Jodi Perceive" in refused["said"] and "tick at least one" in refused["said"]
    assert not [text for text in refused["dialogs"] if "custom_nodes" in text.split("Traceback")[0]]


def test_saving_and_reopening_keeps_every_value(visit):
    """Of one of each node, all values changed, through a page that remembers nothing."""
    saved = visit["saved"]
    assert saved["types"] == NODES
    assert [kind for kind, _ in saved["before"]] == saved["types"]
    assert saved["after"] == saved["before"]
    changed, fresh = dict(saved["before"]), dict(saved["fresh"])
    for kind, values in fresh.items():
        for new, old in zip(changed[kind], values, strict=True):
            # a list of files has one entry, or none, where no released weights are installed
            assert new != old or old in ONLY, (kind, old)
