"""Picture files of every kind people have; damaged and dangerous ones refused by name."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures import files as picture_files
from jodi_pack.kit.pictures.files import load_image, save_png, to_uint8
from PIL import Image

H, W = 6, 9


def rgb(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)


def tensor(array):
    """(H, W, 3) or (H, W) of uint8 -> (1, 3, H, W) float32."""
    array = array if array.ndim == 3 else array[..., None].repeat(3, axis=2)
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


def as_bytes(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


class TestLoad:
    def test_path_and_bytes(self, tmp_path):
        path = tmp_path / "Ünïcode name.png"
        Image.fromarray(rgb()).save(path)
        for source in (path, str(path), path.read_bytes()):
            picture, alpha = load_image(source)
            assert torch.equal(picture, tensor(rgb()))
            assert picture.dtype == torch.float32
            assert alpha is None
        os.remove(path)  # nothing holds it open

    def test_gray_and_bitmap(self):
        gray = rgb()[..., 0]
        assert torch.equal(load_image(as_bytes(Image.fromarray(gray)))[0], tensor(gray))
        bits = (gray > 127).astype(np.uint8) * 255
        assert torch.equal(
            load_image(as_bytes(Image.fromarray(bits).convert("1")))[0], tensor(bits)
        )

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
    def test_16_bit_gray_keeps_its_depth(self, format):
        values = np.random.default_rng(1).integers(0, 65536, (H, W), dtype=np.uint16)
        picture, alpha = load_image(as_bytes(Image.fromarray(values), format))
        expected = torch.from_numpy(values.astype(np.float32) / 65535)
        assert alpha is None
        for c in range(3):
            assert torch.equal(picture[0, c], expected)

    def test_transparency(self):
        pixels = np.dstack([rgb(), rgb(1)[..., 0]])
        data = as_bytes(Image.fromarray(pixels))
        opacity = tensor(pixels[..., 3])[:, :1]
        hidden, alpha = load_image(data, background=None)
        assert torch.equal(alpha, opacity)
        assert torch.equal(hidden, tensor(pixels[..., :3]))
        over_white, _ = load_image(data)
        assert torch.allclose(over_white, hidden * opacity + 1 - opacity)
        over_red, _ = load_image(data, background=(1.0, 0.0, 0.0))
        assert torch.allclose(over_red[:, 0], over_white[:, 0])
        assert torch.allclose(over_red[:, 1], (hidden * opacity)[:, 1])

    def test_gray_with_transparency(self):
        pixels = rgb()[..., :2]
        picture, alpha = load_image(as_bytes(Image.fromarray(pixels, "LA")), background=None)
        assert torch.equal(picture, tensor(pixels[..., 0]))
        assert torch.equal(alpha, tensor(pixels[..., 1])[:, :1])

    def test_palette_with_a_transparent_entry(self):
        image = Image.fromarray((np.arange(H * W) % 3).reshape(H, W).astype(np.uint8), "P")
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        plain, alpha = load_image(as_bytes(image))
        assert alpha is None
        assert plain[0, :, 0, :3].T.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        clear, alpha = load_image(as_bytes(image, transparency=1))
        assert alpha[0, 0, 0, :3].tolist() == [1, 0, 1]
        assert clear[0, :, 0, 1].tolist() == [1, 1, 1]  # white shows through

    def test_rgb_with_a_transparent_colour(self):
        pixels = np.zeros((H, W, 3), np.uint8)
        pixels[0, 0] = (10, 20, 30)
        picture, alpha = load_image(as_bytes(Image.fromarray(pixels), transparency=(10, 20, 30)))
        assert alpha[0, 0, 0, :2].tolist() == [0, 1]
        assert picture[0, :, 0, 0].tolist() == [1, 1, 1]

    def test_cmyk(self):
        ink = Image.new("CMYK", (W, H), (0, 255, 255, 0))  # magenta and yellow make red
        for data in (as_bytes(ink, "TIFF"), as_bytes(ink, "JPEG", quality=100)):
            picture, _ = load_image(data)
            assert picture.shape == (1, 3, H, W)
            assert (picture[0, :, 2, 2] - torch.tensor([1.0, 0, 0])).abs().max() < 0.03

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation(self, orientation):
        """The stored picture is the upright one put through the inverse of its orientation."""
        upright = rgb()
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),  # shown after a quarter turn clockwise
            7: np.rot90(upright.transpose(1, 0, 2), 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = as_bytes(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
        assert torch.equal(load_image(data)[0], tensor(upright))

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
    @pytest.mark.parametrize("orientation", [3, 5, 6, 8])
    def test_every_format_is_turned_upright_once(self, format, orientation):
        Image.init()
        if format not in Image.SAVE:
            pytest.skip(f"this Pillow writes no {format}")
        # what the four turns differ in: each corner has a colour of its own, in large areas
        corners = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 250]]], np.uint8)
        upright = corners.repeat(32, 0).repeat(48, 1)
        stored = {
            3: upright[::-1, ::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = as_bytes(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif.tobytes())
        picture = load_image(data)[0]
        assert picture.shape == (1, 3, 64, 96)
        found, wanted = (x[..., 16::32, 24::48] for x in (picture, tensor(upright)))
        assert (found - wanted).abs().max() < 0.05

    def test_tiff_is_turned_once(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        data = as_bytes(Image.fromarray(np.rot90(rgb()).copy()), "TIFF", exif=exif)
        assert torch.equal(load_image(data)[0], tensor(rgb()))

    @pytest.mark.filterwarnings("ignore")
    def test_odd_exif_does_not_hide_the_picture(self, caplog):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a title", 72.5
        whole = exif.tobytes()
        stored = Image.fromarray(np.rot90(rgb()).copy())
        turned = 0
        for place in range(6, len(whole)):
            for value in (0, 1, 2, 5, 255):
                odd = bytearray(whole)
                odd[place] = value
                picture, _ = load_image(as_bytes(stored, exif=bytes(odd)))
                turned += picture.shape[2:] == (H, W)
        assert "rotation ignored" in caplog.text
        assert turned > 150  # most of the damage lies elsewhere than in the orientation

    def test_16_bit_gray_is_turned_upright_too(self):
        values = np.arange(H * W, dtype=np.uint16).reshape(H, W) * 1000
        exif = Image.Exif()
        exif[0x0112] = 6
        picture, _ = load_image(as_bytes(Image.fromarray(np.rot90(values).copy()), exif=exif))
        assert torch.equal(picture[0, 0], torch.from_numpy(values.astype(np.float32) / 65535))

    def test_float_tiff(self):
        values = np.random.default_rng(2).random((H, W), dtype=np.float32)
        picture, _ = load_image(as_bytes(Image.fromarray(values), "TIFF"))
        assert torch.equal(picture[0, 1], torch.from_numpy(values))
        for bad, words in ((values * 10, "expected 0..1"), (values * np.nan, "NaN")):
            with pytest.raises(ImageError, match=words):
                load_image(as_bytes(Image.fromarray(bad), "TIFF"))

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
    def test_animations_give_their_first_frame(self, format):
        frames = [Image.new("RGB", (W, H), c) for c in ("red", "lime", "blue")]
        options = {"lossless": True} if format == "WEBP" else {}
        data = as_bytes(frames[0], format, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(data)) as check:
            assert check.n_frames == 3
        picture, _ = load_image(data)
        assert picture.shape == (1, 3, H, W)
        assert picture[0, :, 3, 3].tolist() == [1, 0, 0]

    def test_one_pixel(self):
        picture, _ = load_image(as_bytes(Image.new("RGB", (1, 1), (51, 102, 255))))
        assert picture.flatten().tolist() == pytest.approx([0.2, 0.4, 1.0])


class TestRefused:
    def refuse(self, source, *words):
        with pytest.raises(ImageError) as error:
            load_image(source)
        for word in words:
            assert word in str(error.value)

    def test_not_there(self, tmp_path):
        self.refuse(tmp_path / "no.png", "no.png does not exist")
        self.refuse(tmp_path, "is a folder")
        (tmp_path / "empty.png").touch()
        self.refuse(tmp_path / "empty.png", "empty.png is empty")
        self.refuse(b"", "no bytes")

    def test_not_a_picture(self, tmp_path):
        for content in (b"<html>login</html>", b"version https://git-lfs.github.com/spec/v1\n"):
            (tmp_path / "fake.png").write_bytes(content)
            self.refuse(tmp_path / "fake.png", "fake.png is not a picture", "PNG")

    def test_postscript_is_never_run(self):
        self.refuse(as_bytes(Image.new("RGB", (W, H)), "EPS"), "not a picture")

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
    def test_truncated_anywhere(self, tmp_path, format):
        noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = as_bytes(Image.fromarray(noise), format)
        path = tmp_path / "half.bin"
        for share in (0.02, 0.3, 0.6, 0.9):
            path.write_bytes(whole[: int(len(whole) * share)])
            self.refuse(path, "half.bin")

    def test_flipped_bytes_never_crash(self):
        """Damage gives a picture or an ImageError, never another exception."""
        whole = as_bytes(Image.fromarray(rgb()))
        refused = 0
        for place in range(len(whole)):
            broken = bytearray(whole)
            broken[place] ^= 0xFF
            try:
                load_image(bytes(broken))
            except ImageError:
                refused += 1
        assert refused > len(whole) // 2

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("side", [12_000, 40_000])
    def test_bombs(self, tmp_path, side):
        """Refused by what the header says, before anything is unpacked."""

        def chunk(kind, data):
            check = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + check

        chunks = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
        chunks += chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
        path = tmp_path / "bomb.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
        self.refuse(path, "bomb.png", "shrink")

    def test_the_limit_is_a_limit(self, monkeypatch):
        monkeypatch.setattr(picture_files, "MAX_PIXELS", H * W)
        load_image(as_bytes(Image.fromarray(rgb())))
        monkeypatch.setattr(picture_files, "MAX_PIXELS", H * W - 1)
        self.refuse(as_bytes(Image.fromarray(rgb())), "9 x 6 = 54 pixels, the limit is 53")

    @pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs file modes")
    def test_no_permission(self, tmp_path):
        path = tmp_path / "locked.png"
        path.write_bytes(as_bytes(Image.fromarray(rgb())))
        path.chmod(0)
        self.refuse(path, "locked.png cannot be opened")


def unfilter_png16(data, channels):
    """(H, W, channels) uint16 of a PNG whose rows all use filter 1, byte by byte."""
    at, packed = 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind = data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, bits, color, *_ = struct.unpack(">IIBBBBB", body)
            assert (bits, color) == (16, {1: 0, 3: 2}[channels])
        packed += body if kind == b"IDAT" else b""
        at += 12 + length
    raw, step = zlib.decompress(packed), 2 * channels
    out = np.zeros((height, width, channels), np.uint16)
    line = 1 + width * step
    for y in range(height):
        row = bytearray(raw[y * line : (y + 1) * line])
        assert row.pop(0) == 1
        for i in range(step, len(row)):
            row[i] = (row[i] + row[i - step]) % 256
        out[y] = np.frombuffer(bytes(row), ">u2").reshape(width, channels)
    return out


class TestSave:
    def test_8_bit_there_and_back(self, tmp_path):
        for picture in (
            tensor(rgb())[0],
            tensor(rgb()[..., 0])[0, :1],
            tensor(rgb()[..., 0])[0, 0],
        ):
            save_png(tmp_path / "a.png", picture)
            back, alpha = load_image(tmp_path / "a.png")
            assert torch.equal(back[0], picture.expand(3, H, W))
            assert alpha is None

    def test_rounds_to_the_nearest(self):
        values = torch.tensor([0.0, 0.9999, 1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, -3.0, 7.0])
        assert to_uint8(values).tolist() == [0, 255, 255, 0, 1, 255, 0, 255]
        every = torch.arange(256)
        assert torch.equal(to_uint8(every / 255).long(), every)
        half = torch.linspace(0, 1, 999).bfloat16()
        assert torch.equal(to_uint8(half).double(), (half.float() * 255).double().round())

    def test_class_numbers_are_kept(self, tmp_path):
        index = torch.arange(12, dtype=torch.uint8).view(3, 4)
        save_png(tmp_path / "classes.png", index)
        with Image.open(tmp_path / "classes.png") as image:
            assert image.mode == "L"
            assert np.asarray(image).tolist() == index.tolist()

    @pytest.mark.parametrize("shape", [(H, W), (1, H, W)])
    def test_16_bit_gray(self, tmp_path, shape):
        values = torch.rand(shape, generator=torch.Generator().manual_seed(4))
        save_png(tmp_path / "depth.png", values, bits=16, text={"title": "depth"})
        with Image.open(tmp_path / "depth.png") as image:
            assert image.mode == "I;16" and image.text == {"title": "depth"}
        picture, _ = load_image(tmp_path / "depth.png")
        assert (picture[0, 0] - values.reshape(H, W)).abs().max() <= 0.5001 / 65535

    def test_16_bit_colour(self, tmp_path):
        values = torch.rand(3, H, W, generator=torch.Generator().manual_seed(5))
        values[:, 0, 0] = torch.tensor([0.0, 1.0, 0.5])
        save_png(tmp_path / "normal.png", values, bits=16)
        stored = unfilter_png16((tmp_path / "normal.png").read_bytes(), 3)
        expected = (values.double() * 65535).round().permute(1, 2, 0).numpy()
        # a product of float32 may fall to the other side of a half
        assert np.abs(stored - expected).max() <= 1 and (stored != expected).mean() < 0.02
        with Image.open(tmp_path / "normal.png") as image:  # Pillow reads the high bytes
            assert np.array_equal(np.asarray(image), (stored >> 8).astype(np.uint8))

    @pytest.mark.parametrize("bits", [8, 16])
    def test_text(self, tmp_path, bits):
        text = {"jodi": '{"seed": 7}', "prompt": "ein Bär – 熊"}
        save_png(tmp_path / "t.png", torch.rand(3, 4, 4), bits, text)
        with Image.open(tmp_path / "t.png") as image:
            assert image.text == text

    def test_whole_or_not_at_all(self, tmp_path, monkeypatch):
        path = tmp_path / "new" / "a.png"
        save_png(path, torch.zeros(4, 4))
        before = path.read_bytes()

        def fail(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(ImageError, match=r"a\.png: No space left"):
                save_png(path, torch.ones(4, 4))
        assert path.read_bytes() == before
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                save_png(path, torch.ones(4, 4))
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == ["a.png"]
        save_png(path, torch.ones(4, 4))
        assert path.read_bytes() != before

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
    def test_others_may_read_it(self, tmp_path):
        old = os.umask(0o022)
        try:
            save_png(tmp_path / "a.png", torch.zeros(4, 4))
        finally:
            os.umask(old)
        assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize(
        ("picture", "bits", "words"),
        [
            (torch.zeros(4, 4, 3), 8, "(4, 4, 3)"),
            (torch.zeros(1, 3, 4, 4), 8, "(1, 3, 4, 4)"),
            (torch.zeros(3, 0, 4), 8, "(3, 0, 4)"),
            (torch.zeros(4, 4), 12, "8 or 16 bits"),
            (torch.zeros(4, 4).int(), 8, "int32"),
            (torch.zeros(4, 4).byte(), 16, "uint8"),
            (torch.full((4, 4), float("nan")), 16, "NaN"),
        ],
    )
    def test_refusals(self, tmp_path, picture, bits, words):
        with pytest.raises(ImageError) as error:
            save_png(tmp_path / "a.png", picture, bits)
        assert words in str(error.value)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ImageError, match="could not write"):
            save_png(tmp_path / "file" / "a.png", torch.zeros(4, 4))


def test_numbers_with_a_palette_are_numbers_and_colours():
    palette = ((9, 8, 7), (0, 255, 3), (250, 1, 2))
    numbers = torch.tensor([[0, 1, 2], [2, 2, 0]], dtype=torch.uint8)
    with Image.open(io.BytesIO(picture_files.encode_png(numbers, palette=palette))) as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), numbers.numpy())
        assert np.array_equal(np.asarray(image.convert("RGB")), np.array(palette)[numbers.numpy()])
    for wrong in (numbers + 1, numbers.expand(3, 2, 3)):
        with pytest.raises(ImageError, match="palette of 3 colours"):
            picture_files.encode_png(wrong, palette=palette)
