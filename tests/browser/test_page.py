"""ComfyUI's page, in a real browser, with the pack's templates."""

import json

import pytest
from jodi_pack.jodi_core.picture_files import load_image
from jodi_pack.tests.host.graphs import NAMES, find, read
from jodi_pack.tests.hosts import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.comfyui]


def template(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_template_is_offered(visit):
    assert sorted(visit["templates"]) == NAMES
    assert not visit["errors"]


@pytest.mark.parametrize("name", NAMES)
def test_template_opens_whole(visit, name):
    """No missing node, no broken link, and every value as it was saved."""
    opened, stored = visit["templates"][name], template(name)
    assert not opened["missing"]
    assert {n["id"]: n["type"] for n in opened["nodes"]} == {
        n["id"]: n["type"] for n in stored["nodes"]
    }
    by_id = {n["id"]: n for n in stored["nodes"]}
    # newer pages mark loaders whose files are to be downloaded first
    assert all(by_id[int(key)]["properties"].get("models") for key in opened["flagged"])
    assert len(opened["links"]) == len(stored["links"])
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
    graph = read("perceive_everything")
    shown = [key for key, node in graph.items() if node["class_type"] == "PreviewImage"]
    for key in shown:
        assert run["pictures"][key] == [[64, 64]]
    assert run["pictures"][find(graph, "SaveImage")]
    assert len(run["drawn"]) >= 4 or run["elements"] >= 4
    screenshot = load_image(visit["folder"] / "ran.png")[0]
    assert screenshot.std() > 0.05


def test_roles_can_be_wired_by_hand(visit):
    assert visit["wired"] == ["depth"]
