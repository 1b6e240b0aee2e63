"""Many small pictures with titles on one large one, to look at side by side.

Drawn with Pillow and its built-in font, so that no font file is needed. H W pixels.
"""

import bisect
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import ImageError
from .files import MAX_PIXELS, to_uint8

Cell = tuple[str, Tensor]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

SIDE = 192
"""Pixels of the longer side of a picture on a sheet: smaller ones are enlarged to at least that."""

COLUMNS = 4
"""Pictures side by side; longer rows are broken into lines of about equal length."""

BACKGROUND, TITLE, HEADING = (26, 27, 30), (168, 171, 178), (236, 237, 240)
TITLE_SIZE, HEADING_SIZE, GAP = 15, 18, 8
LONGEST_TEXT = 2000  # characters that are looked at: a prompt may have a hundred thousand


def draw_contact_sheet(
    rows: Sequence[Sequence[Cell | tuple[str, None]]],
    *,
    headings: Sequence[str] | None = None,
    side: int = SIDE,
    columns: int = COLUMNS,
) -> Tensor:
    """Rows of titled pictures as one picture (3, H, W) float32 in [0, 1].

    rows: of (title, picture), picture (3, h, w), (1, h, w) or (h, w) floating in [0, 1]; sizes may
    differ and rows may be of different length. A cell without a picture (None) is left out: its
    domain was ignored. headings: a line of text above each row, "" for none. side: see
    `draw_thumbnail`. columns: a longer row is broken into lines of about equal length. Text that
    does not fit is cut with an ellipsis.
    Raises: ImageError for no pictures, shapes that are no picture, NaN, a wrong number of headings,
    or a sheet larger than any picture that may be opened.
    """
    shown = [[(t, p) for t, p in row if p is not None] for row in rows]
    if not any(shown):
        raise ImageError("a contact sheet needs at least one picture, got none")
    headings = [""] * len(rows) if headings is None else list(headings)
    if len(headings) != len(shown):
        raise ImageError(f"{len(headings)} headings for {len(shown)} rows; give one for each")
    lines, headings = _broken_rows(shown, headings, columns)
    widths, heights = _columns_and_rows(
        [[measure_thumbnail(p, side) for _, p in line] for line in lines]
    )
    title_height, heading_height = TITLE_SIZE + 6, HEADING_SIZE + 9
    longest = max(font(HEADING_SIZE).getlength(_plain(h, HEADING_SIZE)) for h in headings)
    width = GAP + max(sum(w + GAP for w in widths), min(int(longest) + GAP, 3 * side))
    height = GAP + sum(
        h + title_height + GAP + (heading_height if heading else 0)
        for h, heading in zip(heights, headings, strict=True)
    )
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"a sheet of {width} x {height} pixels is too large (at most {MAX_PIXELS:,} pixels); "
            "put fewer rows on it or make the pictures smaller"
        )
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw, top = ImageDraw.Draw(sheet), GAP
    for line, line_height, heading in zip(lines, heights, headings, strict=True):
        if heading:
            write(draw, (GAP, top), heading, HEADING_SIZE, HEADING, width - 2 * GAP)
            top += heading_height
        left = GAP
        for (title, picture), column in zip(line, widths, strict=False):
            write(draw, (left, top), title, TITLE_SIZE, TITLE, column)
            sheet.paste(_image(picture, side), (left, top + title_height))
            left += column + GAP
        top += line_height + title_height + GAP
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).to(torch.float32).div_(255)


def draw_thumbnail(picture: Tensor, side: int = SIDE) -> Tensor:
    """The picture at about `side` pixels: (3, h, w) or (h, w) -> (3, H, W).

    Larger ones are shrunk smoothly to a longer side of `side`; smaller ones are enlarged by the
    smallest whole factor that reaches it, pixel by pixel, so that every original pixel is visible.
    Raises: ImageError for a shape that is no picture.
    """
    height, width = measure_thumbnail(picture, side)
    picture = picture.detach().to("cpu", torch.float32)
    picture = picture.expand(3, *picture.shape[-2:])
    if max(picture.shape[1:]) > side:
        size = (height, width)
        return F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
    factor = height // picture.shape[1]
    return picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def measure_thumbnail(picture: Tensor, side: int = SIDE) -> tuple[int, int]:
    """Height and width of the picture's thumbnail. Raises: ImageError as `draw_thumbnail`."""
    plane = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[0] in (1, 3))
    if not plane or picture.numel() == 0:
        raise ImageError(
            "expected a picture of shape (3, height, width) or (height, width), got "
            f"{tuple(picture.shape)}"
        )
    if not picture.is_floating_point():
        raise ImageError(f"expected a picture in 0..1, got {picture.dtype}; divide by 255")
    height, width = picture.shape[-2:]
    longest = max(height, width)
    if longest > side:
        return max(1, round(height * side / longest)), max(1, round(width * side / longest))
    factor = -(-side // longest)
    return height * factor, width * factor


def font(size: int) -> Font:
    """Pillow's own font, at `size` pixels where this Pillow can scale it."""
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow 10.0, or one without FreeType
        return ImageFont.load_default()


def write(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    color: tuple[int, int, int],
    width: float | None = None,
) -> None:
    """One line of text with its upper left corner at (x, y), cut to `width` pixels."""
    face, text = font(size), _plain(text, size)
    if width is not None and face.getlength(text) > width:
        lengths = range(len(text) + 1)
        fits = bisect.bisect_left(
            lengths, True, key=lambda n: face.getlength(f"{text[:n]}...") > width
        )
        text = text[: max(0, fits - 1)].rstrip() + "..."
    draw.text(at, text, font=face, fill=color)


def _plain(text: str, size: int) -> str:
    text = " ".join(text[:LONGEST_TEXT].split())
    if isinstance(font(size), ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")  # all that the bitmap font has


def _image(picture: Tensor, side: int) -> Image.Image:
    pixels = to_uint8(draw_thumbnail(picture, side)).permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy())


def _broken_rows(rows, headings, columns: int) -> tuple[list[list[Cell]], list[str]]:
    """Rows of at most `columns` cells; only the first line of a broken row has its heading."""
    lines, above = [], []
    for row, heading in zip(rows, headings, strict=True):
        parts = -(-len(row) // columns) or 1
        length = -(-len(row) // parts) or 1
        for start in range(0, max(1, len(row)), length):
            lines.append(list(row[start : start + length]))
            above.append("" if start else heading)
    return lines, above


def _columns_and_rows(sizes: list[list[tuple[int, int]]]) -> tuple[list[int], list[int]]:
    """Width of each column and height of each row of pictures (height, width)."""
    columns = max(len(row) for row in sizes)
    widths = [max(row[i][1] for row in sizes if i < len(row)) for i in range(columns)]
    return widths, [max((height for height, _ in row), default=0) for row in sizes]
