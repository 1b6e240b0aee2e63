"""A record's pictures, opened and checked: at the size of their bucket, as the network sees them.

Source: github VIPL-GENUN/Jodi @ c21bdcb, data/datasets/jodi_dataset.py; other than there, class
colours are resized to the nearest pixel, which blends none of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.pictures.files import load_image
from ...kit.pictures.frame import fit
from ..domains import DOMAIN_NAMES, find_model_domain
from ..job.size import find_nearest_bin, scale_bins
from .records import Record

POSE = "openpose"
Stamp = tuple[int, int]


@dataclass(frozen=True)
class Bins:
    """The sizes that pictures are trained at: the released aspect ratios around one pixel count.

    factor: pixels per token. side: of the square one.
    """

    factor: int
    side: int

    def nearest(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) a picture of this size is trained at."""
        found = find_nearest_bin(*size, scale_bins(self.factor, self.side))
        return found.height, found.width


def read_stamp(path: Path) -> Stamp:
    """Size and time of a file: what tells that it was changed. Raises: JodiError without a file."""
    try:
        found = path.stat()
    except OSError as error:
        raise JodiError(f"{path.name} cannot be read: {error.strerror or error}") from None
    return found.st_size, found.st_mtime_ns


def read_stamps(record: Record) -> dict[str, Stamp]:
    """The stamps of a record's pictures, by domain."""
    return {name: read_stamp(path) for name, path in record.files.items()}


def read_record(
    record: Record, bins: Bins, names: Sequence[str], *, empty_pose: bool = True
) -> dict[str, Tensor]:
    """Network inputs (3, H, W) float32 in [-1, 1] by domain, of those the record has.

    empty_pose: a missing pose is a black picture, which says that nobody is there, as released.
    Raises: JodiError for a picture that cannot be read, is of another size than the metadata or its
    image, or was changed while it was read.
    """
    before = read_stamps(record)
    image = load_image(record.image)[0]
    shown = (image.shape[-2], image.shape[-1])
    if record.size is not None and record.size != shown:
        raise JodiError(
            f"the picture is {shown[1]} x {shown[0]}, its metadata says "
            f"{record.size[1]} x {record.size[0]}"
        )
    size = bins.nearest(shown)
    pictures = {}
    for name, path in record.files.items():
        picture = image if path == record.image else load_image(path)[0]
        if picture.shape[-2:] != image.shape[-2:]:
            raise JodiError(
                f"{name} is {picture.shape[-1]} x {picture.shape[-2]}, its picture "
                f"{shown[1]} x {shown[0]}; make the label at the picture's size"
            )
        palette = find_model_domain(name, names.index(name)).kind == "palette"
        pictures[name] = fit(picture, size, palette=palette)[0][0].mul(2).sub(1).clamp_(-1, 1)
    if read_stamps(record) != before:
        raise JodiError("a file was changed while it was read; run again when nothing writes to it")
    if empty_pose and POSE in names and POSE not in pictures:
        pictures[POSE] = torch.full_like(pictures[DOMAIN_NAMES[0]], -1)
    return {name: pictures[name] for name in names if name in pictures}
