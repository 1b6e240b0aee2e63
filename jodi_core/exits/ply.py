"""PLY files: points or a mesh with colours, for Blender, MeshLab, CloudCompare and viewers."""

import io

import numpy as np
import torch
from torch import Tensor

from ...kit.errors import ImageError
from ...kit.pictures.files import to_uint8
from .geometry import GLTF_AXES, Mesh


def encode_cloud(points: Tensor, keep: Tensor, colors: Tensor | None = None) -> bytes:
    """The bytes of a binary PLY with one point for each kept pixel, on glTF's axes.

    Shapes: points (H, W, 3) on camera axes; keep (H, W) bool; colors (H, W, 3) in [0, 1].
    Raises: ImageError when no point is left.
    """
    points, keep = points.cpu(), keep.cpu()
    keep = keep & points.isfinite().all(dim=-1)
    if not bool(keep.any()):
        raise ImageError("the depth map leaves no points: everything is masked or infinitely far")
    places = points[keep] * points.new_tensor(GLTF_AXES)
    return _ply(places, None if colors is None else colors.cpu()[keep], None)


def encode_mesh(mesh: Mesh) -> bytes:
    """The bytes of a binary PLY of a mesh, with its colours where it has any."""
    return _ply(mesh.vertices, mesh.colors, mesh.faces)


def _ply(places: Tensor, colors: Tensor | None, faces: Tensor | None) -> bytes:
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(places)}"]
    head += [f"property float {axis}" for axis in "xyz"]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        head += [f"property uchar {name}" for name in ("red", "green", "blue")]
    rows = np.empty(len(places), dtype=fields)
    for axis, name in enumerate("xyz"):
        rows[name] = places[:, axis].numpy()
    if colors is not None:
        shades = to_uint8(colors.to(torch.float32)).numpy()
        for channel, name in enumerate(("red", "green", "blue")):
            rows[name] = shades[:, channel]
    if faces is not None:
        head += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    out = io.BytesIO()
    out.write("\n".join([*head, "end_header", ""]).encode("ascii"))
    out.write(rows.tobytes())
    if faces is not None:
        lists = np.empty(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
        lists["count"], lists["corners"] = 3, faces.numpy()
        out.write(lists.tobytes())
    return out.getvalue()
