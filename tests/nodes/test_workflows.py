"""The shipped workflows, as files: sound by themselves, and twins of what tests post.

tests/host holds them to a real server's schema and runs them.
"""

import json
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
WITH_DDIT = {"ask_and_branch", "caption_to_new_picture", "fill_the_blanks", "picture_from_text"}
EXPECTED = WITH_DDIT | {
    "any_to_any",
    "depth_normal_to_picture",
    "joint_generation",
    "maps_to_union_controlnet",
    "mesh_from_picture",
    "perceive_everything",
    "perception_to_controlnet",
    "photo_to_exr",
    "relight",
    "repaint_region",
    "sampler_custom",
    "steady_video_maps",
}


def template(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_graph_has_both_forms():
    assert set(NAMES) == EXPECTED
    assert {file.stem for file in (WORKFLOWS / "api").glob("*.json")} == EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_links_are_the_same_from_both_ends(name):
    graph = template(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) and max(nodes) == graph["last_node_id"]
    assert max(link[0] for link in graph["links"]) == graph["last_link_id"]
    ends = set()
    for link, source, output, target, slot, kind in graph["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[source]["order"] < nodes[target]["order"]
        ends.add(link)
    for node in graph["nodes"]:
        into = {entry["link"] for entry in node["inputs"]} - {None}
        out = {link for entry in node["outputs"] for link in entry["links"] or []}
        assert into <= ends and out <= ends, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_template_and_api_graph_are_the_same(name):
    """Nodes, links and widget values, as the page would turn one into the other."""
    graph, posted = template(name), api(name)
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    nodes = {str(n["id"]): n for n in graph["nodes"] if n["type"] != "MarkdownNote"}
    assert set(nodes) == set(posted)
    for key, node in nodes.items():
        assert node["type"] == posted[key]["class_type"]
        values = list(node["widgets_values"])
        wanted = posted[key]["inputs"]
        for entry in node["inputs"]:
            if entry["link"] is not None:
                assert wanted[entry["name"]] == sources[entry["link"]]
            elif "widget" not in entry:
                assert entry["name"] not in wanted
            if "widget" in entry:
                value = values.pop(0)
                assert entry["link"] is not None or wanted[entry["name"]] == value, entry
                if entry["name"] in ("seed", "noise_seed"):
                    assert values.pop(0) == "fixed"
        assert not values, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_a_note_explains_it(name):
    (note,) = (node for node in template(name)["nodes"] if node["type"] == "MarkdownNote")
    (text,) = note["widgets_values"]
    assert text.startswith("## ")
    for word in (*_files_of_jodi(name), *_files_of_ddit(name)):
        assert word in text, word


def _files_of_jodi(name: str) -> tuple[str, ...]:
    if not _of(name, "JodiLoad"):
        return ()
    return (
        "jodi-nano",
        "custom_nodes/jodi convert",
        "models/diffusion_models",
        "dc-ae-f32c32-sana-1.0",
    )


def _files_of_ddit(name: str) -> tuple[str, ...]:
    if not _of(name, "DDiTLoad"):
        return ()
    return ("ddit-nano", "T5-v1.1-XXL", "mask_token_emb.00-of-01.pth", "models/diffusion_models")


def _of(name: str, kind: str) -> list[dict]:
    return [node for node in api(name).values() if node["class_type"] == kind]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_built_in_model(name):
    jodi, ddit = _of(name, "JodiLoad"), _of(name, "DDiTLoad")
    assert len(jodi) <= 1 and len(ddit) == (name in WITH_DDIT) and jodi + ddit
    for loaders, built_in in ((jodi, "built-in jodi-nano"), (ddit, "built-in ddit-nano")):
        for loader in loaders:
            parts = [loader["inputs"][part] for part in ("model", "vae", "text_encoder")]
            assert set(parts) == {built_in}
    assert not any(node["class_type"] == "LoadImage" for node in api(name).values())


@pytest.mark.parametrize("name", NAMES)
def test_offered_downloads_are_safetensors_that_a_widget_names(name):
    for node in template(name)["nodes"]:
        for model in node["properties"].get("models", []):
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(model["name"]) and model["name"].endswith(".safetensors")
            assert model["name"] in node["widgets_values"]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_lie_on_each_other(name):
    boxes = []
    for node in template(name)["nodes"]:
        width, height = node["size"]
        # of a folded node only the title bar is drawn; its size is kept for when it is opened
        folded = node["flags"].get("collapsed", False)
        boxes.append((node["type"], *node["pos"], width, 0 if folded else height))
    for i, (kind, x, y, w, h) in enumerate(boxes):
        for other, x2, y2, w2, h2 in boxes[i + 1 :]:
            # a node's title bar is 30 above its place
            apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 - 30 or y2 + h2 <= y - 30
            assert apart, (kind, other)
