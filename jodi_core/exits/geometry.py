"""Points and meshes of a depth map.

Camera axes are OpenCV's (+X picture right, +Y down, +Z into the picture); files and meshes use
glTF's (+X right, +Y up, +Z to the viewer). Shapes: B pictures, H W pixels, V vertices, F faces.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kit.errors import ImageError, JodiError

GLTF_AXES = (1.0, -1.0, -1.0)


def make_intrinsics(fov: float, height: int, width: int) -> Tensor:
    """(3, 3) float32 camera matrix for picture coordinates from 0 to 1, square pixels.

    fov: horizontal field of view in degrees. Raises: JodiError unless 0 < fov < 180.
    """
    if not 0 < fov < 180:
        raise JodiError(f"expected a field of view between 0 and 180 degrees, got {fov}")
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0, 0.5], [0, focal * width / height, 0.5], [0, 0, 1]])


def unproject(distance: Tensor, fov: float) -> Tensor:
    """Camera points of pixel centres: distances (B, H, W) along the axis -> (B, H, W, 3) float32.

    Points of infinite distance are infinite. Raises: JodiError as `intrinsics`.
    """
    height, width = distance.shape[-2:]
    focal = make_intrinsics(fov, height, width)[0, 0].double() * width  # pixels, both axes
    across = (torch.arange(width, dtype=torch.float64) + 0.5 - width / 2) / focal
    down = (torch.arange(height, dtype=torch.float64) + 0.5 - height / 2) / focal
    z = distance.double().cpu()
    x, y = z * across, z * down[:, None]
    known = z.isfinite()[..., None]
    points = torch.where(known, torch.stack((x, y, z), dim=-1), math.inf)
    return points.to(torch.float32)


def find_camera_normals(picture: Tensor) -> Tensor:
    """Unit normals on camera axes, out of the surface, of normals drawn in the model's axes.

    Shapes: (B, 3, H, W) in [0, 1] -> (B, H, W, 3) float32; 0 where there is no direction.
    """
    vectors = picture.to(torch.float32) * 2 - 1
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    vectors = torch.where(length < 0.05, 0.0, vectors / length.clamp_min(1e-12))
    return -vectors.movedim(1, -1)


@dataclass(frozen=True)
class Mesh:
    """A surface on glTF's axes: vertices (V, 3), faces (F, 3) int64 counter-clockwise seen from
    the camera, uvs (V, 2) with (0, 0) at the picture's upper left, colors (V, 3) in [0, 1] or
    None. All on the CPU."""

    vertices: Tensor
    faces: Tensor
    uvs: Tensor
    colors: Tensor | None = None


def triangulate(
    points: Tensor, keep: Tensor, *, cut: float = 0.04, colors: Tensor | None = None
) -> Mesh:
    """A mesh with a vertex at each kept pixel, torn where the depth jumps.

    Shapes: points (H, W, 3) on camera axes; keep (H, W) bool; colors (H, W, 3).
    cut: no triangle joins pixels whose depths bend away from a plane by more than this share of
    the nearer one; 0 never cuts.
    Raises: ImageError when nothing is left.
    """
    points = points.cpu()
    keep = keep.cpu() & points.isfinite().all(dim=-1)
    height, width = keep.shape
    number = torch.arange(height * width).view(height, width)
    a, b = number[:-1, :-1], number[:-1, 1:]
    c, d = number[1:, :-1], number[1:, 1:]
    # y points down on camera axes, so this order is counter-clockwise once y and z are turned
    faces = torch.stack((torch.stack((a, c, b), -1), torch.stack((b, c, d), -1)), 2).view(-1, 3)
    faces = faces[keep.reshape(-1)[faces].all(dim=1)]
    if cut > 0:
        torn = _jumps(points[..., 2], keep, cut).reshape(-1)
        near = 1 / points[..., 2].reshape(-1)[faces].clamp_min(1e-12)
        apart = near.amax(dim=1) - near.amin(dim=1) > cut * near.amax(dim=1)
        faces = faces[~(apart & torn[faces].any(dim=1))]
    used = torch.unique(faces)
    if not len(used):
        raise ImageError(
            "the depth map leaves no surface: everything is masked, infinitely far or torn; set "
            "far, take another mask, or set cut to 0"
        )
    place = torch.full((height * width,), -1, dtype=torch.int64)
    place[used] = torch.arange(len(used))
    rows, columns = used // width, used % width
    uvs = torch.stack(((columns + 0.5) / width, (rows + 0.5) / height), dim=-1)
    vertices = points.reshape(-1, 3)[used] * points.new_tensor(GLTF_AXES)
    shades = None if colors is None else colors.reshape(-1, 3)[used.to(colors.device)].cpu()
    return Mesh(vertices, place[faces], uvs.to(torch.float32), shades)


def _jumps(z: Tensor, keep: Tensor, cut: float) -> Tensor:
    """Pixels (H, W) next to a jump of the depth.

    On a plane 1 / depth runs evenly over the picture, so it is the bend of 1 / depth that tells a
    jump from a steep surface.
    """
    inverse = torch.where(keep, 1 / z.clamp_min(1e-12), math.nan)
    torn = torch.zeros_like(keep)
    for axis in (0, 1):
        n = z.shape[axis]
        if n < 3:
            continue
        before, here, after = (inverse.narrow(axis, i, n - 2) for i in range(3))
        bend = (before - 2 * here + after).abs() / torch.maximum(torch.maximum(before, here), after)
        torn.narrow(axis, 1, n - 2).logical_or_(bend > cut)
    return torn


def find_vertex_normals(mesh: Mesh) -> Tensor:
    """Unit normals (V, 3), the mean of the adjoining faces weighted by area."""
    p = mesh.vertices.double()[mesh.faces]
    flat = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    total = torch.zeros(len(mesh.vertices), 3, dtype=torch.float64)
    for corner in range(3):
        total.index_add_(0, mesh.faces[:, corner], flat)
    length = torch.linalg.vector_norm(total, dim=1, keepdim=True).clamp_min(1e-300)
    return (total / length).to(torch.float32)
