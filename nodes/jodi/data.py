"""Poses and classes as data, and maps drawn for ControlNets of other models."""

from comfy_api.latest import io

from ...jodi_core.domains import DOMAIN_NAMES
from ...jodi_core.exits.classes import find_boxes, make_class_masks, read_class_names
from ...jodi_core.exits.controlnet import DEPTH_WAYS, LINE_WAYS, draw_for_controlnet
from ...jodi_core.exits.pose import draw_poses, make_frames, read_frames, read_poses
from ...jodi_core.labels.normals import NORMAL_CONVENTIONS
from ...jodi_core.labels.segmentation import SEGMENTATION_DRAWINGS, read_classes
from ...kit.errors import ImageError
from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..host.sampler import check_cancel
from ..wires.pictures import to_image, to_picture

Keypoints = io.Custom("POSE_KEYPOINT")
Boxes = io.Custom("BOUNDING_BOX")


class JodiPoseKeypoints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiPoseKeypoints",
            display_name="Jodi Pose to Keypoints",
            category="Jodi/exits",
            description=(
                "Reads an OpenPose picture back into keypoints: 18 for each figure, in pixels, as "
                "pose editors and ComfyUI's SDPose nodes take them."
            ),
            inputs=[
                io.Image.Input("image", tooltip="OpenPose pictures: Jodi's, or those of others.")
            ],
            outputs=[
                Keypoints.Output(
                    "keypoints",
                    "keypoints",
                    tooltip="A frame for each picture: canvas size and people with 18 x 3 numbers.",
                ),
                io.Int.Output(
                    "people", "people", tooltip="How many figures the first picture has."
                ),
            ],
        )

    @classmethod
    def execute(cls, image):
        figures = []
        for picture in to_picture(image, "image").split(1):
            check_cancel()
            figures += read_poses(picture)
        height, width = image.shape[1:3]
        return io.NodeOutput(make_frames(figures, int(height), int(width)), len(figures[0]))


class JodiPosePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 0, "min": 0, "max": 16384, "step": 8, "optional": True}
        return io.Schema(
            node_id="JodiPosePicture",
            display_name="Jodi Keypoints to Pose",
            category="Jodi/exits",
            description=(
                "Draws keypoints of any pose node or editor as the OpenPose picture that Jodi "
                "Roles takes."
            ),
            inputs=[
                Keypoints.Input("keypoints", tooltip="Frames with 18 body keypoints a person."),
                io.Float.Input(
                    "least_score",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Keypoints scored below are left out.",
                ),
                io.Int.Input("width", **side, tooltip="Pixels; 0 is the width of the canvas."),
                io.Int.Input("height", **side, tooltip="Pixels; 0 is the height of the canvas."),
            ],
            outputs=[io.Image.Output("openpose", "openpose", tooltip="For Jodi Roles.")],
        )

    @classmethod
    def execute(cls, keypoints, least_score, width=0, height=0):
        figures, canvas_height, canvas_width = read_frames(keypoints, least_score)
        height, width = height or canvas_height, width or canvas_width
        for figure in figures:
            figure[..., 0] = (figure[..., 0] + 0.5) * width / canvas_width - 0.5
            figure[..., 1] = (figure[..., 1] + 0.5) * height / canvas_height - 0.5
        return io.NodeOutput(to_image(draw_poses(figures, height, width)))


class JodiClassMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiClassMasks",
            display_name="Jodi Class Masks",
            category="Jodi/exits",
            description=(
                "A segmentation map as data: a mask of each class, one mask of all of them "
                "together, and a box around every separate part."
            ),
            inputs=[
                io.Image.Input("image", tooltip="Segmentation maps."),
                io.Combo.Input(
                    "source",
                    options=list(SEGMENTATION_DRAWINGS),
                    default="jodi",
                    tooltip="The colours the map is drawn in: Jodi's 12, or ADE20K's 150.",
                ),
                io.String.Input(
                    "classes",
                    default="person",
                    tooltip="Classes, separated by commas; empty is all twelve: "
                    f"{', '.join(SEGMENTATION_CLASSES)}.",
                ),
                io.Float.Input(
                    "least",
                    default=0.001,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=False,
                    optional=True,
                    tooltip="Smallest part that gets a box, as a share of the picture.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "mask", "mask", tooltip="All the classes together, a mask for each picture."
                ),
                io.Mask.Output(
                    "masks",
                    "masks",
                    tooltip="A mask for each class, in the order of names; all classes of the "
                    "first picture, then of the next.",
                ),
                io.String.Output("names", "names", tooltip="The classes, separated by commas."),
                Boxes.Output(
                    "boxes",
                    "boxes",
                    tooltip="For each picture boxes around the parts, the largest part first, "
                    "with the class as label.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image, source, classes, least=0.001):
        numbers = read_class_names(classes)
        index = read_classes(to_picture(image, "image"), source)
        masks = make_class_masks(index, numbers)
        names = ", ".join(SEGMENTATION_CLASSES[n] for n in numbers)
        boxes = find_boxes(index, numbers, least)
        return io.NodeOutput(masks.amax(dim=1), masks.flatten(0, 1), names, boxes)


class JodiMapForControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiMapForControlNet",
            display_name="Jodi Map for ControlNet",
            category="Jodi/exits",
            description=(
                "Draws a map as ControlNets of SD 1.5, SDXL, FLUX, Qwen and Z-Image were shown "
                "it. The settings that come with it fit union ControlNets; only the line of the "
                "map's own kind counts."
            ),
            inputs=[
                io.Image.Input("image", tooltip="A map as Jodi decodes it."),
                io.Combo.Input(
                    "domain",
                    options=list(DOMAIN_NAMES[1:]),
                    default="depth",
                    tooltip="Which map it is. Albedo and openpose stay as they are.",
                ),
                io.Combo.Input(
                    "depth",
                    options=list(DEPTH_WAYS),
                    default=DEPTH_WAYS[0],
                    tooltip="For depth. v2 style: the middle 98 % of the values from black to "
                    "white, as Depth Anything V2's preprocessors. min max: all of them. raw: as "
                    "it is. Near is white in all.",
                ),
                io.Combo.Input(
                    "lines",
                    options=list(LINE_WAYS),
                    default=LINE_WAYS[0],
                    tooltip="For line art and edges. ControlNets are trained with white on black.",
                ),
                io.Combo.Input(
                    "normals",
                    options=list(NORMAL_CONVENTIONS),
                    default="jodi",
                    tooltip="For normals. jodi is ControlNet 1.1's own convention (NormalBae): red "
                    "to the left, green up. opengl: red to the right. directx: red to the right, "
                    "green down.",
                ),
                io.Combo.Input(
                    "classes",
                    options=list(reversed(SEGMENTATION_DRAWINGS)),
                    default="ade20k",
                    tooltip="For segmentation. ade20k: the colours ControlNets are trained with. "
                    "jodi: as it is.",
                ),
            ],
            outputs=[io.Image.Output("image_out", "image", tooltip="For Apply ControlNet.")],
        )

    @classmethod
    def execute(cls, image, domain, depth, lines, normals, classes):
        if domain not in DOMAIN_NAMES[1:]:
            raise ImageError(f"{domain!r} is no map; choose one of {', '.join(DOMAIN_NAMES[1:])}")
        picture = to_picture(image, "image")
        made = draw_for_controlnet(domain, picture, depth, lines, normals, classes)
        return io.NodeOutput(to_image(made))


NODES = [JodiPoseKeypoints, JodiPosePicture, JodiClassMasks, JodiMapForControlNet]
