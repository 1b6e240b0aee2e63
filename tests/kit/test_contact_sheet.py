"""Contact sheets: every picture is on the sheet as it is, titles never cover or widen it."""

import pytest
import torch
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures import contact_sheet as sheets
from jodi_pack.kit.pictures.contact_sheet import BACKGROUND, draw_contact_sheet, draw_thumbnail


def noise(height, width, channels=3, seed=0):
    """Values that are exact in eight bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), generator=generator) / 255


def places(sheet, picture):
    """Upper left corners at which `picture` lies on the sheet, pixel for pixel."""
    height, width = picture.shape[1:]
    windows = sheet.unfold(1, height, 1).unfold(2, width, 1)  # (3, y, x, h, w)
    same = (windows - picture[:, None, None]).abs().amax((0, 3, 4)) < 1e-6
    return [tuple(at) for at in same.nonzero().tolist()]


def test_every_picture_is_there_once_and_in_order():
    pictures = [noise(9, 12, seed=i) for i in range(5)]
    rows = [[("a", pictures[0]), ("b", pictures[1]), ("c", pictures[2])],
            [("d", pictures[3]), ("e", pictures[4])]]  # fmt: skip
    sheet = draw_contact_sheet(rows, headings=["first row", ""], side=12)
    found = [places(sheet, picture) for picture in pictures]
    assert [len(f) for f in found] == [1] * 5
    (a, b, c), (d, e) = [f[0] for f in found[:3]], [f[0] for f in found[3:]]
    assert a[0] == b[0] == c[0] < d[0] == e[0], "rows lie below each other"
    assert a[1] == d[1] < b[1] == e[1] < c[1], "columns line up"
    assert a[1] + 12 <= b[1] and a[0] + 9 <= d[0], "nothing overlaps"
    assert sheet.dtype == torch.float32 and sheet.min() >= 0 and sheet.max() <= 1


@pytest.mark.parametrize(
    ("count", "lines"), [(8, [4, 4]), (7, [4, 3]), (5, [3, 2]), (4, [4]), (9, [3, 3, 3]), (1, [1])]
)
def test_long_rows_are_broken_into_even_lines(count, lines):
    pictures = [noise(6, 6, seed=i) for i in range(count)]
    sheet = draw_contact_sheet([[("t", p) for p in pictures]], headings=["all"], side=6)
    found = [places(sheet, picture)[0] for picture in pictures]
    tops = sorted({top for top, _ in found})
    assert [sum(at[0] == top for at in found) for top in tops] == lines
    assert found == sorted(found), "they read from left to right, line by line"


def test_titles_are_drawn_and_cut_to_their_column():
    picture = noise(40, 40)
    bare = draw_contact_sheet([[("", picture)]], side=40)
    short = draw_contact_sheet([[("depth", picture)]], side=40)
    long = draw_contact_sheet([[("a title that is much too long for it", picture)]], side=40)
    assert bare.shape == short.shape == long.shape, "a title never makes the sheet larger"
    assert not torch.equal(bare, short)
    (top, left) = places(long, picture)[0]
    strip = long[:, :top, left + 40 :]
    color = torch.tensor(BACKGROUND)[:, None, None] / 255
    assert torch.allclose(strip, color.expand_as(strip)), "the title leaves its column"


def test_headings_make_room_for_themselves():
    picture = noise(20, 20)
    plain = draw_contact_sheet([[("x", picture)]], side=20)
    headed = draw_contact_sheet([[("x", picture)]], headings=["a heading wider than that"], side=20)
    assert headed.shape[1] > plain.shape[1] and headed.shape[2] <= 8 + 3 * 20
    assert len(places(headed, picture)) == 1


def test_text_of_any_script_and_lines_is_accepted():
    draw_contact_sheet(
        [[("\u6df1\u5ea6\nline \x07", noise(8, 8))]], headings=["\U0001f3a8 caf\u00e9"]
    )


def test_the_bitmap_font_of_an_old_pillow_does(monkeypatch):
    def old(size=None):
        if size is not None:
            raise TypeError("load_default() takes 0 positional arguments but 1 was given")
        return sheets.ImageFont.load_default_imagefont()

    monkeypatch.setattr(sheets.ImageFont, "load_default", old)
    picture = noise(30, 30)
    sheet = draw_contact_sheet([[("\u6df1 depth", picture)]], headings=["\u6df1"], side=30)
    assert len(places(sheet, picture)) == 1


def test_small_pictures_grow_by_whole_factors():
    picture = noise(10, 7)
    shown = draw_thumbnail(picture, 30)
    assert shown.shape == (3, 30, 21)
    assert torch.equal(shown[:, 1::3, 1::3], picture)
    assert torch.equal(shown[:, ::3, ::3], shown[:, 2::3, 2::3])
    assert draw_thumbnail(picture, 31).shape == (3, 40, 28), "at least the side that was asked for"
    assert draw_thumbnail(noise(64, 64)).shape == (3, 192, 192)


def test_large_pictures_shrink_smoothly_in_their_proportions():
    picture = torch.linspace(0, 1, 300).view(1, 1, 300).expand(3, 90, 300)
    shown = draw_thumbnail(picture, 100)
    assert shown.shape == (3, 30, 100)
    expected = picture[:, ::3, 1::3]
    assert torch.allclose(shown[..., 2:-2], expected[..., 2:-2], atol=2e-3)
    assert draw_thumbnail(torch.rand(3, 2, 900), 100).shape == (3, 1, 100)


def test_grey_pictures_and_ragged_rows():
    flat = noise(6, 6, channels=1)
    sheet = draw_contact_sheet(
        [[("plane", flat[0])], [("one", flat), ("three", noise(6, 6))]], side=6
    )
    assert len(places(sheet, flat.expand(3, -1, -1))) == 2


def test_cells_without_a_picture_are_left_out():
    first, last = noise(6, 6, seed=1), noise(6, 6, seed=2)
    with_gap = draw_contact_sheet([[("a", first), ("ignored", None), ("b", last)]], side=6)
    assert torch.equal(with_gap, draw_contact_sheet([[("a", first), ("b", last)]], side=6))


@pytest.mark.parametrize("text", ["word " * 40_000, "x" * 200_000, "猫" * 100_000])
def test_very_long_texts_are_cut(text):
    picture = noise(6, 6)
    sheet = draw_contact_sheet([[(text, picture)]], headings=[text], side=64)
    assert sheet.shape[2] < 400
    short = draw_contact_sheet([[(text[:3000], picture)]], headings=[text[:3000]], side=64)
    assert torch.equal(sheet, short)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[("ignored", None)]], {}, "at least one"),
        ([], {}, "at least one"),
        ([[], []], {}, "at least one"),
        ([[("x", torch.rand(2, 4, 4))]], {}, r"\(2, 4, 4\)"),
        ([[("x", torch.rand(3, 0, 4))]], {}, r"\(3, 0, 4\)"),
        ([[("x", torch.zeros(3, 4, 4, dtype=torch.uint8))]], {}, "255"),
        ([[("x", torch.full((3, 4, 4), torch.nan))]], {}, "NaN"),
        ([[("x", torch.rand(3, 4, 4))]], {"headings": ["a", "b"]}, "2 headings for 1 rows"),
        ([[("x", torch.rand(1, 4, 4))] * 4] * 5, {"side": 16000}, "too large"),
    ],
)
def test_refused(rows, options, message):
    with pytest.raises(ImageError, match=message):
        draw_contact_sheet(rows, **options)
