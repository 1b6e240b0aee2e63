"""The subgraph blueprints, run on a real server: what the page makes of their inside."""

import json
from collections.abc import Iterable

import pytest
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.embedded import ASSETS
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.pictures.files import load_image, save_png
from jodi_pack.tests.host.graphs import add, pictures
from jodi_pack.tests.host.test_templates import widgets_of
from jodi_pack.tests.hosts import ROOT

pytestmark = pytest.mark.comfyui
INPUT = -10  # the id that stands for a subgraph's own sockets
SHOWN = 1 / 255 + 1e-3  # the host cuts shown pictures to 8 bits; and round-off before it


def inside(
    server, name: str, given: dict[str, str], left_open: Iterable[str] = ()
) -> tuple[dict, dict[str, str]]:
    """API graph of a blueprint's inside; its inputs are pictures, previews hang on its outputs.

    given: file in the input folder by input. left_open: the other inputs. -> the graph, and the
    preview's id by output.
    """
    file = ROOT / "subgraphs" / f"{name}.json"
    (definition,) = json.loads(file.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    assert {entry["name"] for entry in definition["inputs"]} == {*given, *left_open}
    schemas = server.get("/object_info")
    graph = {}
    for node in definition["nodes"]:
        names = [name for name, *_ in widgets_of(schemas[node["type"]])]
        values = dict(zip(names, node["widgets_values"], strict=True))
        values.pop("control_after_generate", None)
        title = {"title": node["type"]}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": values, "_meta": title}
    nodes = {node["id"]: node for node in definition["nodes"]}
    loaded = {key: add(graph, "LoadImage", image=image) for key, image in given.items()}
    links = {link["id"]: link for link in definition["links"]}
    for link in links.values():
        if link["target_id"] not in nodes:
            continue
        socket = nodes[link["target_id"]]["inputs"][link["target_slot"]]["name"]
        source = [str(link["origin_id"]), link["origin_slot"]]
        if link["origin_id"] == INPUT:
            entry = definition["inputs"][link["origin_slot"]]["name"]
            if entry in left_open:
                continue
            source = [loaded[entry], 0]
        graph[str(link["target_id"])]["inputs"][socket] = source
    shown = {}
    for output in definition["outputs"]:
        (link,) = (links[key] for key in output["linkIds"])
        source = [str(link["origin_id"]), link["origin_slot"]]
        shown[output["name"]] = add(graph, "PreviewImage", images=source)
    return graph, shown


def test_image_to_all_labels(server):
    file = ASSETS / "samples" / "sample3_image.png"
    image = server.upload(file)
    graph, shown = inside(server, "Image to All Labels (Jodi)", {"image": image})
    run = server.run(graph)
    labels = JodiPipeline.embedded().perceive(load_image(file)[0], seed=0).pictures
    assert set(shown) == set(labels) - {"image"}
    for name, node in shown.items():
        difference = (pictures(server, run, node) - labels[name]).abs().amax(1)
        # a class at the border of two may fall to either side
        share = 0.99 if name == "segmentation" else 1
        assert (difference < SHOWN).float().mean() >= share, (name, difference.max())


def test_depth_and_normals_to_image(server, tmp_path):
    files = {}
    for name in ("depth", "normal"):
        files[name] = tmp_path / f"eight_bits_{name}.png"
        # the depth map has 16 bits, which the host's Load Image cuts to white
        save_png(files[name], load_image(ASSETS / "samples" / f"sample5_{name}.png")[0][0])
    names = {name: server.upload(file) for name, file in files.items()}
    graph, shown = inside(server, "Depth and Normals to Image (Jodi)", names)
    run = server.run(graph)
    (text,) = (n["inputs"]["text"] for n in graph.values() if n["class_type"] == "JodiTextEncode")
    given = {name: load_image(file)[0] for name, file in files.items()}
    made = JodiPipeline.embedded().control(given, text, seed=0).pictures["image"]
    assert (pictures(server, run, shown["image"]) - made).abs().max() < SHOWN


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Image to Depth (Jodi)", "depth"),
        ("Image to Normals (Jodi)", "normal"),
        ("Image to Pose (Jodi)", "openpose"),
    ],
)
def test_image_to_one_label(server, name, label):
    file = ASSETS / "samples" / "sample3_image.png"
    graph, shown = inside(server, name, {"image": server.upload(file)})
    run = server.run(graph)
    made = JodiPipeline.embedded().perceive(load_image(file)[0], [label], seed=0).pictures[label]
    assert set(shown) == {label}
    assert (pictures(server, run, shown[label]) - made).abs().max() < SHOWN


def test_any_labels_to_image(server):
    """Of seven sockets two are connected."""
    files = {name: ASSETS / "samples" / f"sample2_{name}.png" for name in ("edge", "openpose")}
    names = {name: server.upload(file) for name, file in files.items()}
    others = set(DOMAIN_NAMES[1:]) - set(names)
    graph, shown = inside(server, "Any Labels to Image (Jodi)", names, others)
    run = server.run(graph)
    (text,) = (n["inputs"]["text"] for n in graph.values() if n["class_type"] == "JodiTextEncode")
    given = {name: load_image(file)[0] for name, file in files.items()}
    made = JodiPipeline.embedded().control(given, text, seed=0).pictures["image"]
    assert (pictures(server, run, shown["image"]) - made).abs().max() < SHOWN
