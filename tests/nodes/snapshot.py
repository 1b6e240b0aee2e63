"""The nodes' schemas as plain values: what saved graphs depend on, and what people read.

Run inside a ComfyUI, where the nodes can be loaded.
"""

import asyncio

from jodi_pack.nodes.extension import JodiExtension

# Combos of these list the files of the machine; only what every machine has is kept.
FILE_INPUTS = {("JodiLoad", "model"), ("JodiLoad", "vae"), ("JodiLoad", "text_encoder")} | {
    ("JodiLoadModel", "model"),
    ("JodiLoadVAE", "vae"),
    ("JodiLoadTextEncoder", "text_encoder"),
    *(("DDiTLoad", name) for name in ("model", "text_encoder", "mask_vector", "vae")),
}
LIMITS = ("default", "min", "max", "step", "round", "multiline", "control_after_generate")


def nodes() -> list:
    """The pack's node classes, as the host gets them."""
    return asyncio.run(JodiExtension().get_node_list())


def contract() -> dict:
    """Ids, inputs in order with types, defaults and limits, outputs in order: all that is fixed."""
    return {node.GET_SCHEMA().node_id: _fixed(node.GET_SCHEMA()) for node in nodes()}


def texts() -> dict:
    """Names and tooltips in the form of locales/<language>/nodeDefs.json."""
    return {node.GET_SCHEMA().node_id: _read(node.GET_SCHEMA()) for node in nodes()}


def _fixed(schema) -> dict:
    return {
        "display_name": schema.display_name,
        "category": schema.category,
        "inputs": [_input(schema.node_id, i) for i in schema.inputs],
        "outputs": [_output(o) for o in schema.outputs],
    }


def _output(item) -> dict:
    values = {"name": item.display_name, "type": item.get_io_type()}
    return {**values, "list": True} if item.is_output_list else values


def _input(node_id: str, item) -> dict:
    values = {"id": item.id, "type": item.get_io_type(), "optional": bool(item.optional)}
    values |= {k: getattr(item, k) for k in LIMITS if getattr(item, k, None) is not None}
    options = getattr(item, "options", None)
    if options is not None:
        files = (node_id, item.id) in FILE_INPUTS
        values["options"] = [o for o in options if not (files and _is_file(o))]
    return values


def _is_file(option: str) -> bool:
    return "." in option or "/" in option


def _read(schema) -> dict:
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs}
    outputs = {
        str(n): {"name": o.display_name or o.get_io_type(), "tooltip": o.tooltip}
        for n, o in enumerate(schema.outputs)
    }
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": inputs,
        "outputs": outputs,
    }
