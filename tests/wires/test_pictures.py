"""Pictures as IMAGE and MASK."""

import torch
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from jodi_pack.nodes.wires.pictures import NoPictures, to_image, to_mask, to_picture
from jodi_pack.tests.helpers import randn
from jodi_pack.tests.wires.given import raises


def image(*shape: int):
    """An IMAGE (B, H, W, 3)."""
    return torch.sigmoid(randn(*shape, 3, seed=1))


def test_images_become_pictures():
    for channels in (1, 3, 4):
        picture = to_picture(torch.rand(2, 5, 7, channels), "depth")
        assert picture.shape == (2, 3, 5, 7) and picture.dtype == torch.float32
    pixels = image(2, 5, 7)
    assert torch.equal(to_image(to_picture(pixels, "depth")), pixels)
    for wrong in (torch.rand(5, 7, 3), torch.rand(1, 5, 7, 2), "picture"):
        with raises(ImageError, "depth: expected an IMAGE"):
            to_picture(wrong, "depth")
    with raises(ImageError, "depth: the IMAGE holds no pictures"):
        to_picture(torch.rand(0, 5, 7, 3), "depth")


def test_masks_of_maps():
    grey = torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert torch.allclose(to_mask(grey), grey[:, 0])
    colors = torch.tensor([SEGMENTATION_PALETTE[i] for i in (0, 1, 11)]) / 255
    classes = colors.T[None, :, None, :]
    assert to_mask(classes, "palette").tolist() == [[[0, 1, 1]]]


def test_no_pictures_have_a_size_and_none_to_take():
    none = NoPictures.of(48, 64)
    assert len(none) == 0 and list(none) == [] and none.shape == (0, 48, 64, 3)
    assert none[0].shape == (48, 64, 3) and not none[0].any()
    assert none.movedim(-1, 1).shape == (0, 3, 48, 64)
    with raises(ImageError, "holds no pictures"):
        to_picture(none, "depth")
