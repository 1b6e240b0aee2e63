"""Points and meshes of rendered scenes' exact depth."""

import math

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.exits.depth import find_distances
from jodi_pack.jodi_core.exits.geometry import (
    find_camera_normals,
    find_vertex_normals,
    make_intrinsics,
    triangulate,
    unproject,
)
from jodi_pack.jodi_core.exits.ply import encode_cloud, encode_mesh
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.scenes.layout import compose
from jodi_pack.kit.scenes.render import render_scenes

SIDE = 256


def exact(seed):
    """Exact distance (1, H, W), scene, and the horizontal field of view, of a square picture."""
    scene = render_scenes([seed], SIDE, supersample=1)
    valid, true = scene.valid, scene.depth
    near = float(true[valid].min())
    far = float(true[valid].max()) if bool(valid.all()) else 0.0
    distance = find_distances(scene.pictures[:, 3, 0], near, far)
    fov = 2 * math.degrees(math.atan(compose(seed).environment.camera[2]))
    return distance, scene, fov


def test_points_by_the_formula():
    distance = torch.tensor([[[1.0, 2.0, 4.0], [3.0, math.inf, 5.0]]])
    points = unproject(distance, 90.0)[0]
    for y in range(2):
        for x in range(3):
            z = float(distance[0, y, x])
            if math.isinf(z):
                assert points[y, x].isinf().all()
                continue
            # 90 degrees across 3 pixels: half the width is as far as the plane at distance 1
            expected = (z * (x - 1) / 1.5, z * (y - 0.5) / 1.5, z)
            assert points[y, x].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_intrinsics_project_points_back():
    K = make_intrinsics(70.0, 30, 50)
    points = unproject(torch.full((1, 30, 50), 2.5), 70.0)[0]
    u = (points @ K.T)[..., 0] / points[..., 2]
    v = (points @ K.T)[..., 1] / points[..., 2]
    assert torch.allclose(u, ((torch.arange(50) + 0.5) / 50).expand(30, 50), atol=1e-6)
    assert torch.allclose(v, ((torch.arange(30) + 0.5) / 30)[:, None].expand(30, 50), atol=1e-6)
    for fov in (0, 180, -3, math.nan):
        with pytest.raises(JodiError, match="field of view"):
            make_intrinsics(fov, 3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5, 8])
def test_mesh_normals_are_within_a_degree_away_from_borders(seed):
    distance, scene, fov = exact(seed)
    points = unproject(distance, fov)[0]
    keep = scene.valid[0]
    mesh = triangulate(points, keep)
    rows = (mesh.uvs[:, 1] * SIDE - 0.5).round().long()
    columns = (mesh.uvs[:, 0] * SIDE - 0.5).round().long()
    n = scene.normal[0][:, rows, columns].T
    truth = n * torch.tensor([-1.0, 1.0, 1.0])  # glTF's axes
    cosine = (find_vertex_normals(mesh) * truth).sum(1).clamp(-1, 1)
    angle = torch.rad2deg(torch.acos(cosine))
    inner = away_from_borders(scene)[rows, columns]
    assert float(inner.float().mean()) > 0.3
    assert float(angle[inner].max()) < 1


FLAT = math.cos(math.radians(4))


def away_from_borders(scene, reach=2):
    """Pixels whose neighbours show the same surface: one class, no edge, a normal nearly theirs."""
    n, classes = scene.normal[0], scene.classes[0]
    edge = scene.pictures[0, 2, 0] > 0.05
    inner = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    centre = (slice(reach, SIDE - reach),) * 2
    good = scene.valid[0][centre] & ~edge[centre]
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            there = (slice(reach + dy, SIDE - reach + dy), slice(reach + dx, SIDE - reach + dx))
            good &= (n[(slice(None), *there)] * n[(slice(None), *centre)]).sum(0) > FLAT
            good &= (classes[there] == classes[centre]) & ~edge[there]
    inner[centre] = good
    return inner


@pytest.mark.slow
def test_faces_look_at_the_viewer_and_no_face_bridges_a_jump():
    distance, scene, fov = exact(8)
    mesh = triangulate(unproject(distance, fov)[0], scene.valid[0])
    p = mesh.vertices.double()[mesh.faces]
    outward = torch.linalg.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    assert ((outward * p[:, 0]).sum(1) < 0).all()  # the camera is at the origin
    z = -p[..., 2]
    assert float((z.amax(1) / z.amin(1)).median()) < 1.1
    whole = triangulate(unproject(distance, fov)[0], scene.valid[0], cut=0)
    assert len(whole.faces) > len(mesh.faces)


def test_a_step_is_torn_and_a_steep_plane_is_not():
    depth = torch.full((1, 8, 8), 2.0)
    depth[..., 4:] = 8.0
    keep = torch.ones(8, 8, dtype=torch.bool)
    mesh = triangulate(unproject(depth, 60)[0], keep)
    assert len(mesh.faces) == 2 * 7 * 6  # of the 7 x 7 squares one column is missing
    steep = 1 / torch.linspace(0.05, 1, 8).expand(1, 8, 8)  # a plane, seen almost along it
    assert len(triangulate(unproject(steep, 60)[0], keep).faces) == 2 * 7 * 7
    with pytest.raises(ImageError, match="leaves no surface"):
        triangulate(unproject(depth, 60)[0], ~keep)


@pytest.mark.slow
def test_camera_normals_are_the_scene_s_turned():
    _, scene, _ = exact(5)
    n = find_camera_normals(scene.pictures[:, 4])[0]
    assert torch.allclose(n, -scene.normal[0].movedim(0, -1), atol=1e-5)
    assert not find_camera_normals(torch.full((1, 3, 2, 2), 0.5)).any()


def read_ply(data: bytes):
    head, body = data.split(b"end_header\n", 1)
    lines = head.decode("ascii").splitlines()
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if "element" in line}
    colored = "property uchar red" in lines
    row = [("p", "<f4", 3)] + ([("c", "u1", 3)] if colored else [])
    points = np.frombuffer(body, row, counts["vertex"])
    rest = body[points.nbytes :]
    face = [("n", "u1"), ("i", "<i4", 3)]
    faces = np.frombuffer(rest, face, counts["face"]) if "face" in counts else None
    assert len(rest) == (faces.nbytes if faces is not None else 0)
    return points, faces


def test_ply_files_hold_the_points():
    depth = torch.tensor([[[1.0, 2.0], [math.inf, 4.0]]])
    points = unproject(depth, 90)[0]
    colors = torch.arange(12).view(2, 2, 3) / 12
    keep = torch.tensor([[True, True], [True, False]])
    read, faces = read_ply(encode_cloud(points, keep, colors))
    assert faces is None and len(read) == 2
    assert np.allclose(read["p"], [[-0.5, 0.5, -1], [1, 1, -2]])
    assert read["c"].tolist() == [[0, 21, 42], [64, 85, 106]]
    mesh = triangulate(unproject(torch.full((1, 2, 2), 3.0), 90)[0], torch.ones(2, 2) > 0)
    read, faces = read_ply(encode_mesh(mesh))
    assert len(read) == 4 and faces["n"].tolist() == [3, 3]
    assert faces["i"].tolist() == mesh.faces.tolist()
    with pytest.raises(ImageError, match="leaves no points"):
        encode_cloud(points, keep & ~keep)
