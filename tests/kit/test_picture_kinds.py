"""Picture files of the less usual kinds: large PNG chunks, float TIFFs, colour profiles, numbers.

The files are written here, from the formats' own specifications.
"""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures.files import SUFFIXES, UNREAD_SUFFIXES, load_image
from jodi_pack.kit.pictures.numbers import load_numbers
from jodi_pack.kit.pictures.png import drop_large_chunks
from jodi_pack.tests.conftest import ROOT, shared_dir, skip_or_fail
from PIL import Image, ImageCms, PngImagePlugin

H, W = 20, 34


def rgb(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


def tensor(array):
    return torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)[None]


def as_bytes(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes], end: bool = False) -> bytes:
    """A PNG with further chunks after its header, or before its end."""
    added = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    at = len(png) - 12 if end else 33
    return png[:at] + added + png[at:]


LARGE = b"node " * 500_000
TEXTS = {
    "zTXt": (b"zTXt", b"workflow\0\0" + zlib.compress(LARGE)),
    "iTXt": (b"iTXt", b"workflow\0\1\0en\0\0" + zlib.compress(LARGE)),
    "plain iTXt": (b"iTXt", b"workflow\0\0\0en\0\0" + LARGE),
    "tEXt": (b"tEXt", b"workflow\0" + LARGE),
    "iCCP": (b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
}


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("kind", TEXTS)
def test_large_chunks_do_not_hide_the_picture(kind, end):
    if end and kind == "iCCP":
        pytest.skip("a profile stands before the pixels")
    data = with_chunks(as_bytes(Image.fromarray(rgb())), TEXTS[kind], end=end)
    assert torch.equal(load_image(data)[0], tensor(rgb()))


def test_many_texts_together_do_not_either():
    text = (b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6)))
    data = with_chunks(as_bytes(Image.fromarray(rgb())), *[text] * 80)
    assert torch.equal(load_image(data)[0], tensor(rgb()))


def test_small_texts_and_everything_else_stay():
    info = PngImagePlugin.PngInfo()
    info.add_text("jodi", "kept", zip=True)
    whole = as_bytes(Image.fromarray(rgb()), pnginfo=info)
    file, profile = drop_large_chunks(io.BytesIO(with_chunks(whole, TEXTS["zTXt"])))
    assert file.read() == whole and profile is None
    same = io.BytesIO(whole)
    assert drop_large_chunks(same)[0] is same and same.tell() == 0
    for other in (b"", b"\x89PNG\r\n\x1a\n", whole[:40], as_bytes(Image.fromarray(rgb()), "JPEG")):
        assert drop_large_chunks(io.BytesIO(other))[0].read() == other


@pytest.mark.slow
def test_a_bomb_in_a_text_is_not_unpacked():
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(bytes(3 * 10**8), 9))
    data = with_chunks(as_bytes(Image.fromarray(rgb())), bomb)
    assert torch.equal(load_image(data)[0], tensor(rgb()))


def test_damage_behind_a_large_text_is_still_damage():
    data = with_chunks(as_bytes(Image.fromarray(rgb())), TEXTS["zTXt"])
    with pytest.raises(ImageError, match="damaged"):
        load_image(data[:-400])


def tiff(values: np.ndarray, *, order="<", compression=1, predictor=1, rows=7, tile=None,
         planar=1, large=False, orientation=1, form=None, shown=1) -> bytes:  # fmt: skip
    """A TIFF of values (H, W, C), written from the specification."""
    height, width, channels = values.shape
    values = values.astype(values.dtype.newbyteorder(order))
    size = values.dtype.itemsize
    planes = [values] if planar == 1 else [values[:, :, c : c + 1] for c in range(channels)]
    blocks = []
    for plane in planes:
        if tile is None:
            blocks += [plane[y : y + rows] for y in range(0, height, rows)]
            continue
        edge = ((0, -height % tile), (0, -width % tile), (0, 0))
        plane = np.pad(plane, edge)
        for y in range(0, plane.shape[0], tile):
            blocks += [plane[y : y + tile, x : x + tile] for x in range(0, plane.shape[1], tile)]

    def packed(block: np.ndarray) -> bytes:
        count, depth = block.shape[0], block.shape[2]
        if predictor == 2:
            whole = block.view(f"{order}u{size}").copy()
            whole[:, 1:] -= block.view(f"{order}u{size}")[:, :-1]
            block = whole
        raw = np.ascontiguousarray(block)
        if predictor == 3:
            high_first = raw.astype(raw.dtype.newbyteorder(">")).view(np.uint8)
            lines = high_first.reshape(count, -1, size).swapaxes(1, 2).reshape(count, -1).copy()
            lines[:, depth:] -= lines.copy()[:, :-depth]
            raw = lines
        return zlib.compress(raw.tobytes()) if compression == 8 else raw.tobytes()

    chunks = [packed(block) for block in blocks]
    pointer, head = ("Q", 16) if large else ("I", 8)
    starts = [head + sum(map(len, chunks[:i])) for i in range(len(chunks))]
    tags = {256: [width], 257: [height], 258: [8 * size] * channels,
            259: [compression], 262: [shown],
            274: [orientation], 277: [channels], 284: [planar], 317: [predictor]}  # fmt: skip
    tags[339] = [form or {"f": 3, "i": 2, "u": 1}[values.dtype.kind]] * channels
    lengths = [len(chunk) for chunk in chunks]
    tags |= {278: [rows], 273: starts, 279: lengths} if tile is None else {
        322: [tile], 323: [tile], 324: starts, 325: lengths}  # fmt: skip
    directory = starts[-1] + lengths[-1]
    entry, count = (20, "Q") if large else (12, "H")
    behind = directory + struct.calcsize(count) + entry * len(tags) + struct.calcsize(pointer)
    entries, arrays = b"", b""
    for tag, numbers in sorted(tags.items()):
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        room = struct.calcsize(pointer)
        if len(data) > room:
            arrays, data = arrays + data, struct.pack(order + pointer, behind + len(arrays))
        entries += struct.pack(f"{order}HH{pointer}", tag, 4, len(numbers)) + data.ljust(
            room, b"\0"
        )
    mark = {"<": b"II", ">": b"MM"}[order]
    start = struct.pack(order + "HHH", 43, 8, 0) if large else struct.pack(order + "H", 42)
    start = mark + start + struct.pack(order + pointer, directory)
    tail = (
        struct.pack(order + count, len(tags)) + entries + bytes(struct.calcsize(pointer)) + arrays
    )
    return b"".join([start, *chunks, tail])


def floats(channels: int, dtype: str, seed=1) -> np.ndarray:
    return np.random.default_rng(seed).random((H, W, channels)).astype(dtype)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": ">"},
        {"compression": 8},
        {"compression": 8, "predictor": 3},
        {"compression": 8, "predictor": 3, "order": ">"},
        {"compression": 8, "predictor": 2},
        {"compression": 8, "predictor": 2, "order": ">"},
        {"tile": 16},
        {"tile": 16, "compression": 8, "predictor": 3},
        {"planar": 2},
        {"large": True},
        {"large": True, "order": ">"},
    ],
    ids=str,
)
def test_float_tiffs(dtype, channels, options):
    values = floats(channels, dtype)
    if (dtype, channels) == ("f4", 1) and "predictor" in options:
        pytest.skip("Pillow reads these, or says why not")
    picture, opacity = load_image(tiff(values, **options))
    expected = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]
    assert opacity is None and torch.equal(picture, expected.expand(1, 3, -1, -1))


def test_float_tiffs_are_turned_upright():
    values = floats(3, "f4")
    stored = {
        2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1],
        5: values.transpose(1, 0, 2), 6: np.rot90(values),
        7: np.rot90(values.transpose(1, 0, 2), 2), 8: np.rot90(values, -1),
    }  # fmt: skip
    for orientation, turned in stored.items():
        picture, _ = load_image(tiff(np.ascontiguousarray(turned), orientation=orientation))
        assert torch.equal(picture[0].permute(1, 2, 0), torch.from_numpy(values)), orientation


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_skies_without_a_value_are_numbers_but_no_picture(dtype):
    values = floats(1, dtype) * 8
    values[:5], values[5] = np.nan, np.inf
    data = tiff(values)
    numbers = load_numbers(data)
    assert numbers is not None and numbers.top is None
    expected = torch.from_numpy(values.astype(np.float32))[None, :, :, 0]
    assert torch.equal(numbers.values.nan_to_num(-1, -2, -3), expected.nan_to_num(-1, -2, -3))
    with pytest.raises(ImageError, match="without a value"):
        load_image(data)
    with pytest.raises(ImageError, match=r"from .* to .*, expected 0..1"):
        load_image(tiff(floats(3, dtype) * 8))


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_tiffs_that_are_not_read_say_what_to_save(dtype):
    with pytest.raises(ImageError, match=r"64 bits.*save it as a 32-bit float or 16-bit integer"):
        load_image(tiff((floats(1, "f8") * 100).astype(dtype)))
    with pytest.raises(ImageError, match="complex"):
        load_image(tiff(floats(1, "f8"), form=6))


@pytest.mark.filterwarnings("ignore")
def test_damaged_float_tiffs_are_refused():
    whole = tiff(floats(3, "f2"), compression=8)
    for place in [
        *range(0, 16),
        *range(16, len(whole), 29),
        *range(len(whole) - 250, len(whole), 3),
    ]:
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        for data in (bytes(broken), whole[:place]):
            try:
                load_image(data)
            except ImageError as error:
                assert "save" in str(error) or "given" in str(error) or "shrink" in str(error)


def p3() -> bytes:
    """A matrix profile with the primaries of Display P3 (SMPTE EG 432-1, D65) and gamma 2.2."""
    primaries = np.array([[0.68, 0.265, 0.15], [0.32, 0.69, 0.06], [0.0, 0.045, 0.79]])
    white = np.array([0.3127, 0.329, 0.3583]) / 0.329
    columns = primaries * np.linalg.solve(primaries, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367],
                         [0.0389, -0.0685, 1.0296]])  # fmt: skip
    d50 = np.array([0.96422, 1.0, 0.82521])
    scale = np.diag((bradford @ d50) / (bradford @ white))
    columns = np.linalg.inv(bradford) @ scale @ bradford @ columns

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 3) + b"P3\0" + bytes(79)
    tags = [(b"desc", text), (b"cprt", b"text\0\0\0\0none\0\0\0\0"), (b"wtpt", xyz(d50))]
    tags += [(f"{c}XYZ".encode(), xyz(columns[:, i])) for i, c in enumerate("rgb")]
    tags += [(f"{c}TRC".encode(), curve) for c in "rgb"]
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI", 128 + len(table) + len(body), b"\0\0\0\0", 0x02200000)
    head += b"mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + xyz(d50)[8:] + bytes(48)
    return head.ljust(128, b"\0") + table + body


def srgb_of_p3(pixels: np.ndarray) -> np.ndarray:
    """What P3 colours are in sRGB, from the definitions of both; clipped."""
    to_xyz = {}
    for name, primaries in {
        "p3": [[0.68, 0.265, 0.15], [0.32, 0.69, 0.06], [0.0, 0.045, 0.79]],
        "srgb": [[0.64, 0.30, 0.15], [0.33, 0.60, 0.06], [0.03, 0.10, 0.79]],
    }.items():
        matrix, white = np.array(primaries), np.array([0.3127, 0.329, 0.3583]) / 0.329
        to_xyz[name] = matrix * np.linalg.solve(matrix, white)
    linear = (pixels / 255.0) ** (round(2.2 * 256) / 256)
    linear = linear @ (np.linalg.inv(to_xyz["srgb"]) @ to_xyz["p3"]).T
    linear = linear.clip(0, 1)
    low = 12.92 * linear
    return np.where(linear <= 0.0031308, low, 1.055 * linear ** (1 / 2.4) - 0.055) * 255


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_profile_become_srgb(format, mode):
    if (format, mode) == ("WEBP", "P"):
        pytest.skip("WebP has no palettes")
    pixels = (40 + rgb() // 2).astype(np.uint8)  # within both gamuts, mostly
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.quantize(16)
        pixels = np.asarray(image.convert("RGB"))
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(rgb(1)[..., 0]))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = as_bytes(image, format, icc_profile=p3(), **options)
    picture, opacity = load_image(data, background=None)
    expected = srgb_of_p3(pixels)
    ours = picture[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - expected).max() <= 2  # the transform works in 8 bits
    assert np.abs(ours - pixels).max() > 5
    if mode == "RGBA":
        assert torch.equal(opacity[0, 0], torch.from_numpy(rgb(1)[..., 0] / np.float32(255)))


def test_srgb_and_numbers_are_left_exactly_as_they_are():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = as_bytes(Image.fromarray(rgb()), icc_profile=profile)
    assert torch.equal(load_image(data)[0], tensor(rgb()))
    grey = Image.fromarray(rgb()[..., 0])
    numbers = load_numbers(as_bytes(grey, icc_profile=p3()))
    assert torch.equal(numbers.values[0], torch.from_numpy(rgb()[..., 0].astype(np.int64)))


@pytest.mark.parametrize("profile", [b"no profile", p3()[:200], bytes(500)])
def test_a_profile_that_cannot_be_used_is_said(profile, caplog):
    data = as_bytes(Image.fromarray(rgb()), icc_profile=profile)
    assert torch.equal(load_image(data)[0], tensor(rgb()))
    assert "colour profile cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("array", "top"),
    [
        (np.arange(H * W).reshape(H, W).astype(np.uint8), 255),
        ((np.arange(H * W) * 90).reshape(H, W).astype(np.uint16), 65535),
        ((np.arange(H * W) * 90000).reshape(H, W).astype(np.int32), 2**32 - 1),
        (np.linspace(-3, 900, H * W).reshape(H, W).astype(np.float32), None),
    ],
)
def test_numbers_are_as_they_are_stored(array, top):
    numbers = load_numbers(as_bytes(Image.fromarray(array), "TIFF"))
    assert numbers.top == top and np.array_equal(numbers.values[0].numpy(), array)


def test_pictures_in_colours_are_no_numbers():
    grey = Image.fromarray(rgb()[..., 0])
    for image in (Image.fromarray(rgb()), grey.convert("LA"), grey.convert("RGBA")):
        assert load_numbers(as_bytes(image)) is None
    assert load_numbers(as_bytes(grey, transparency=3)) is None
    indexed = load_numbers(as_bytes(Image.fromarray(rgb()).quantize(9)))
    assert indexed.indexed and int(indexed.values.max()) <= 8


def test_no_raw_warning_for_pictures_that_work(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_image(as_bytes(Image.fromarray(rgb())))[0], tensor(rgb()))


def test_endings_are_those_of_formats_that_are_read():
    known = Image.registered_extensions()
    for suffix in SUFFIXES:
        assert suffix in known or suffix in (".jif",), suffix
    assert not set(SUFFIXES) & set(UNREAD_SUFFIXES)


MEASURE = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location(
    "jodi_pack", sys.argv[1], submodule_search_locations=[sys.argv[1].rpartition("/")[0]])
module = importlib.util.module_from_spec(spec); sys.modules["jodi_pack"] = module
from jodi_pack.kit.pictures.files import load_image
load_image(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_image(sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KB on Linux")
def test_reading_takes_the_memory_that_is_stated(tmp_path):
    """2.6 GB for 2^27 pixels are 19 bytes for each; a few buffers of the decoder come on top."""
    side = 3000
    Image.fromarray(rgb()).save(tmp_path / "small.png")
    Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / "large.png")
    files = [str(ROOT / "__init__.py"), str(tmp_path / "small.png"), str(tmp_path / "large.png")]
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, *files], capture_output=True, text=True, check=True
    )
    per_pixel = int(out.stdout) * 1024 / side**2
    assert per_pixel < 21.5, per_pixel


@pytest.mark.reference
def test_shared_pictures_are_read():
    folder = shared_dir() / "cases" / "pictures"
    if not folder.is_dir():
        skip_or_fail("reference", f"no pictures at {folder}; set JODI_SHARED")
    right, _ = load_image(folder / "photo_rgb_float32.tif")
    text, _ = load_image(folder / "png_with_2MB_compressed_workflow_zTXt.png")
    assert (right - text).abs().max() <= 0.51 / 255
    wide, _ = load_image(folder / "photo_display_p3_profile.png")
    with Image.open(folder / "photo_display_p3_profile.png") as image:
        stored = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    assert (wide[0] - stored).abs().max() > 10 / 255
    assert load_numbers(folder / "depth_float16.tif").top is None
    assert load_numbers(folder / "depth_float32_metres.tif").values.aminmax() == (0.5, 10.0)


def packed_png(values, bits, color=0):
    """A PNG whose rows hold `values` (H, W, channels) of so many bits, written out by hand."""
    height, width = values.shape[:2]
    if bits == 16:
        rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        places = np.unpackbits(values.astype(np.uint8), axis=2)[..., 8 - bits :]
        rows = np.packbits(places.reshape(height, -1), axis=1)
    out = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    out.seek(0, io.SEEK_END)
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    plain = b"".join(b"\0" + row.tobytes() for row in rows)
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(plain)), (b"IEND", b"")):
        out.write(struct.pack(">I", len(data)) + kind + data)
        out.write(struct.pack(">I", zlib.crc32(kind + data)))
    return out.getvalue()


@pytest.mark.parametrize("bits", [2, 4])
def test_numbers_of_few_bits_are_not_stretched(bits):
    values = np.arange(2**bits, dtype=np.uint8).reshape(2, -1, 1)
    numbers = load_numbers(packed_png(values, bits))
    assert numbers.top == 2**bits - 1
    assert numbers.values[0].tolist() == values[..., 0].tolist()


@pytest.mark.parametrize("top", [11, 200, 1023, 4095])
def test_numbers_of_a_stated_range_are_not_stretched(top):
    values = np.linspace(0, top, 12).round().astype(">u2" if top > 255 else np.uint8)
    numbers = load_numbers(b"P5\n4 3\n%d\n" % top + values.tobytes())
    assert numbers.top == top
    assert numbers.values.flatten().tolist() == values.tolist()


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_wide_grey_in_several_channels_keeps_all_bits(color, channels):
    gray = np.random.default_rng(1).integers(0, 1024, (5, 7, 1))
    values = np.repeat(gray, channels, axis=2)
    if channels in (2, 4):
        values[..., -1] = 65535
    numbers = load_numbers(packed_png(values, 16, color))
    assert numbers.top == 65535
    assert numbers.values[0].tolist() == gray[..., 0].tolist()
    if channels in (2, 4):  # with opacity, it is a picture
        values[0, 0, -1] = 65000
        assert load_numbers(packed_png(values, 16, color)) is None
    if channels > 2:  # colours that differ by one of the lower bits
        values[..., -1] = 65535 if channels == 4 else values[..., -1]
        values[2, 3, 1] ^= 1
        assert load_numbers(packed_png(values, 16, color)) is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": 8}, {"tile": 16}])
@pytest.mark.parametrize("channels", [3, 4])
def test_wide_grey_in_a_tiff_of_several_channels_keeps_all_bits(order, options, channels):
    gray = np.random.default_rng(1).integers(0, 5000, (21, 19, 1)).astype(np.uint16)
    values = np.repeat(gray, channels, axis=2)
    if channels == 4:
        values[..., 3] = 65535
    numbers = load_numbers(tiff(values, order=order, shown=2, **options))
    assert numbers is not None and numbers.top == 65535
    assert numbers.values[0].tolist() == gray[..., 0].tolist()
    values[2, 3, 1] ^= 1
    assert load_numbers(tiff(values, order=order, shown=2, **options)) is None


def test_numbers_whose_file_calls_one_transparent_are_numbers_still():
    indexed = Image.fromarray(rgb()).quantize(9)
    numbers = load_numbers(as_bytes(indexed, transparency=3))
    assert numbers.indexed and numbers.values[0].tolist() == np.asarray(indexed).tolist()
    wide = Image.fromarray(np.arange(300, 312, dtype=np.uint16).reshape(3, 4))
    numbers = load_numbers(as_bytes(wide, transparency=305))
    assert numbers.values.flatten().tolist() == list(range(300, 312))


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
        (b"\0\0\0\x18ftypheic", "a HEIC picture"),
        (b"#?RADIANCE\n", "a Radiance HDR picture"),
        (b"\xff\x0a\0", "a JPEG XL picture"),
        (b"\x93NUMPY\x01\0", "an array of numpy"),
    ],
)
def test_kinds_that_are_not_read_are_named(start, what):
    with pytest.raises(ImageError, match=f"is {what}, which is not read here; save it as"):
        load_image(start + bytes(60))
