"""Graphs as people save them for the API, node by node. Run by test_nodes.py inside a ComfyUI.

They use jodi-nano and the pictures that come with it. The host's executor is not part of this.
"""

import asyncio
import importlib
import inspect

import comfy.context_windows  # noqa: F401
import comfy_extras.nodes_post_processing  # noqa: F401  (others need it first)
import folder_paths
from jodi_pack.jodi_core.embedded import ASSETS
from jodi_pack.nodes.extension import JodiExtension
from jodi_pack.tests.helpers import relative_rms

import nodes

EXTRAS = ("lumina2", "context_windows")


def node_classes() -> dict:
    """Classes by their ids: the pack's, the host's own, and those of some of its extras."""
    found = {**nodes.NODE_CLASS_MAPPINGS}
    extensions = [JodiExtension()]
    for name in EXTRAS:
        module = importlib.import_module(f"comfy_extras.nodes_{name}")
        found |= getattr(module, "NODE_CLASS_MAPPINGS", {})
        if hasattr(module, "comfy_entrypoint"):
            made = module.comfy_entrypoint()  # some are not coroutines
            extensions.append(asyncio.run(made) if inspect.iscoroutine(made) else made)
    for extension in extensions:
        for cls in asyncio.run(extension.get_node_list()):
            found[cls.GET_SCHEMA().node_id] = cls
    return found


CLASSES = node_classes()
BUILT_IN = "built-in jodi-nano"


def run(graph: dict, node: str):
    """The outputs of one node of a graph."""
    done = {}

    def outputs(key):
        if key not in done:
            cls, inputs = CLASSES[graph[key]["class_type"]], {}
            for name, value in graph[key]["inputs"].items():
                linked = isinstance(value, list)
                inputs[name] = outputs(value[0])[value[1]] if linked else value
            if hasattr(cls, "define_schema"):
                done[key] = cls.EXECUTE_NORMALIZED(**inputs).args
            else:
                done[key] = getattr(cls(), cls.FUNCTION)(**inputs)
        return done[key]

    return outputs(node)


def graph(*, sampler: dict, roles: dict | None = None, **more) -> dict:
    loads = {"model": BUILT_IN, "vae": BUILT_IN, "text_encoder": BUILT_IN}
    text = "a red ball on a table in a room"
    wires = {"positive": ["roles", 0], "negative": ["roles", 1], "latent_image": ["roles", 2]}
    return {
        "load": {"class_type": "JodiLoad", "inputs": {**loads, "weight_dtype": "default"}},
        "text": {
            "class_type": "JodiTextEncode",
            "inputs": {"clip": ["load", 1], "text": text, "instruction": True},
        },
        "roles": {
            "class_type": "JodiRoles",
            "inputs": {"model": ["load", 0], "vae": ["load", 2], **(roles or {})},
        },
        "sampler": {
            "class_type": sampler.pop("class_type"),
            "inputs": {"model": ["load", 0], **wires, "seed": 1, **sampler},
        },
        "decode": {
            "class_type": "JodiDecodeLabel",
            "inputs": {"latent": ["sampler", 0], "vae": ["load", 2], "domain": "image"},
        },
        **more,
    }


KSAMPLER = {"class_type": "KSampler", "scheduler": "simple", "denoise": 1.0, "cfg": 3.0}
PROMPT = {"positive": ["text", 0]}


def check_uni_pc_makes_a_picture():
    steps = {"sampler_name": "uni_pc", "steps": 8}
    (picture, _) = run(graph(sampler={**KSAMPLER, **steps}, roles=PROMPT), "decode")
    assert picture.isfinite().all() and picture.std() > 0.05


def check_renorm_cfg_makes_a_picture():
    patch = {"model": ["load", 0], "cfg_trunc": 100.0, "renorm_cfg": 1.0}
    sampler = {"class_type": "JodiSampler", "model": ["renorm", 0], "steps": 3, "cfg": 3.0}
    made = graph(sampler=sampler, roles=PROMPT, renorm={"class_type": "RenormCFG", "inputs": patch})
    (picture, _) = run(made, "decode")
    assert picture.isfinite().all() and picture.std() > 0.05


def check_a_video_in_context_windows_is_the_video_in_one():
    before = folder_paths.get_input_directory()
    folder_paths.set_input_directory(str(ASSETS / "samples"))
    frames, last = {}, None
    for number in range(1, 7):
        load = {"class_type": "LoadImage", "inputs": {"image": f"sample{number}_image.png"}}
        frames[f"f{number}"] = load
        if last is not None:
            pair = {"image1": [last, 0], "image2": [f"f{number}", 0]}
            frames[f"b{number}"] = {"class_type": "ImageBatch", "inputs": pair}
        last = "f1" if last is None else f"b{number}"
    twice = {"image1": [last, 0], "image2": [last, 0]}
    frames["video"] = {"class_type": "ImageBatch", "inputs": twice}
    inputs = CLASSES["ContextWindowsManual"].GET_SCHEMA().inputs[1:]
    windows = {i.id: i.options[0] if hasattr(i, "options") else i.default for i in inputs}
    windows |= {"model": ["load", 0], "context_length": 5, "context_overlap": 2, "dim": 0}
    frames["windows"] = {"class_type": "ContextWindowsManual", "inputs": windows}
    others = ("lineart", "edge", "normal", "albedo", "segmentation", "openpose")
    roles = {"image": ["video", 0], **{f"{name}_role": "ignore" for name in others}}
    pictures = []
    try:
        for model in ("load", "windows"):
            sampler = {"class_type": "JodiSampler", "model": [model, 0], "steps": 2, "cfg": 0.0}
            made = graph(sampler=sampler, roles=roles, **frames)
            made["decode"]["inputs"]["domain"] = "depth"
            pictures.append(run(made, "decode")[0])
    finally:
        folder_paths.set_input_directory(before)
    assert pictures[0].shape[0] == 12 and relative_rms(pictures[1], pictures[0]) < 1e-4
