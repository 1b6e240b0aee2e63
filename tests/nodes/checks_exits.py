"""The nodes that hand maps to other programs, between this host's own nodes where it has them."""

import json
import os
import struct
from pathlib import Path

import comfy_extras.nodes_hunyuan3d as old_3d
import folder_paths
import numpy as np
import torch
from comfy_api.latest import Types
from comfy_execution.graph_utils import ExecutionBlocker
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.exits.pose import draw_poses, make_frames
from jodi_pack.kit.errors import ImageError, JodiError, RoleError, ShapeError
from jodi_pack.kit.pictures.cryptomatte import read_matte
from jodi_pack.kit.pictures.exr import read_exr
from jodi_pack.kit.scenes.render import render_scenes
from jodi_pack.nodes.jodi.data import (
    JodiClassMasks,
    JodiMapForControlNet,
    JodiPoseKeypoints,
    JodiPosePicture,
)
from jodi_pack.nodes.jodi.decode import JodiDecodeLabel
from jodi_pack.nodes.jodi.files import JodiGeometry, JodiSaveLayersEXR
from jodi_pack.nodes.jodi.roles import JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler
from jodi_pack.nodes.jodi.whole import JodiLatentTransform, JodiPerceive, JodiRelight
from jodi_pack.nodes.wires.pictures import NoPictures
from jodi_pack.tests.nodes.parts import image, parts, raises

SCENE = render_scenes([8], 48, supersample=1)
MAPS = {
    name: SCENE.pictures[:, i].movedim(1, -1).contiguous() for i, name in enumerate(DOMAIN_NAMES)
}


def check_layers_are_written_to_the_output_folder(folder: Path):
    folder_paths.set_output_directory(str(folder))
    two = {**MAPS, "image": MAPS["image"].repeat(2, 1, 1, 1), "edge": NoPictures.of(48, 48)}
    settings = ("shots/a", "opengl", "near high", 1.0, 10.0)
    result = JodiSaveLayersEXR.execute(*settings, **two)
    files = result.args[0].splitlines()
    assert [Path(f).name for f in files] == ["a_00001_.exr", "a_00002_.exr"]
    again = JodiSaveLayersEXR.execute(*settings, **MAPS).args[0]
    assert Path(again).name == "a_00003_.exr" and Path(again).parent == folder / "shots"
    channels, header = read_exr(files[1])
    assert "edge.Y" not in channels and "edge.Y" in read_exr(again)[0]
    assert np.array_equal(channels["Z"], SCENE.pictures[0, 3, 0].numpy())
    person = read_matte(channels, header, "person")
    assert np.array_equal(person, (SCENE.classes[0] == 1).float().numpy()) and person.any()
    with raises(ImageError, "nothing to write"):
        JodiSaveLayersEXR.execute(*settings, depth=NoPictures.of(48, 48))
    with raises(Exception, "outside the output folder"):
        JodiSaveLayersEXR.execute("../../x", *settings[1:], **MAPS)
    assert not list(folder.parent.glob("x*.exr"))


def check_geometry_is_what_the_host_s_nodes_read(folder: Path):
    geometry, mesh, cloud = JodiGeometry.execute(
        MAPS["depth"], 55.0, 1.0, 10.0, 0.04, MAPS["image"], MAPS["normal"], MAPS["segmentation"]
    ).args
    sky = SCENE.classes == 6
    assert torch.equal(geometry["mask"], ~sky) and bool(geometry["points"][sky].isinf().all())
    assert mesh.vertices.shape[0] == 1 and int(mesh.faces.max()) < mesh.vertices.shape[1]
    folder_paths.set_output_directory(str(folder))
    _save_glb(mesh)
    glb = next(folder.rglob("*.glb")).read_bytes()
    assert glb[:4] == b"glTF" and struct.unpack("<I", glb[8:12])[0] == len(glb)
    if not hasattr(Types, "File3D"):
        assert isinstance(cloud, ExecutionBlocker) and "0.33" in cloud.message
        return
    assert cloud.format == "ply" and cloud.get_bytes()[:3] == b"ply"
    _check_moge(geometry)
    with raises(ImageError, "row 3"):
        JodiGeometry.execute(MAPS["depth"], 55.0, 1.0, 10.0, 0.04, row=3)


def _save_glb(mesh):
    try:
        from comfy_extras.nodes_save_3d import SaveGLB
    except ImportError:
        SaveGLB = old_3d.SaveGLB

    class Here(SaveGLB):  # hidden inputs are the server's, and there is none here
        hidden = type("Hidden", (), {"prompt": None, "extra_pnginfo": None})()

    Here.execute(mesh, "mesh/a")


def _check_moge(geometry):
    from comfy_extras import nodes_moge

    normals = nodes_moge.MoGeRender.execute(geometry, "normal_opengl").args[0][0]
    exact = MAPS["normal"][0] * torch.tensor([-1.0, 1, 1]) + torch.tensor([1.0, 0, 0])
    assert (normals - exact).abs().max() < 1e-2
    mesh = nodes_moge.MoGePointMapToMesh.execute(geometry, 0, 1, 0.04, True).args[0]
    ours = JodiGeometry.execute(MAPS["depth"], 55.0, 1.0, 10.0, 0.0).args[1]
    whole = nodes_moge.MoGePointMapToMesh.execute(
        JodiGeometry.execute(MAPS["depth"], 55.0, 1.0, 10.0, 0.0).args[0], 0, 1, 0.0, True
    ).args[0]
    assert torch.allclose(whole.vertices, ours.vertices, atol=1e-5)
    assert whole.faces.shape == ours.faces.shape  # squares may be cut along the other diagonal
    for surface in (whole, ours):
        a, b, c = surface.vertices[0][surface.faces[0]].unbind(1)
        assert bool(((torch.linalg.cross(b - a, c - a) * a).sum(1) < 0).all())
    assert torch.allclose(whole.uvs, ours.uvs, atol=1.5 / 48)  # a texel's centre or its corner
    assert mesh.faces.shape[1] > 0
    fov, _ = nodes_moge.MoGeGeometryToFOV.execute(geometry, "horizontal", "degrees").args
    assert abs(fov - 55) < 1e-3
    opened = JodiGeometry.execute(MAPS["depth"], 55.0, 1.0, 0.0, 0.04).args[0]
    depth = nodes_moge.MoGeRender.execute(opened, "depth").args[0]
    assert depth.isfinite().all()


def check_poses_travel_as_the_host_s_keypoints():
    points = np.zeros((1, 18, 3))
    points[0, :, 0] = np.linspace(20, 230, 18)
    points[0, :, 1] = 40 + 160 * (np.arange(18) % 2)
    points[0, :, 2] = 1
    picture = draw_poses([points], 256, 256).movedim(1, -1)
    frames, people = JodiPoseKeypoints.execute(torch.cat((picture, picture))).args
    assert people >= 1 and len(frames) == 2 and frames[0]["canvas_width"] == 256
    json.dumps(frames)
    exact = make_frames([points], 256, 256)
    again = JodiPosePicture.execute(exact, 0.3).args[0]
    assert torch.equal(again, picture)
    half = JodiPosePicture.execute(exact, 0.3, 128, 64).args[0]
    assert half.shape == (1, 64, 128, 3)
    try:
        from comfy_extras.nodes_sdpose import SDPoseDrawKeypoints
    except ImportError:
        return
    drawn = SDPoseDrawKeypoints.execute(exact, True, True, True, False, 4, 3, 0.3, True).args[0]
    for x, y, _ in points[0]:
        assert drawn[0, round(y), round(x)].max() > 0.5


def check_class_masks_and_boxes():
    mask, masks, names, boxes = JodiClassMasks.execute(
        MAPS["segmentation"], "jodi", "person, sky"
    ).args
    person, sky = (SCENE.classes == 1).float(), (SCENE.classes == 6).float()
    assert names == "person, sky" and torch.equal(mask, person + sky)
    assert torch.equal(masks, torch.cat((person, sky)))
    assert {b["label"] for b in boxes[0]} == {"person", "sky"}
    assert JodiClassMasks.execute(MAPS["segmentation"], "jodi", "").args[1].shape[0] == 12
    try:
        from comfy_extras.nodes_sdpose import CropByBBoxes
    except ImportError:
        return
    only = JodiClassMasks.execute(MAPS["segmentation"], "jodi", "person").args[3]
    crop = CropByBBoxes.execute(MAPS["image"], only, 64, 64, 0).args[0]
    assert crop.shape == (1, 64, 64, 3)


def check_maps_for_controlnets():
    way = ("v2 style", "white on black", "jodi", "ade20k")
    for name in DOMAIN_NAMES[1:]:
        out = JodiMapForControlNet.execute(MAPS[name], name, *way).args[0]
        assert out.shape == MAPS[name].shape and 0 <= out.min() <= out.max() <= 1
    white = JodiMapForControlNet.execute(MAPS["lineart"], "lineart", *way).args[0]
    assert torch.equal(white, 1 - MAPS["lineart"])
    with raises(ImageError, "no map"):
        JodiMapForControlNet.execute(MAPS["image"], "image", *way)


def check_relight():
    args = (MAPS["albedo"], MAPS["normal"], 90.0, 0.0, "#ffffff", 1.0, "#000", 0.0)
    right = JodiRelight.execute(*args).args[0]
    left = JodiRelight.execute(*args[:2], -90.0, *args[3:]).args[0]
    nx = -(MAPS["normal"][..., 0] * 2 - 1)  # to the right
    assert bool((right[nx < -0.1] == 0).all()) and bool((left[nx > 0.1] == 0).all())
    swapped = JodiRelight.execute(
        MAPS["albedo"], MAPS["normal"] * torch.tensor([-1.0, 1, 1]) + torch.tensor([1.0, 0, 0]),
        *args[2:], 0.2, "opengl",
    ).args[0]  # fmt: skip
    assert torch.allclose(swapped, right, atol=1e-4)
    with raises(JodiError, "expected a colour"):
        JodiRelight.execute(*args[:4], "blue", *args[5:])


def sampled(**roles):
    model, vae, _ = parts()
    wires = JodiRoles.execute(model, vae, image=image(1, 48, 72), size="picture size", **roles)
    positive, negative, latent, _ = wires.args
    out = JodiSampler.execute(model, positive, negative, latent, 0, 2, 1.0).args[0]
    return out, vae


def check_latents_are_changed_as_a_whole():
    latent, vae = sampled(depth_role="generate", normal_role="generate")
    before = {d: JodiDecodeLabel.execute(latent, vae, d).args[0] for d in ("image", "depth")}
    for operation in ("flip horizontal", "rotate 90", "resize", "crop"):
        out = JodiLatentTransform.execute(latent, vae, operation, 8, 0, 32, 40).args[0]
        samples = out["samples"]
        assert not samples[:, :, 1].any(), "an ignored domain was filled"
        picture = JodiDecodeLabel.execute(out, vae, "image").args[0]
        assert picture.shape[1:3] == tuple(8 * s for s in samples.shape[-2:])
        JodiDecodeLabel.execute(out, vae, "depth")
    assert torch.equal(out["samples"], latent["samples"][..., 0:5, 1:5])
    part = JodiLatentTransform.execute(latent, vae, "crop", 0, 0, 16, 16).args[0]
    back = JodiLatentTransform.execute(latent, vae, "paste", other=part).args[0]
    assert torch.equal(back["samples"], latent["samples"])
    moved = JodiLatentTransform.execute(latent, vae, "paste", 24, 16, other=part).args[0]
    assert torch.equal(moved["samples"][..., 2:4, 3:5], part["samples"])
    assert before["image"].shape == (1, 48, 72, 3)
    with raises(ShapeError, "do not lie inside"):
        JodiLatentTransform.execute(latent, vae, "crop", 64, 0, 512, 8)
    with raises(ShapeError, "nothing to paste"):
        JodiLatentTransform.execute(latent, vae, "paste")
    other, _ = sampled(edge_role="generate")
    with raises(ShapeError, "edge is part of one"):
        JodiLatentTransform.execute(latent, vae, "paste", other=other)


def check_perceive_stands_for_its_parts():
    picture = image(1, 40, 64)
    result = JodiPerceive.execute(picture, 3, 0, depth=True, edge=False)
    graph = result.expand
    kinds = sorted(node["class_type"] for node in graph.values())
    assert kinds == ["JodiDecodeAll", "JodiLoad", "JodiRoles", "JodiSampler"]
    roles = next(n["inputs"] for n in graph.values() if n["class_type"] == "JodiRoles")
    assert roles["depth_role"] == "generate" and roles["edge_role"] == "ignore"
    assert roles["image_role"] == "condition" and len(result.args) == 7
    model, vae, _ = parts()
    own = JodiPerceive.execute(picture, 3, 0, model, vae, depth=True).expand
    assert "JodiLoad" not in {node["class_type"] for node in own.values()}
    with raises(RoleError, "no label is ticked"):
        JodiPerceive.execute(picture, 3, 0)
    with raises(JodiError, "the VAE is missing"):
        JodiPerceive.execute(picture, 3, 0, model, depth=True)


def check_nothing_is_left_behind():
    assert not [name for name in os.listdir(".") if name.endswith((".exr", ".ply", ".part"))]
