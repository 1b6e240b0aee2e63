"""Picture files in and out: whatever people have on disk in, whole PNGs out."""

import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, PngImagePlugin
from torch import Tensor

from ..errors import ImageError
from ..files import replace_file
from .color import to_srgb
from .palettes import Color
from .png import drop_large_chunks, write_png16
from .tiff import is_tiff, read_floats, turn_upright

MAX_PIXELS = 1 << 27
"""Largest picture that is opened: 134 megapixels, 1.6 GB as float32 RGB. While it is read, 8-bit
RGB takes about 2.6 GB: the file's own pixels (4 bytes each) and their bytes in two orders, too."""

WHITE = (1.0, 1.0, 1.0)

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".avif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".ico", ".psd", ".dds"),
)
"""Endings that `load_image` reads, in small letters."""

UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".hif", ".exr", ".hdr", ".jxl", ".pfm", ".svg", ".eps", ".psb", ".xcf"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".npy", ".npz"),
)
"""Endings of pictures that are not read; a warning names such files when they are left out."""

# Formats that hold pictures and need no other program (EPS would start Ghostscript).
_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF"),
    *("PPM", "TGA", "JPEG2000", "ICO", "PSD", "DDS"),
)

_UNREAD = (
    (0, b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"#?RGBE", "a Radiance HDR picture"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftyphev", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypmsf1", "a HEIF picture"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL picture"),
    (0, b"\x93NUMPY", "an array of numpy"),
    (0, b"8BPS\0\2", "a large Photoshop document"),
    (0, b"gimp xcf", "a GIMP document"),
    (0, b"<svg", "an SVG drawing"),
)
"""Place and bytes that begin files of known kinds that are not read, and what these are."""

logger = logging.getLogger("jodi")

# What brings a picture of each EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    source: str | os.PathLike | bytes, background: tuple[float, float, float] | None = WHITE
) -> tuple[Tensor, Tensor | None]:
    """A picture file as sRGB, upright, and its opacity.

    Returns: (1, 3, H, W) float32 in [0, 1], and (1, 1, H, W) float32 opacity in [0, 1] or None
    where the file has none. Grey is repeated, 16-bit grey keeps its depth, CMYK, palettes and
    colours of another profile (ICC) are converted, EXIF rotation is applied, of an animation the
    first frame is taken. Transparent pixels show `background`; None keeps the colours stored under
    them.
    Raises: ImageError, naming the file, for what is missing, unreadable, truncated, larger than
    MAX_PIXELS, or holds numbers outside 0..1.
    """
    name = name_source(source)
    image = open_picture(source, name, converted=True)
    color, opacity = _channels(image, name)
    if opacity is not None and background is not None:
        shade = torch.tensor(background, dtype=torch.float32)[:, None, None]
        color = color * opacity + shade * (1 - opacity)
    return color[None], None if opacity is None else opacity[None]


def name_source(source: str | os.PathLike | bytes) -> str:
    return "the given bytes" if isinstance(source, bytes) else str(source)


def open_picture(
    source: str | os.PathLike | bytes,
    name: str,
    *,
    converted: bool,
    prepare: Callable[[ImageFile.ImageFile], None] | None = None,
) -> Image.Image | np.ndarray:
    """The picture, upright: Pillow's, or (H, W, channels) float32 of what only `tiff` reads.

    converted: colours are turned to sRGB. prepare: sees Pillow's picture before it is decoded.
    Raises: ImageError as `load_image`, but for numbers outside 0..1.
    """
    try:
        with _stream(source, name) as stream, warnings.catch_warnings():
            # ours is the limit; above half of its own Pillow would warn of pictures that work
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file, profile = drop_large_chunks(stream)
            try:
                with Image.open(file, formats=_formats()) as image:
                    _check_size(image.size, name)
                    if prepare is not None:
                        prepare(image)
                    image.load()
                    upright = _upright(image, name)
                    profile = profile or image.info.get("icc_profile")
            except Image.UnidentifiedImageError:
                stream.seek(0)
                start = stream.read(16)
                if not is_tiff(start[:4]):
                    raise ImageError(f"{name} is {_told(start)}") from None
                return turn_upright(*read_floats(stream, name, MAX_PIXELS))
        return to_srgb(upright, profile, name) if converted and profile else upright
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} is refused: it has more pixels than the limit of {MAX_PIXELS:,}; shrink the "
            "picture first"
        ) from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; shrink it first") from None
    except Exception as error:
        # decoders raise anything from OSError to struct.error on damaged data
        raise ImageError(
            f"{name} is damaged or incomplete ({error}); save or download it again"
        ) from error


def save_png(
    path: str | os.PathLike, picture: Tensor, bits: int = 8, text: dict[str, str] | None = None
) -> None:
    """Write a PNG, whole or not at all: a reader never sees half a file.

    picture, bits, text: as `encode_png`. An existing file is replaced, folders are made.
    Raises: ImageError for a wrong shape, dtype or values, or when writing fails.
    """
    data = encode_png(picture, bits, text)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(data)
    except (OSError, ValueError) as error:  # a NUL byte in the name is a ValueError
        raise ImageError(f"could not write {path}: {_reason(error)}") from error


def encode_png(
    picture: Tensor,
    bits: int = 8,
    text: dict[str, str] | None = None,
    palette: Sequence[Color] | None = None,
) -> bytes:
    """The bytes of a PNG file.

    Shapes: picture (3, H, W), (1, H, W) or (H, W), floating in [0, 1] (rounded, never cut down)
    or uint8 (kept as it is, for class numbers). bits: 8 or 16 per channel.
    text: entries for the file's text chunks. palette: colours of the class numbers of a uint8
    (H, W), for a file that holds numbers and shows colours.
    Raises: ImageError for a wrong shape, dtype or values.
    """
    array = _array(picture, bits)
    if palette is not None and (array.ndim != 2 or int(array.max()) >= len(palette)):
        raise ImageError(
            f"a PNG with a palette of {len(palette)} colours needs class numbers (height, width) "
            f"below that, got {tuple(picture.shape)} up to {int(array.max())}"
        )
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, str(value))
    out = io.BytesIO()
    if array.dtype == np.uint8:
        image = Image.fromarray(array)
        if palette is not None:
            image.putpalette([value for color in palette for value in color])
        image.save(out, "PNG", pnginfo=info)
    else:
        write_png16(out, array, info)
    return out.getvalue()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def to_uint8(picture: Tensor) -> Tensor:
    """Values in [0, 1] to 0..255, rounded to the nearest; what lies outside is clamped.

    Raises: ImageError for NaN, which has no nearest value.
    """
    return _quantize(picture, 255).to(torch.uint8)


def _quantize(picture: Tensor, top: int) -> Tensor:
    if not picture.is_floating_point():
        raise ImageError(f"expected floating-point values in 0..1, got {picture.dtype}")
    if picture.isnan().any():
        raise ImageError("the picture holds NaN; nothing sensible can be written for it")
    return picture.detach().to(torch.float32).clamp(0, 1).mul_(top).round_()


def _stream(source, name: str) -> BinaryIO:
    if isinstance(source, bytes):
        if not source:
            raise ImageError("no bytes were given; expected a picture file")
        return io.BytesIO(source)
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder; expected a picture file")
        if not os.path.lexists(path):
            raise ImageError(f"{name} does not exist; check the path")
        if not path.stat().st_mode & 0o100000:  # S_IFREG: a pipe would block, a device never end
            raise ImageError(f"{name} is no file; expected a picture file")
        if path.stat().st_size == 0:
            raise ImageError(f"{name} is empty; save or download it again")
        return open(path, "rb")
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # a loop of links, a name too long or with a NUL byte
        raise ImageError(f"{name} cannot be opened: {_reason(error)}") from error


def _told(start: bytes) -> str:
    """What a file is that nothing reads, from its first bytes."""
    for at, mark, what in _UNREAD:
        if start[at : at + len(mark)] == mark:
            return f"{what}, which is not read here; save it as PNG, JPEG, WebP or TIFF"
    return "not a picture this program can read; use PNG, JPEG, WebP or TIFF"


def _formats() -> list[str]:
    Image.init()
    return [f for f in _FORMATS if f in Image.OPEN]


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} = {width * height:,} pixels, the limit is "
            f"{MAX_PIXELS:,}; shrink it first"
        )


def _upright(image: Image.Image, name: str) -> Image.Image:
    # Pillow's exif_transpose would also write the EXIF data anew, and fails on many odd tags.
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception as error:
        # damaged EXIF data raises anything; the picture itself is fine
        logger.warning("%s: unreadable EXIF data, rotation ignored (%s)", name, error)
        turn = None
    return image if turn is None else image.transpose(turn)


def _channels(image: Image.Image | np.ndarray, name: str) -> tuple[Tensor, Tensor | None]:
    """(3, H, W) colour and (1, H, W) opacity or None, float32 in [0, 1]."""
    if isinstance(image, np.ndarray):
        planes = torch.from_numpy(_in_range(image, "values", name)).permute(2, 0, 1).contiguous()
        color = planes[:3] if len(planes) > 2 else planes[:1].expand(3, -1, -1)
        return color.contiguous(), planes[-1:].contiguous() if len(planes) in (2, 4) else None
    if image.mode == "F" or image.mode.startswith("I"):
        plane = np.asarray(image).astype(np.float32)
        if image.mode != "F":
            plane /= 65535
        _in_range(plane, "values" if image.mode == "F" else "values/65535", name)
        return torch.from_numpy(plane).expand(3, -1, -1).contiguous(), None
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    image = image.convert("RGBA" if clear else "RGB")
    # reordered as bytes: as floats both orders would take four times as much
    planes = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    del image
    planes = planes.to(torch.float32).div_(255)
    return (planes[:3], planes[3:]) if clear else (planes, None)


def _in_range(values: np.ndarray, what: str, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ImageError(
            f"{name} has pixels without a value (NaN or infinity), which a picture cannot show; "
            "fill them first (only depth maps may have them)"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(
            f"{name} has {what} from {low:.4g} to {high:.4g}, expected 0..1; scale it first (as a "
            "depth map it may have any, when it is said what they are)"
        )
    return values


def _array(picture: Tensor, bits: int) -> np.ndarray:
    """(H, W) or (H, W, 3) of uint8 or uint16."""
    if bits not in (8, 16):
        raise ImageError(f"a PNG channel has 8 or 16 bits here, got {bits}")
    if picture.ndim == 3 and picture.shape[0] == 1:
        picture = picture[0]
    if picture.numel() == 0 or not (
        picture.ndim == 2 or (picture.ndim == 3 and picture.shape[0] == 3)
    ):
        raise ImageError(
            f"expected a picture of shape (3, height, width) or (height, width), got "
            f"{tuple(picture.shape)}"
        )
    picture = picture if picture.ndim == 2 else picture.permute(1, 2, 0)
    if picture.dtype == torch.uint8 and bits == 8:
        return picture.cpu().contiguous().numpy()
    values = _quantize(picture, 2**bits - 1).cpu().contiguous().numpy()
    return values.astype(np.uint8 if bits == 8 else np.uint16)
