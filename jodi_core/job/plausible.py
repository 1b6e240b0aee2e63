"""Whether a given picture looks like a map of its domain, as far as a glance can tell.

A doubt is never an error: a flat depth or a ceiling seen from below may be intended. Each front end
shows the doubt and adds the option or node that corrects it. Thresholds keep clear of what rendered
scenes and the published examples of the model's training data show.
Shapes: B rows, H W pixels.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_PALETTE
from ..labels.segmentation import (
    find_nearest_color,
    find_strange_share,
    read_class_numbers,
)

GLANCE = 64  # pixels per side that are looked at
FLAT = 0.02  # span of values
COLOURED = 0.03  # mean distance between a pixel's channels; JPEG gives grey pictures less
POLARITY = 0.5  # mean brightness between lines on black and lines on white
BEND, BUSY = 0.03, 0.2  # of the span, from pixel to pixel; share of pixels that bend so
MIDDLE, MIDDLE_SHARE = (0.25, 0.75), 0.3  # tones that lines seldom have; of the pixels
UPSIDE_DOWN = -0.2  # brightness of depth, lower third less upper third
DARK, DARK_SHARE = 0.1, 0.5  # a skeleton's background is black
DOWNWARD = -0.2  # mean of the vertical axis in the lower half: ground faces up
UNIT, OTHER_LENGTHS = (0.7, 1.3), 0.15  # lengths of a normal; share of pixels that have others
NO_DIRECTION = 0.25  # length of what is grey or black, where a normal map says nothing
SMOOTH = (0.01, 0.2)  # steps of a normal from pixel to pixel on curved surfaces
CURVED_SHARE, CURVED_AGREE = 0.02, 0.5  # of the pixels; of those steps
NEAR = 32 / 255  # distance in one channel to a colour of the palette: what JPEG makes of it
STRANGE = 0.3  # share of pixels
PALE, MOSTLY = 0.15, 0.5  # distance between a pixel's channels; share of what is drawn
EXACT, FOREIGN = 4 / 255, 0.7  # distance to a colour of ADE20K, whose 150 fill space; of pixels
UNLABELED = "is unlabeled everywhere, which says nothing; were its class numbers lost on the way?"


class Doubt(NamedTuple):
    """Something odd about a given picture, as a sentence that names the way out.

    name: of the domain. kind: for the front end's own hint, such as "inverted".
    """

    name: str
    kind: str
    text: str


def find_doubt(name: str, picture: Tensor) -> Doubt | None:
    """What is odd about a picture (B, 3, H, W) in [0, 1] of the domain `name`, or None.

    Normals are in the model's axes, classes in its colours or as numbers, as `Given` draws them.
    """
    check = _CHECKS.get(name)
    if check is None:
        return None
    found = check(_glance(picture))
    return None if found is None else Doubt(name, found[0], f"{name} {found[1]}")


def find_drawing_doubt(picture: Tensor, drawn: str) -> str | None:
    """What is odd about a class map (B, 3, H, W) read as another program draws it, or None."""
    if drawn == "jodi" or read_class_numbers(picture, drawn) is not None:
        return None  # the job looks at it
    if find_strange_share(_glance(picture), drawn, EXACT) <= FOREIGN:
        return None
    return (
        "segmentation has hardly a colour of ADE20K's 150 classes, and each pixel is taken for the "
        "nearest; is it a class map in these colours?"
    )


def has_colors(values: Tensor) -> bool:
    """Whether maps (B, 3, H, W) of any range, distances also, are in colours.

    False where a value is not finite, which files and pictures in colours never hold.
    """
    largest = values.abs().max()
    return bool((values.amax(1) - values.amin(1)).mean() > COLOURED * largest)


def _glance(picture: Tensor) -> Tensor:
    """Some rows and columns of each picture, (B, 3, h, w) float32 on the CPU."""
    h, w = picture.shape[-2:]
    rows = torch.linspace(0, h - 1, min(h, GLANCE)).long().to(picture.device)
    columns = torch.linspace(0, w - 1, min(w, GLANCE)).long().to(picture.device)
    return picture[:, :, rows][..., columns].float().cpu()


def _coloured(seen: Tensor) -> bool:
    return bool(((seen.amax(1) - seen.amin(1)).mean((1, 2)) > COLOURED).any())


def _depth(seen: Tensor) -> tuple[str, str] | None:
    grey = seen.mean(1)
    if bool((grey.amax((1, 2)) - grey.amin((1, 2)) < FLAT).any()):
        return "flat", (
            "is one flat tone; was it cut off? Programs that expect 8 bits turn 16-bit files white "
            "or black: save depth with 8 bits, or stretch it first"
        )
    if _coloured(seen):
        return "colours", (
            "is in colours, as a photo or a colour map is; expected a grey map with near white: "
            "give the depth map itself"
        )
    if bool((_bent(grey) > BUSY).any()):
        return "photo", (
            "looks like a photo in grey: its tones change everywhere, and those of depth change "
            "evenly but for the borders of things; give the depth map itself"
        )
    if any(_rise(plane) < UPSIDE_DOWN for plane in grey):
        return "inverted", (
            "looks inverted: its upper part is nearer than its lower part, and near is white; if "
            "near is black in it, or it holds distances, say so when it is read"
        )
    return None


def _rise(grey: Tensor) -> float:
    """How much brighter the lower third of depth (h, w) is than the upper third.

    Black may be what was not measured, a sky above all, and says nothing then: the smaller of the
    rise of all pixels and that of the others counts.
    """
    known = grey > grey.min()
    rows = grey[known.any(1)], known[known.any(1)]
    rises = []
    for tones, seen in ((grey, torch.ones_like(known)), rows):
        third = -(-len(tones) // 3)
        upper, lower = (tones[part][seen[part]] for part in (slice(third), slice(-third, None)))
        rises.append(float(lower.mean() - upper.mean()))
    return min(rises)


def _bent(grey: Tensor) -> Tensor:
    """Share of the pixels of each plane (B, h, w) whose tone is off the line of its neighbours.

    A plane in space has disparities on a line, so depth bends at borders only.
    """
    low, high = grey.amin((1, 2), True), grey.amax((1, 2), True)
    grey = (grey - low) / (high - low)
    down, across = (grey.diff(n=2, dim=dim).abs() > BEND for dim in (1, 2))
    return (down.float().mean((1, 2)) + across.float().mean((1, 2))) / 2


def _normal(seen: Tensor) -> tuple[str, str] | None:
    vectors = seen * 2 - 1
    length = vectors.norm(dim=1)
    other = (length > NO_DIRECTION) & ((length < UNIT[0]) | (length > UNIT[1]))
    facing = vectors[:, 2].mean((1, 2)) >= 0.05
    if bool((~facing | (other.float().mean((1, 2)) > OTHER_LENGTHS)).any()):
        return "no normals", (
            "does not look like a normal map: most of it should face the camera, which is blue; "
            "give the normals themselves"
        )
    if bool((vectors[:, 1, vectors.shape[2] // 2 :].mean((1, 2)) < DOWNWARD).any()):
        return "directx", (
            "looks drawn in DirectX's axes: its ground faces down; if it is, say so when it is read"
        )
    # on convex surfaces, which most are, the direction turns right as the eye moves right
    steps = vectors[:, 0].diff(dim=2)
    smooth = (steps.abs() > SMOOTH[0]) & (steps.abs() < SMOOTH[1])
    count = smooth.flatten(1).sum(1)
    turning = (steps.sign() * smooth).flatten(1).sum(1) / count.clamp_min(1)
    enough = count > CURVED_SHARE * steps[0].numel()
    if bool((enough & (turning > CURVED_AGREE)).any()):
        return "opengl", (
            "looks drawn in OpenGL's axes, where red faces right; expected red facing left: if it "
            "is OpenGL's, say so when it is read"
        )
    return None


def _lineart(seen: Tensor) -> tuple[str, str] | None:
    if odd := _no_lines(seen):
        return odd
    if bool((seen.mean((1, 2, 3)) < POLARITY).any()):
        return "polarity", "is mostly dark; expected dark lines on white: invert it"
    return None


def _edge(seen: Tensor) -> tuple[str, str] | None:
    if odd := _no_lines(seen):
        return odd
    if bool((seen.mean((1, 2, 3)) > POLARITY).any()):
        return "polarity", "is mostly bright; expected bright edges on black: invert it"
    return None


def _no_lines(seen: Tensor) -> tuple[str, str] | None:
    if _coloured(seen):
        return "colours", "is in colours, as a photo is; expected grey lines"
    grey = seen.mean(1)
    middle = (grey > MIDDLE[0]) & (grey < MIDDLE[1])
    if bool((middle.float().mean((1, 2)) > MIDDLE_SHARE).any()):
        return "photo", (
            "is full of middle tones, as a photo in grey is; expected lines on plain ground: "
            "give the lines themselves"
        )
    return None


def _openpose(seen: Tensor) -> tuple[str, str] | None:
    if bool((seen.mean((1, 2, 3)) > 0.6).any()):
        return "background", (
            "is mostly bright; expected coloured skeletons on black: draw it on black"
        )
    drawn = seen.amax(1) >= DARK
    if bool((drawn.float().mean((1, 2)) > 1 - DARK_SHARE).any()):
        return "photo", (
            "is a full picture, as a photo is; expected coloured skeletons on black: give the "
            "skeletons alone"
        )
    pale = drawn & (seen.amax(1) - seen.amin(1) < PALE)
    if bool((pale.flatten(1).sum(1) > MOSTLY * drawn.flatten(1).sum(1)).any()):
        return "grey", (
            "is grey, as edges are; expected coloured skeletons on black, whose colours say which "
            "limb is which"
        )
    return None


def _segmentation(seen: Tensor) -> tuple[str, str] | None:
    numbers = read_class_numbers(seen)
    if numbers is not None:
        if bool((numbers > 0).any()):
            return None
        return "unlabeled", UNLABELED
    strange = find_strange_share(seen, "jodi", NEAR)
    if strange > STRANGE and bool((seen == seen[:, :1]).all()):
        return "classes", (
            f"is grey with values up to {round(255 * float(seen.max()))} of 255, which are neither "
            "the colours of the model's 12 classes nor class numbers (0 to 11, and 255 for pixels "
            "to ignore), and each pixel is taken for the nearest colour; say how it is drawn when "
            "it is read, or renumber its classes"
        )
    if strange <= STRANGE and not bool(find_nearest_color(seen, SEGMENTATION_PALETTE).any()):
        return "unlabeled", UNLABELED
    if strange > STRANGE:
        return "classes", (
            "has colours that are none of the model's 12 classes, and each pixel is taken for the "
            "nearest; say how it is drawn when it is read"
        )
    return None


_CHECKS: dict[str, Callable[[Tensor], tuple[str, str] | None]] = {
    "depth": _depth,
    "normal": _normal,
    "lineart": _lineart,
    "edge": _edge,
    "openpose": _openpose,
    "segmentation": _segmentation,
}
