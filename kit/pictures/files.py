"""Picture files in and out: whatever people have on disk in, whole PNGs out."""

import contextlib
import io
import logging
import os
import secrets
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..errors import ImageError

MAX_PIXELS = 1 << 27
"""Largest picture that is opened: 134 megapixels, 1.6 GB as float32 RGB."""

WHITE = (1.0, 1.0, 1.0)

# Formats that hold pictures and need no other program (EPS would start Ghostscript).
_FORMATS = (
    *("PNG", "JPEG", "MPO", "WEBP", "AVIF", "TIFF", "BMP", "GIF"),
    *("PPM", "TGA", "JPEG2000", "ICO", "PSD", "DDS"),
)

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
    """A picture file as RGB, upright, and its opacity.

    Returns: (1, 3, H, W) float32 in [0, 1], and (1, 1, H, W) float32 opacity in [0, 1] or None
    where the file has none. Grey is repeated, 16-bit grey keeps its depth, CMYK and palettes are
    converted, EXIF rotation is applied, of an animation the first frame is taken. Transparent
    pixels show `background`; None keeps the colours stored under them.
    Raises: ImageError, naming the file, for what is missing, unreadable, truncated, larger than
    MAX_PIXELS, or holds floats outside 0..1.
    """
    name = "the given bytes" if isinstance(source, bytes) else str(source)
    try:
        with _stream(source, name) as file, Image.open(file, formats=_formats()) as image:
            _check_size(image.size, name)
            image.load()
            color, opacity = _channels(_upright(image, name), name)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(
            f"{name} is not a picture this program can read; use PNG, JPEG, WebP or TIFF"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is refused: {error}; shrink the picture first") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; shrink it first") from None
    except Exception as error:
        # decoders raise anything from OSError to struct.error on damaged data
        raise ImageError(
            f"{name} is damaged or incomplete ({error}); save or download it again"
        ) from error
    if opacity is not None and background is not None:
        shade = torch.tensor(background, dtype=torch.float32)[:, None, None]
        color = color * opacity + shade * (1 - opacity)
    return color[None], None if opacity is None else opacity[None]


def save_png(
    path: str | os.PathLike, picture: Tensor, bits: int = 8, text: dict[str, str] | None = None
) -> None:
    """Write a PNG, whole or not at all: a reader never sees half a file.

    Shapes: picture (3, H, W), (1, H, W) or (H, W), floating in [0, 1] (rounded, never cut down)
    or uint8 (kept as it is, for class numbers). bits: 8 or 16 per channel.
    text: entries for the file's text chunks. An existing file is replaced, folders are made.
    Raises: ImageError for a wrong shape, dtype or values, or when writing fails.
    """
    data = _encode_png(_array(picture, bits), text or {})
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ImageError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        # also after Ctrl-C; once renamed there is nothing left to remove
        with contextlib.suppress(OSError):
            partial.unlink()


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


def _stream(source, name: str):
    if isinstance(source, bytes):
        if not source:
            raise ImageError("no bytes were given; expected a picture file")
        return io.BytesIO(source)
    path = Path(source)
    if path.is_dir():
        raise ImageError(f"{name} is a folder; expected a picture file")
    if not path.exists():
        raise ImageError(f"{name} does not exist; check the path")
    if path.stat().st_size == 0:
        raise ImageError(f"{name} is empty; save or download it again")
    try:
        return open(path, "rb")
    except OSError as error:
        raise ImageError(f"{name} cannot be opened: {error.strerror or error}") from error


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


def _channels(image: Image.Image, name: str) -> tuple[Tensor, Tensor | None]:
    """(3, H, W) colour and (1, H, W) opacity or None, float32 in [0, 1]."""
    if image.mode == "F" or image.mode.startswith("I"):
        plane = np.asarray(image).astype(np.float32)
        if image.mode != "F":
            plane /= 65535
        low, high = float(plane.min()), float(plane.max())
        if not (low >= 0 and high <= 1):
            what = "values" if image.mode == "F" else "values/65535"
            raise ImageError(
                f"{name} has {what} from {low:.4g} to {high:.4g}, expected 0..1; scale it first"
            )
        return torch.from_numpy(plane).expand(3, -1, -1).contiguous(), None
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if clear else "RGB"))
    planes = torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(torch.float32).div_(255)
    return planes[:3].contiguous(), planes[3:].contiguous() if clear else None


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


def _encode_png(array: np.ndarray, text: dict[str, str]) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, str(value))
    out = io.BytesIO()
    if array.dtype == np.uint8:
        Image.fromarray(array).save(out, "PNG", pnginfo=info)
    else:
        _write_png16(out, array, info)
    return out.getvalue()


def _write_png16(out: io.BytesIO, array: np.ndarray, info: PngImagePlugin.PngInfo) -> None:
    """16 bits per channel, which Pillow cannot write for colour. Source: the PNG standard."""

    def chunk(kind: bytes, data: bytes) -> None:
        out.write(struct.pack(">I", len(data)) + kind + data)
        out.write(struct.pack(">I", zlib.crc32(kind + data)))

    height, width = array.shape[:2]
    channels = 1 if array.ndim == 2 else 3
    out.write(b"\x89PNG\r\n\x1a\n")
    color_type = 0 if channels == 1 else 2
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
    for kind, data, *_ in info.chunks:
        chunk(kind, data)
    rows = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(height, -1)
    # filter 1: each byte less the one a pixel before it, which deflates far better
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1
    filtered[:, 1:] = rows
    filtered[:, 1 + 2 * channels :] -= rows[:, : -2 * channels]
    chunk(b"IDAT", zlib.compress(filtered.tobytes(), 6))
    chunk(b"IEND", b"")
