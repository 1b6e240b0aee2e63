"""Results of a job back in the frame of the picture they were made from.

Shapes: B rows, h w pixels of the job, H W pixels of the original.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kit.pictures.frame import Frame, restore
from ..domains import Domain
from ..labels.segmentation import colorize, find_classes


def restore_map(of: Domain, raw: Tensor, frames: Sequence[Frame], *, exact: bool = True) -> Tensor:
    """Decoder output of one domain, laid over the original pictures.

    Shapes: raw (B, 3, h, w), about [-1, 1]; frames: one for each row, all of one original size ->
    (B, 3, H, W) float32 of the same range, for `postprocess`. What was cropped away repeats the
    border. Classes keep their borders: with `exact`, each pixel is given the colour of its class
    first; without, the decoder's own values are moved, unmixed.
    Raises: ShapeError when a map is not of its frame's size; ImageError when it is no picture.
    """
    palette = of.kind == "palette"
    if palette and exact:
        raw = colorize(find_classes(raw)) * 2 - 1
    if len(set(frames)) == 1:
        return restore(raw, frames[0], palette)
    parts = [restore(raw[i : i + 1], frame, palette) for i, frame in enumerate(frames)]
    return torch.cat(parts)
