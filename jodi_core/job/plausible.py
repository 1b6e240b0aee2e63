"""Whether a connected picture looks like a map of its domain, as far as a glance can tell.

Never an error: a flat depth may be meant. It is said in the summary of Jodi Roles.
Shapes: B rows, H W pixels.
"""

import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_PALETTE

GLANCE = 64  # pixels per side that are looked at
FLAT = 0.02  # span of values
NEAR = 32 / 255  # distance in one channel to a colour of the palette: what JPEG makes of it
STRANGE = 0.3  # share of pixels
INVERT = "put ComfyUI's Invert Image before Jodi Roles"


def doubt(name: str, picture: Tensor) -> str | None:
    """What is odd about a picture (B, 3, H, W) in [0, 1] of the domain `name`, or None."""
    h, w = picture.shape[-2:]
    rows = torch.linspace(0, h - 1, min(h, GLANCE)).long().to(picture.device)
    columns = torch.linspace(0, w - 1, min(w, GLANCE)).long().to(picture.device)
    seen = picture[:, :, rows][..., columns].float().cpu()
    if name == "depth" and bool((seen.flatten(1).amax(1) - seen.flatten(1).amin(1) < FLAT).any()):
        return (
            "depth is one flat tone; was it cut off? Load Image can turn 16-bit files white: save "
            "depth with 8 bits"
        )
    if name == "lineart" and seen.mean() < 0.5:
        return f"lineart is mostly dark, and expected are dark lines on white; {INVERT}"
    if name == "edge" and seen.mean() > 0.6:
        return f"edge is mostly bright, and expected are bright edges on black; {INVERT}"
    if name == "openpose" and seen.mean() > 0.6:
        return "openpose is mostly bright, and expected are coloured skeletons on black"
    if name == "segmentation" and _strange(seen) > STRANGE:
        return (
            "segmentation has colours that are none of the model's 12 classes; put Jodi "
            "Segmentation before Jodi Roles"
        )
    return None


def _strange(picture: Tensor) -> float:
    """Share of pixels that are near no colour of the palette."""
    palette = torch.tensor(SEGMENTATION_PALETTE, dtype=torch.float32) / 255
    pixels = picture.permute(0, 2, 3, 1).reshape(-1, 1, 3)
    return float(((pixels - palette).abs().amax(-1).amin(-1) > NEAR).float().mean())
