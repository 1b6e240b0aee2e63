"""Pictures as the host's IMAGE and MASK."""

import torch
from torch import Tensor

from ...jodi_core.labels.segmentation import read_classes
from ...kit.errors import ImageError


class NoPictures(Tensor):
    """An IMAGE (0, H, W, 3): what the socket of an ignored domain gives.

    Nodes that save or show pictures ask the first picture for its size and then loop over all. So
    `[0]` gives a blank picture, and the loop is empty.
    """

    @classmethod
    def of(cls, height: int, width: int) -> "NoPictures":
        return torch.zeros(0, height, width, 3).as_subclass(cls)

    def __getitem__(self, index):
        if isinstance(index, int) and index == 0 and len(self) == 0:
            return torch.zeros(self.shape[1:])
        return super().__getitem__(index)


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
