"""Class maps as data: masks of each class, boxes around its parts.

Shapes: B pictures, N classes, H W pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..labels.segmentation import check_class_map, find_class_id


def read_class_names(text: str) -> tuple[int, ...]:
    """Class numbers of names or numbers separated by commas; all twelve for an empty text.

    Raises: JodiError for an unknown class, listing them.
    """
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if not parts:
        return tuple(range(len(SEGMENTATION_CLASSES)))
    numbers = [find_class_id(int(p) if p.lstrip("-").isdecimal() else p) for p in parts]
    return tuple(dict.fromkeys(numbers))


def make_class_masks(index: Tensor, classes: Sequence[int]) -> Tensor:
    """1 where a pixel is of a class: (B, H, W) integers -> (B, N, H, W) float32."""
    check_class_map(index, len(SEGMENTATION_CLASSES))
    return torch.stack([index == number for number in classes], dim=1).to(torch.float32)


def find_boxes(
    index: Tensor, classes: Sequence[int], least: float = 0.001
) -> list[list[dict[str, object]]]:
    """Boxes around the connected parts of classes, for each picture, the largest part first.

    A box is {"x", "y", "width", "height", "label", "score"} in pixels, ends included; score is the
    share of the box that the part fills. Pixels that touch at a side or a corner are connected.
    least: smallest part that counts, as a share of the picture.
    Raises: ImageError for a wrong map; JodiError for a share outside 0..1.
    """
    check_class_map(index, len(SEGMENTATION_CLASSES))
    if not 0 <= least <= 1:
        raise JodiError(f"expected a share of the picture from 0 to 1, got {least}")
    found = []
    for picture in index.cpu().numpy():
        parts = []
        for number in classes:
            for part in find_parts(picture == number):
                if part[0] >= least * picture.size:
                    parts.append((*part, SEGMENTATION_CLASSES[number]))
        parts.sort(key=lambda part: (-part[0], part[1:]))
        found.append([_box(*part) for part in parts])
    return found


def _box(pixels: int, top: int, left: int, bottom: int, right: int, label: str) -> dict:
    height, width = bottom - top + 1, right - left + 1
    place = {"x": left, "y": top, "width": width, "height": height}
    return {**place, "label": label, "score": pixels / (height * width)}


def find_parts(mask: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """(pixels, top, left, bottom, right) of each connected part of a mask (H, W) bool.

    Rows are cut into runs; runs of neighbouring rows that touch are joined.
    """
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)  # one past the run, in the same order
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for y in range(1, mask.shape[0]):
        i, j = int(first[y - 1]), int(first[y])
        while i < first[y] and j < first[y + 1]:
            if starts[i] <= ends[j] and starts[j] <= ends[i]:  # corners count
                parent[root(j)] = root(i)
            if ends[i] < ends[j]:
                i += 1
            else:
                j += 1
    parts: dict[int, list[int]] = {}
    for k, (y, start, end) in enumerate(zip(rows.tolist(), starts.tolist(), ends.tolist(),
                                            strict=True)):  # fmt: skip
        part = parts.setdefault(root(k), [0, y, start, y, end - 1])
        part[0] += end - start
        part[2], part[3], part[4] = min(part[2], start), y, max(part[4], end - 1)
    return [(p[0], p[1], p[2], p[3], p[4]) for p in parts.values()]
