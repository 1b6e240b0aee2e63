"""Meshes and point clouds as the host's wires carry them, as far as it knows them."""

import inspect
from io import BytesIO

from comfy_api.latest import Types
from torch import Tensor

from ...jodi_core.exits.geometry import Mesh
from .sampler import block_output

NO_CLOUDS = (
    "this ComfyUI has no wires for point cloud files (0.33 has); `jodi perceive --format ply` "
    "writes them"
)


def make_mesh_wire(mesh: Mesh, texture: Tensor | None = None):
    """MESH of one surface; with places on the texture (1, H, W, 3) where the host keeps them."""
    known = inspect.signature(Types.MESH.__init__).parameters
    more = {"uvs": mesh.uvs[None], "texture": texture}
    more = {name: value for name, value in more.items() if name in known and value is not None}
    return Types.MESH(mesh.vertices[None], mesh.faces[None], **more)


def make_ply_wire(data: bytes):
    """FILE_3D_PLY of a file's bytes; where the host has none, a block that says so."""
    file = getattr(Types, "File3D", None)
    return block_output(NO_CLOUDS) if file is None else file(BytesIO(data), "ply")
