"""EXR files and Cryptomatte, read back by OpenEXR and by OpenImageIO."""

import json

import numpy as np
import pytest
from jodi_pack.kit.errors import ImageError, JodiError
from jodi_pack.kit.pictures import exr
from jodi_pack.kit.pictures.cryptomatte import hash_murmur3, hash_name, make_mattes, read_matte

ODD = np.array(
    [[0.0, -0.0, 1.0, 1 / 3], [1e-38, 1e-45, 3.4e38, -7.5], [np.inf, -np.inf, 0.1, 65504.0]],
    dtype=np.float32,
)


def test_ids_are_those_of_the_reference():
    """The values that the specification's own tests hold (github Psyop/Cryptomatte)."""
    known = {
        "hello": 6.0705627102400005616e-17,
        "cube": -4.08461912519e15,
        "sphere": 2.79018604383e15,
        "plane": 3.66557617593e-11,
        "равнина": -1.3192631212399999468e-25,
        "mädchen": 6.2361298211599995797e25,
    }
    for name, value in known.items():
        assert hash_name(name) == np.float32(value), name
    assert hash_murmur3(b"") == 0


@pytest.mark.long
def test_no_id_is_a_number_that_programs_flush_or_cannot_compare():
    ids = np.array([hash_name(f"object {n}") for n in range(20_000)])
    assert np.isfinite(ids).all() and (np.abs(ids) >= np.finfo(np.float32).tiny).all()


def test_every_bit_of_float32_comes_back(tmp_path):
    pytest.importorskip("OpenEXR")
    path = tmp_path / "folder" / "a.exr"
    channels = {"R": ODD, "albedo.R": ODD[::-1], "Z": ODD.T.copy().reshape(3, 4)}
    exr.write_exr(path, channels, {"jodi/about": "a text", "jodi/near": 1.5})
    back, header = exr.read_exr(path)
    assert set(back) == set(channels)
    for name, plane in channels.items():
        assert back[name].dtype == np.float32
        assert np.array_equal(back[name].view(np.uint32), np.ascontiguousarray(plane).view("u4"))
    assert header["jodi/about"] == "a text" and header["jodi/near"] == 1.5
    assert [p.name for p in path.parent.iterdir()] == ["a.exr"]


def test_openimageio_reads_the_same(tmp_path):
    pytest.importorskip("OpenEXR")
    oiio = pytest.importorskip("OpenImageIO")
    path = tmp_path / "a.exr"
    channels = {"B": ODD, "G": ODD + 1, "R": ODD + 2, "N.X": ODD[::-1].copy()}
    exr.write_exr(path, channels, {"cryptomatte/1234567/name": "classes"})
    image = oiio.ImageBuf(str(path))
    names = image.spec().channelnames
    pixels = image.get_pixels(oiio.FLOAT)
    assert set(names) == set(channels)
    for name, plane in channels.items():
        assert np.array_equal(pixels[..., names.index(name)], plane, equal_nan=True), name
    assert image.spec().getattribute("cryptomatte/1234567/name") == "classes"


def test_mattes_are_those_of_the_index():
    names = ("unlabeled", "person", "sky")
    index = np.arange(12).reshape(3, 4) % 3
    channels, header = make_mattes("classes", index, names)
    assert set(channels) == {f"classes00.{c}" for c in "RGBA"}
    (manifest,) = (json.loads(v) for k, v in header.items() if k.endswith("/manifest"))
    for number, name in enumerate(names):
        # by the formula: the pixels whose float has the bits that the manifest gives
        bits = channels["classes00.R"].view(np.uint32) == int(manifest[name], 16)
        assert np.array_equal(bits, index == number)
        assert np.array_equal(read_matte(channels, header, name), (index == number).astype("f4"))
    keys = {key.rsplit("/", 1)[0] for key in header}
    assert keys == {f"cryptomatte/{hash_murmur3(b'classes'):08x}"[:19]}
    with pytest.raises(ImageError, match="no Cryptomatte with the name 'horse'"):
        read_matte(channels, header, "horse")


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    with pytest.raises(JodiError, match="pip install OpenEXR"):
        exr.write_exr(tmp_path / "a.exr", {"Z": ODD})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({}, "at least one channel"),
        ({"Z": ODD, "R": ODD[:2]}, "one size"),
        ({"Z": ODD.astype(np.float64)}, "float32"),
        ({"Z": ODD[0]}, "one size"),
    ],
)
def test_wrong_channels_are_refused(channels, message, tmp_path):
    pytest.importorskip("OpenEXR")
    with pytest.raises(ImageError, match=message):
        exr.write_exr(tmp_path / "a.exr", channels)
