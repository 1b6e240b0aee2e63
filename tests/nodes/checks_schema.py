"""What saved graphs depend on does not change unseen. Run by test_nodes.py inside a ComfyUI."""

import json
from pathlib import Path

from jodi_pack.tests.nodes.snapshot import contract, nodes, texts

CATEGORIES = ("Jodi", "Jodi/exits", "Jodi/D-DiT")
ROOT = Path(__file__).resolve().parents[2]
HOW = (
    "saved graphs store values by position and nodes by id, so this breaks them. If it is meant, "
    "run tests/nodes/update_schema.py (its first lines say how), and note it in the changelog"
)


def committed(path: str) -> dict:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def check_ids_inputs_and_outputs_are_the_committed_ones():
    now, known = contract(), committed("tests/nodes/schema.json")
    assert list(now) == list(known), f"nodes were {list(known)}, are {list(now)}; {HOW}"
    for node, values in known.items():
        for part in values:
            assert now[node][part] == values[part], (
                f"{node} {part} were\n{values[part]}\nand are\n{now[node][part]}\n{HOW}"
            )


def check_english_texts_are_those_of_the_code():
    now, known = texts(), committed("locales/en/nodeDefs.json")
    for node in {*now, *known}:
        assert now.get(node) == known.get(node), f"{node}: run tests/nodes/update_schema.py"


def check_everything_has_a_tooltip_and_a_default():
    for node in nodes():
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category in CATEGORIES, schema.node_id
        for item in (*schema.inputs, *schema.outputs):
            assert item.tooltip and len(item.tooltip) > 10, (schema.node_id, item.id)
        for item in schema.inputs:
            widget = item.get_io_type() in ("INT", "FLOAT", "BOOLEAN")
            assert not widget or item.default is not None, (schema.node_id, item.id)


def check_inputs_are_plain():
    """Growing or changing inputs break in subgraphs, graphs in API form and older pages."""
    for node in nodes():
        for item in node.GET_SCHEMA().inputs:
            kind = item.get_io_type()
            assert "DYNAMIC" not in kind and "AUTOGROW" not in kind and "MATCH" not in kind
            assert not item.lazy, (node, item.id)


def check_functions_take_what_the_schema_names():
    """The host passes inputs by name; optional ones may be missing."""
    import inspect

    for node in nodes():
        parameters = inspect.signature(node.execute).parameters
        free = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
        for item in node.GET_SCHEMA().inputs:
            assert free or item.id in parameters, (node.__name__, item.id)
            if item.optional and item.id in parameters:
                default = parameters[item.id].default
                assert default is not inspect.Parameter.empty, (node.__name__, item.id)
                shown = getattr(item, "default", None)
                assert shown is None or default == shown, (node.__name__, item.id, default, shown)
