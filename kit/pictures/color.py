"""Colours of a picture that brings its own profile (ICC), as sRGB."""

import functools
import io
import logging

import numpy as np
from PIL import Image

logger = logging.getLogger("jodi")

_WITH_PROFILE = ("RGB", "RGBA", "L", "LA", "CMYK", "P", "PA", "1")


def to_srgb(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """The picture as RGB, RGBA or L with its colours in sRGB; unchanged where they are already.

    Opacity stays as it is. A profile that cannot be used is ignored, with a warning, as if the
    picture had none.
    """
    if image.mode not in _WITH_PROFILE:
        return image
    try:
        return _converted(image, profile)
    except Exception as error:
        # damaged profiles, or those of another kind of colours, raise PyCMSError, OSError and more
        logger.warning("%s: its colour profile cannot be used (%s); read as sRGB", name, error)
        return image


def _converted(image: Image.Image, profile: bytes) -> Image.Image:
    transparent = "transparency" in image.info
    if image.mode in ("P", "PA") or (transparent and image.mode != "RGB"):
        clear = transparent or image.mode == "PA"
        image = image.convert("RGBA" if clear else "RGB")
    elif transparent:
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    opacity = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    color = image.convert(image.mode[:-1]) if opacity is not None else image
    transform = _transform(profile, color.mode)
    if transform is None:
        return image
    from PIL import ImageCms  # noqa: PLC0415  (Pillow may be built without it)

    converted = ImageCms.applyTransform(color, transform)
    assert converted is not None  # None only where the picture is changed in place
    if opacity is not None:
        converted.putalpha(opacity)
    return converted


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str):
    """The transform to sRGB of pictures of that mode; None where it changes nothing."""
    from PIL import ImageCms  # noqa: PLC0415

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode == "CMYK":
        return transform
    ramp = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        probe = ramp[None]
    else:
        probe = np.stack(np.meshgrid(ramp, ramp, ramp), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(probe)
    after = np.asarray(ImageCms.applyTransform(before, transform)).astype(int)
    shown = np.asarray(before.convert("RGB")).astype(int)
    return None if np.abs(after - shown).max() <= 1 else transform
