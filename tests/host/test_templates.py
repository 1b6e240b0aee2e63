"""Templates and blueprints against the schema that a real server gives its page."""

import json

import pytest
from jodi_pack.tests.host.graphs import NAMES, read
from jodi_pack.tests.host.server import PACK
from jodi_pack.tests.hosts import ROOT

pytestmark = pytest.mark.comfyui
PAGE_ONLY = {"MarkdownNote", "Note"}  # nodes of the page: the server does not know them
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
OTHER_FILES = {"ckpt_name", "control_net_name"}  # weights that are not there to be listed
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))


@pytest.fixture(scope="module")
def schemas(server):
    return server.get("/object_info")


def inputs_of(schema: dict) -> dict[str, tuple[str, dict, bool]]:
    """name -> (type, options, whether required), in the schema's order."""
    found = {}
    for part in ("required", "optional"):
        for name, (kind, *rest) in schema["input"].get(part, {}).items():
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                kind, options["options"] = "COMBO", kind
            found[name] = (kind, options, part == "required")
    return found


def widgets_of(schema: dict) -> list[tuple[str, str, dict]]:
    """What the page makes of a schema: (name, type, options), with the widgets it adds itself."""
    found = []
    for name, (kind, options, _) in inputs_of(schema).items():
        if kind not in WIDGETS or options.get("forceInput"):
            continue
        found.append((name, kind, options))
        if options.get("control_after_generate") or name in ("seed", "noise_seed"):
            modes = {"options": ["fixed", "increment", "decrement", "randomize"]}
            found.append(("control_after_generate", "COMBO", modes))
        if options.get("image_upload"):
            found.append(("upload", "STRING", {}))
    return found


def check_value(where: str, name: str, value, kind: str, options: dict) -> None:
    fits = {
        "INT": lambda: type(value) is int,
        "FLOAT": lambda: type(value) in (int, float),
        "STRING": lambda: isinstance(value, str),
        "BOOLEAN": lambda: isinstance(value, bool),
        "COMBO": lambda: name in OTHER_FILES or value in options["options"],
    }
    assert fits[kind](), f"{where}.{name}: {value!r} is no {kind} of {options}"
    if kind in ("INT", "FLOAT"):
        assert options.get("min", value) <= value <= options.get("max", value), f"{where}.{name}"


def fitting(given: str, wanted: str) -> bool:
    if any(kind.startswith("COMFY_MATCHTYPE") for kind in (given, wanted)):
        return True  # of the Switch: whatever is connected
    return "*" in (given, wanted) or bool(set(given.split(",")) & set(wanted.split(",")))


@pytest.mark.parametrize("name", NAMES)
def test_api_graph_fits_the_schema(schemas, name):
    graph = read(name)
    for node in graph.values():
        schema = schemas[node["class_type"]]
        known = inputs_of(schema)
        where = node["class_type"]
        assert set(node["inputs"]) <= set(known), where
        missing = {n for n, (_, _, required) in known.items() if required} - set(node["inputs"])
        assert not missing, f"{where} lacks {missing}"
        for input_name, value in node["inputs"].items():
            kind, options, _ = known[input_name]
            if isinstance(value, list):
                source = schemas[graph[value[0]]["class_type"]]
                assert fitting(source["output"][value[1]], kind), f"{where}.{input_name}"
            else:
                check_value(where, input_name, value, kind, options)


def check_nodes(schemas: dict, nodes: list[dict], subgraphs: frozenset = frozenset()) -> None:
    for node in nodes:
        if node["type"] in PAGE_ONLY or node["type"] in subgraphs:
            continue
        schema = schemas[node["type"]]
        known = inputs_of(schema)
        assert {entry["name"] for entry in node["inputs"]} == set(known), node["type"]
        outputs = [entry["type"] for entry in node["outputs"]]
        # a newer host may have added some, which the page then adds too
        assert outputs == list(schema["output"])[: len(outputs)], node["type"]
        for entry in node["inputs"]:
            assert fitting(entry["type"], known[entry["name"]][0]), (node["type"], entry)
        widgets = widgets_of(schema)
        values = node["widgets_values"]
        assert len(values) == len(widgets), (node["type"], values)
        for value, (name, kind, options) in zip(values, widgets, strict=True):
            check_value(node["type"], name, value, kind, options)


@pytest.mark.parametrize("name", NAMES)
def test_template_fits_the_schema(schemas, name):
    graph = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    check_nodes(schemas, graph["nodes"])
    for link in graph["links"]:
        _, source, output, target, slot, kind = link
        by_id = {node["id"]: node for node in graph["nodes"]}
        assert by_id[source]["outputs"][output]["type"] == kind, link
        assert fitting(kind, by_id[target]["inputs"][slot]["type"]), link


@pytest.mark.parametrize("file", BLUEPRINTS, ids=lambda file: file.stem)
def test_blueprint_fits_the_schema(schemas, file):
    blueprint = json.loads(file.read_text(encoding="utf-8"))
    definitions = blueprint["definitions"]["subgraphs"]
    ids = frozenset(d["id"] for d in definitions)
    for definition in definitions:
        check_nodes(schemas, definition["nodes"], ids)


def test_the_page_is_offered_templates_and_blueprints(server):
    listed = server.get("/api/workflow_templates")
    assert sorted(listed[PACK]) == NAMES
    for name in NAMES:
        assert server.get(f"/api/workflow_templates/{PACK}/{name}.json")["nodes"]
    offered = {entry["name"] for entry in server.get("/api/global_subgraphs").values()}
    assert {file.stem for file in BLUEPRINTS} <= offered, offered
