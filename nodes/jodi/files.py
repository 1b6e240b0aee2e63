"""Maps out of ComfyUI: files for compositing, geometry for 3D."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ...jodi_core.domains import DOMAINS
from ...jodi_core.exits.depth import find_distances, read_depth_plane
from ...jodi_core.exits.geometry import find_camera_normals, make_intrinsics, triangulate, unproject
from ...jodi_core.exits.layers import LAYERS, Z_WAYS, LayerOptions, make_layers
from ...jodi_core.exits.ply import encode_cloud
from ...jodi_core.labels.segmentation import find_class_id, read_classes
from ...kit.errors import ImageError
from ...kit.pictures.exr import check_installed, write_exr
from ..host.sampler import check_cancel, progress
from ..host.shapes import make_mesh_wire, make_ply_wire
from ..wires.pictures import count_rows, is_connected, to_image, to_picture

Geometry = io.Custom("MOGE_GEOMETRY")
PointCloud = io.Custom("FILE_3D_PLY")


class JodiSaveLayersEXR(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiSaveLayersEXR",
            display_name="Jodi Save Layers (EXR)",
            category="Jodi/exits",
            description=(
                "All maps of a picture as named float layers of one OpenEXR file, with Cryptomatte "
                "for the classes: for Nuke, Blender, After Effects."
            ),
            inputs=[
                *(
                    io.Image.Input(
                        d.name, optional=True, tooltip=f"{d.title}. Written as {LAYERS[d.name]}."
                    )
                    for d in DOMAINS
                ),
                io.String.Input(
                    "filename_prefix",
                    default="jodi/layers",
                    tooltip="Name in the output folder; a number and .exr are added, one file for "
                    "each picture of the batch.",
                ),
                io.Combo.Input(
                    "normals",
                    options=["opengl", "directx", "jodi"],
                    default="opengl",
                    tooltip="Axes of the layer N. opengl: X to the right, Y up. directx: X to the "
                    "right, Y down. jodi: X to the left, Y up. Z is to the viewer in all.",
                ),
                io.Combo.Input(
                    "z",
                    options=list(Z_WAYS),
                    default=Z_WAYS[0],
                    tooltip="What the layer Z holds. near high: the relative depth as it is, 1 "
                    "near and 0 far. far high: 1 minus it. distance: distances from near to far.",
                ),
                *_range_inputs("For distance: "),
            ],
            outputs=[
                io.String.Output("files", "files", tooltip="The files that were written, by line.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, filename_prefix, normals, z, near, far, **images):
        options = LayerOptions(normals, z, near, far)
        check_installed()
        shown = {
            name: to_picture(images[name], name)
            for name in LAYERS
            if is_connected(images.get(name))
        }
        if not shown:
            raise ImageError("there is nothing to write; connect at least one picture")
        rows = count_rows(shown)
        height, width = next(iter(shown.values())).shape[-2:]
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        bar, files = progress(rows), []
        for row in range(rows):
            check_cancel()
            picked = {key: p[row if len(p) > 1 else 0] for key, p in shown.items()}
            path = Path(folder) / f"{name}_{counter + row:05}_.exr"
            write_exr(path, *make_layers(picked, options))
            files.append(str(path))
            bar.update(1)
        text = "\n".join(files)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


def _range_inputs(when: str, far: float = 10.0) -> list:
    bound = {"min": 0.0, "max": 1e6, "step": 0.01, "round": False}
    return [
        io.Float.Input(
            "near",
            default=1.0,
            **bound,
            tooltip=f"{when}how far away the nearest point is, in any unit you like. Jodi's depth "
            "has no unit of its own.",
        ),
        io.Float.Input(
            "far",
            default=far,
            **bound,
            tooltip=f"{when}how far away the farthest point is, in the same unit. 0: infinitely "
            "far, for pictures with sky.",
        ),
    ]


class JodiGeometry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiGeometry",
            display_name="Jodi Geometry",
            category="Jodi/exits",
            description=(
                "Depth to 3D: geometry for ComfyUI's MoGe nodes, a textured mesh for Save GLB and "
                "the 3D preview, and a point cloud. Jodi's depth has no unit: you say how far "
                "near and far are, and how wide the camera sees."
            ),
            inputs=[
                io.Image.Input("depth", tooltip="Depth, near white, as Jodi decodes it."),
                io.Image.Input(
                    "image", optional=True, tooltip="The picture: texture and colours of points."
                ),
                io.Image.Input(
                    "normal",
                    optional=True,
                    tooltip="Jodi's normals, for the geometry. Without them MoGe's nodes take "
                    "those of the points.",
                ),
                io.Image.Input(
                    "segmentation",
                    optional=True,
                    tooltip="Jodi's segmentation: what it calls sky is left out.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Black is left out."),
                io.Float.Input(
                    "fov",
                    default=55.0,
                    min=1.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Horizontal field of view of the camera in degrees: 55 is a phone held "
                    "upright or a 35 mm lens, 75 a wide angle, 25 a portrait lens.",
                ),
                *_range_inputs(""),
                io.Float.Input(
                    "cut",
                    default=0.04,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Tear the mesh where the depth jumps by more than this share; 0 never "
                    "tears.",
                ),
                io.Int.Input(
                    "row",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Which picture of a batch becomes mesh and point cloud, from 0 on. The "
                    "geometry holds all.",
                ),
            ],
            outputs=[
                Geometry.Output(
                    "geometry",
                    "geometry",
                    tooltip="For Render MoGe Geometry, Convert MoGe Point Map to Mesh and others.",
                ),
                io.Mesh.Output("mesh", "mesh", tooltip="For Save GLB and the 3D preview."),
                PointCloud.Output(
                    "point_cloud",
                    "point_cloud",
                    tooltip="A PLY file for Save and Preview Point Cloud (ComfyUI 0.33 and later).",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        depth,
        fov,
        near,
        far,
        cut,
        image=None,
        normal=None,
        segmentation=None,
        mask=None,
        row=0,
    ):
        plane = read_depth_plane(to_picture(depth, "depth"))
        maps = {"image": image, "normal": normal, "segmentation": segmentation}
        maps = {k: _fitting(to_picture(v, k), k, plane) for k, v in maps.items() if is_connected(v)}
        distance = find_distances(plane, near, far)
        points, keep = unproject(distance, fov), distance.isfinite().cpu()
        if "segmentation" in maps:
            keep = keep & (read_classes(maps["segmentation"]) != find_class_id("sky")).cpu()
        if mask is not None:
            keep = keep & (_fitting(mask[:, None], "mask", plane)[:, 0] >= 0.5).cpu()
        if row >= len(plane):
            raise ImageError(f"row {row} was asked for, the batch has 0 to {len(plane) - 1}")
        colors = to_image(maps.get("image", plane[:, None].expand(-1, 3, -1, -1))).cpu()
        camera = make_intrinsics(fov, *plane.shape[-2:])
        gone = ~keep
        geometry = {
            "points": points.masked_fill(gone[..., None], float("inf")),
            "depth": distance.cpu().masked_fill(gone, float("inf")),
            "intrinsics": camera.expand(len(plane), 3, 3).contiguous(),
            "mask": keep,
            "image": colors,
        }
        if "normal" in maps:
            geometry["normal"] = find_camera_normals(maps["normal"])
        surface = triangulate(points[row], keep[row], cut=cut, colors=colors[row])
        cloud = encode_cloud(points[row], keep[row], colors[row])
        texture = colors[row : row + 1] if "image" in maps else None
        return io.NodeOutput(geometry, make_mesh_wire(surface, texture), make_ply_wire(cloud))


def _fitting(values, name: str, plane):
    """A map of the depth's size, one for each row. Raises: ImageError for any other."""
    if values.shape[-2:] != plane.shape[-2:] or len(values) not in (1, len(plane)):
        raise ImageError(
            f"{name} is {len(values)} of {values.shape[-1]} x {values.shape[-2]}, depth "
            f"{len(plane)} of {plane.shape[-1]} x {plane.shape[-2]}; decode them from one LATENT"
        )
    return values.expand(len(plane), *values.shape[1:])


NODES = [JodiSaveLayersEXR, JodiGeometry]
