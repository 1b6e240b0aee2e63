"""Pictures as the host's IMAGE and MASK."""

from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor

from ...jodi_core.labels.segmentation import read_classes
from ...kit.errors import ImageError


class NoPictures(Tensor):
    """An IMAGE (0, H, W, 3) or MASK (0, H, W): what the socket of an ignored domain gives.

    Nodes that save or show pictures ask the first picture for its size and then loop over all. So
    `[0]` gives a blank picture, and the loop is empty.
    """

    @classmethod
    def of(cls, height: int, width: int) -> "NoPictures":
        return torch.zeros(0, height, width, 3).as_subclass(cls)

    def masks(self) -> "NoPictures":
        """As many masks of the same size: none."""
        return torch.zeros(self.shape[:3]).as_subclass(NoPictures)

    def __getitem__(self, index):
        if isinstance(index, int) and index == 0 and len(self) == 0:
            return torch.zeros(self.shape[1:])
        return super().__getitem__(index)


def are_none(image) -> TypeGuard[NoPictures]:
    """Whether an IMAGE comes from the socket of an ignored domain, directly or through others."""
    return isinstance(image, NoPictures) and image.ndim == 4 and not len(image)


def to_picture(image: Tensor, name: str) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, 3, H, W) float32; grey is repeated, opacity left out.

    Raises: ImageError, naming the socket, for anything else.
    """
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ImageError(f"{name}: expected an IMAGE (batch, height, width, 3), got {shape}")
    if not len(image):
        raise ImageError(f"{name}: the IMAGE holds no pictures; connect one with at least one")
    picture = image[..., :3].movedim(-1, 1).to(torch.float32)
    return picture.expand(-1, 3, -1, -1)


def to_image(picture: Tensor) -> Tensor:
    """(B, 3, H, W) -> IMAGE (B, H, W, 3), contiguous float32."""
    return picture.movedim(1, -1).to(torch.float32).contiguous()


def to_mask(picture: Tensor, kind: str = "gray") -> Tensor:
    """(B, 3, H, W) of a domain of that kind -> MASK (B, H, W): brightness, or 1 in every class."""
    if kind == "palette":
        return (read_classes(picture) > 0).to(torch.float32)
    return picture.mean(dim=1)


def is_connected(image: Tensor | None) -> bool:
    """Whether a socket gives pictures: it is wired, and not to an ignored domain's."""
    return image is not None and len(image) > 0


def count_rows(pictures: Mapping[str, Tensor]) -> int:
    """How many rows batches of pictures make together; one serves all.

    Raises: ImageError, naming the sockets, for counts that do not fit.
    """
    counts = {name: len(p) for name, p in pictures.items()}
    most = max(counts.values())
    if any(count not in (1, most) for count in counts.values()):
        listing = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ImageError(f"the batches have different lengths: {listing}; give 1 or {most} of each")
    return most
