"""The pack's API workflows, and small changes to them, as a person would make by hand."""

import copy
import json

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...kit.pictures.files import load_image
from ..hosts import ROOT
from .server import Run, Server

API = ROOT / "workflows" / "api"
NAMES = sorted(file.stem for file in API.glob("*.json"))


def read(name: str) -> dict:
    return json.loads((API / f"{name}.json").read_text(encoding="utf-8"))


def find(graph: dict, kind: str, title: str | None = None) -> str:
    """The id of the one node of a class, and title where there are several."""
    found = [
        key
        for key, node in graph.items()
        if node["class_type"] == kind and title in (None, node["_meta"]["title"])
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} nodes {kind} {title or ''}")
    return found[0]


def add(graph: dict, kind: str, **inputs) -> str:
    """Add a node; links are [id, output]."""
    key = str(max(int(k) for k in graph) + 1)
    graph[key] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
    return key


def changed(graph: dict, node: str, **inputs) -> dict:
    """A copy with other inputs on one node; None takes an input away."""
    graph = copy.deepcopy(graph)
    values = graph[node]["inputs"]
    values.update(inputs)
    graph[node]["inputs"] = {key: value for key, value in values.items() if value is not None}
    return graph


def only(graph: dict, *outputs: str) -> dict:
    """The part of a graph that some nodes need."""
    wanted, todo = set(), list(outputs)
    while todo:
        node = todo.pop()
        if node not in wanted:
            wanted.add(node)
            todo += [v[0] for v in graph[node]["inputs"].values() if isinstance(v, list)]
    return {key: node for key, node in graph.items() if key in wanted}


def picture_batch(graph: dict, names: list[str]) -> str:
    """Load pictures of the input folder, all of one size, as one batch; the id of its node."""
    first, *rest = (add(graph, "LoadImage", image=name) for name in names)
    for other in rest:
        first = add(graph, "ImageBatch", image1=[first, 0], image2=[other, 0])
    return first


class Latents:
    """SaveLatent nodes on outputs of a graph, and what they saved.

    sources: node ids, or (id, output).
    """

    def __init__(self, graph: dict, *sources: str | tuple[str, int]):
        self.graph = copy.deepcopy(graph)
        links = [[s, 0] if isinstance(s, str) else list(s) for s in sources]
        self._nodes = [
            add(self.graph, "SaveLatent", samples=link, filename_prefix="test/latent")
            for link in links
        ]

    def run(self, server: Server) -> tuple[Run, list[Tensor]]:
        """Latents (B, L, z, h, w), unscaled."""
        run = server.run(self.graph)
        saved = []
        for node in self._nodes:
            (file,) = run.files(node, "latents")
            path = server.folder / file["type"] / file["subfolder"] / file["filename"]
            saved.append(load_file(path)["latent_tensor"].transpose(1, 2))
        return run, saved


def pictures(server: Server, run: Run, node: str) -> Tensor:
    """What an output node shows: (B, 3, H, W) in [0, 1], in 8 bits."""
    files = run.files(node)
    return torch.cat([load_image(server.view(file))[0] for file in files])
