"""Depth, normals and classes: from Jodi to other programs, and from them to Jodi."""

import logging

from comfy_api.latest import io
from torch import Tensor

from ...jodi_core.job.plausible import find_drawing_doubt, has_colors
from ...jodi_core.labels.depth import DEPTH_SOURCES, convert_depth
from ...jodi_core.labels.normals import NORMAL_CONVENTIONS, convert_normals
from ...jodi_core.labels.segmentation import (
    SEGMENTATION_DRAWINGS,
    draw_segmentation,
    find_class_id,
    make_class_mask,
    paint_class,
    read_classes,
)
from ...kit.errors import ImageError
from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..wires.pictures import are_none, to_image, to_picture

log = logging.getLogger("jodi")


class JodiDepth(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        bound = {"min": -1e6, "max": 1e6, "step": 0.001, "round": False, "optional": True}
        return io.Schema(
            node_id="JodiDepth",
            display_name="Jodi Depth",
            category="Jodi",
            description=(
                "Redraws depth: near white or near black, stretched per picture, per batch or over "
                "a range. Takes Jodi's maps, and makes those of other nodes fit Jodi Roles."
            ),
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="Depth maps. From Jodi: decode with values raw when you want another "
                    "stretch than per picture; published maps are already stretched.",
                ),
                io.Combo.Input(
                    "source",
                    options=list(DEPTH_SOURCES),
                    default=DEPTH_SOURCES[0],
                    tooltip="How the map is drawn now. near white: Jodi, Depth Anything, MiDaS. "
                    "near black: larger is farther, drawn for looking at. distance: lengths such "
                    "as metres (MoGe, Depth Pro), which become 1/distance.",
                ),
                io.Combo.Input(
                    "normalize",
                    options=["image", "batch", "range"],
                    default="image",
                    tooltip="image: stretch every map to its own nearest and farthest point, as "
                    "Jodi expects. batch: one stretch for all, so that a video does not flicker. "
                    "range: from low to high, the rest is cut off; 0 to 1 keeps the values.",
                ),
                io.Combo.Input(
                    "near",
                    options=["white", "black"],
                    default="white",
                    tooltip="How near is drawn in the result. Jodi expects white.",
                ),
                io.Float.Input(
                    "low",
                    default=0.0,
                    **bound,
                    tooltip="For range: smallest value of the map that counts, in its own units.",
                ),
                io.Float.Input(
                    "high",
                    default=1.0,
                    **bound,
                    tooltip="For range: largest value of the map that counts, in its own units.",
                ),
            ],
            outputs=[
                io.Image.Output("depth", "depth", tooltip="Depth as a picture, float32."),
                io.Mask.Output("mask", "mask", tooltip="The same as a mask."),
            ],
        )

    @classmethod
    def execute(cls, image, source, normalize, near, low=0.0, high=1.0):
        if are_none(image):  # of an ignored domain
            return io.NodeOutput(image, image.masks())
        bounds = {"low": low, "high": high} if normalize == "range" else {}
        picture = to_picture(image, "image")
        if has_colors(picture):
            log.warning(
                "Jodi Depth: the picture is in colours, as a photo or a colour map is, and its "
                "brightness is read as depth; connect the depth map itself"
            )
        depth = convert_depth(picture, source, normalize, near, **bounds)
        return io.NodeOutput(to_image(depth[:, None].expand(-1, 3, -1, -1)), depth)


class JodiNormal(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        axes = (
            "jodi: red is high facing picture left, green up. opengl: red right, green up. "
            "directx: red right, green down. Blue is towards the camera in all."
        )
        return io.Schema(
            node_id="JodiNormal",
            display_name="Jodi Normal",
            category="Jodi",
            description=(
                "Redraws normals in another convention and sets their length to 1. For other "
                "nodes to Jodi Roles, choose their convention as source and jodi as target."
            ),
            inputs=[
                io.Image.Input("image", tooltip="Normal maps. Grey and black mean no direction."),
                io.Combo.Input(
                    "source",
                    options=list(NORMAL_CONVENTIONS),
                    default="jodi",
                    tooltip=f"How the map is drawn now. {axes}",
                ),
                io.Combo.Input(
                    "target",
                    options=list(NORMAL_CONVENTIONS),
                    default="opengl",
                    tooltip=f"How it should be drawn. {axes}",
                ),
            ],
            outputs=[io.Image.Output("normal", "normal", tooltip="Normals as a picture, float32.")],
        )

    @classmethod
    def execute(cls, image, source, target):
        if are_none(image):  # of an ignored domain
            return io.NodeOutput(image)
        return io.NodeOutput(to_image(convert_normals(to_picture(image, "image"), source, target)))


class JodiSegmentation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiSegmentation",
            display_name="Jodi Segmentation",
            category="Jodi",
            description=(
                "Reads a segmentation map: a mask of one class, the class numbers, and the map in "
                "the colours of Jodi or ADE20K. Paints masks of other nodes (SAM) into a map for "
                "Jodi Roles."
            ),
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Segmentation map. Not connected: an unlabeled one of the mask's size.",
                ),
                io.Mask.Input(
                    "paint_mask",
                    optional=True,
                    tooltip="Where it is white, the map is set to the class below. Chain several "
                    "of this node for several classes.",
                ),
                io.Combo.Input(
                    "source",
                    options=list(SEGMENTATION_DRAWINGS),
                    default="jodi",
                    tooltip="The colours the map is drawn in: Jodi's 12, or ADE20K's 150, which "
                    "are gathered into the 12.",
                ),
                io.Combo.Input(
                    "class_name",
                    options=list(SEGMENTATION_CLASSES),
                    default="person",
                    tooltip="The class of the mask that comes out, and that paint_mask paints.",
                ),
                io.Combo.Input(
                    "palette",
                    options=list(SEGMENTATION_DRAWINGS),
                    default="jodi",
                    tooltip="Colours of the map that comes out: jodi for Jodi Roles, ade20k for "
                    "ControlNets trained on ADE20K.",
                ),
            ],
            outputs=[
                io.Image.Output("map", "map", tooltip="The map in the chosen colours."),
                io.Mask.Output("mask", "mask", tooltip="1 where a pixel is of the class."),
                io.Image.Output(
                    "index",
                    "index",
                    tooltip="The class number as brightness: 8-bit value 0 is unlabeled, 1 person, "
                    "2 animal, and so on to 11 furniture.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image=None, paint_mask=None, source="jodi", class_name="person", palette="jodi"
    ):
        if are_none(image):  # of an ignored domain
            if paint_mask is None:
                return io.NodeOutput(image, image.masks(), image)
            image = None
        if image is None and paint_mask is None:
            raise ImageError(
                "nothing to read; connect a segmentation map, a mask to paint, or both"
            )
        index = None if image is None else _read_classes(to_picture(image, "image"), source)
        if paint_mask is not None:
            index = paint_class(index, paint_mask, find_class_id(class_name))
        numbers = (index.float() / 255)[:, None].expand(-1, 3, -1, -1)
        return io.NodeOutput(
            to_image(draw_segmentation(index, palette)),
            make_class_mask(index, class_name),
            to_image(numbers),
        )


def _read_classes(picture: Tensor, source: str) -> Tensor:
    """Classes (B, H, W); what is odd about the map is said in the log."""
    if doubt := find_drawing_doubt(picture, source):
        log.warning("Jodi Segmentation: %s", doubt)
    return read_classes(picture, source)


NODES = [JodiDepth, JodiNormal, JodiSegmentation]
