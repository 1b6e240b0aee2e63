"""`jodi perceive --format exr` and `ply`: the files that other programs read."""

import numpy as np
import pytest
from jodi_pack.kit.pictures.exr import read_exr
from jodi_pack.kit.pictures.files import load_image


@pytest.mark.long
def test_exr_holds_the_picture_and_all_labels(jodi, tiny, picture, tmp_path):
    pytest.importorskip("OpenEXR")
    oiio = pytest.importorskip("OpenImageIO")
    path = picture("view.png", 40, 56)
    options = ("--format", "exr", "--out", "made", "--normals", "opengl", "--steps", 1)
    status, out, err = jodi("perceive", path, *tiny.options, *options)
    assert status == 0, err
    made = tmp_path / "work" / "made"
    assert [line.replace("\\", "/") for line in out] == ["made/view.exr"]
    assert {p.name for p in made.iterdir()} == {"view.exr", "contact_sheet.png"}
    channels, header = read_exr(made / "view.exr")
    assert {"R", "Z", "N.X", "albedo.G", "edge.Y", "lineart.Y", "pose.B", "class.id"} <= set(
        channels
    )
    assert all(plane.shape == (40, 56) for plane in channels.values())
    shown = load_image(path)[0][0, 0].double().numpy()
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    assert np.abs(channels["R"] - linear).max() < 1e-5
    assert channels["Z"].min() == 0 and channels["Z"].max() == 1
    assert header["jodi/N/axes"].startswith("opengl")
    image = oiio.ImageBuf(str(made / "view.exr"))
    pixels = image.get_pixels(oiio.FLOAT)
    for index, name in enumerate(image.spec().channelnames):
        assert np.array_equal(pixels[..., index], channels[name]), name


@pytest.mark.long
def test_ply_has_a_point_for_each_pixel(jodi, tiny, picture, tmp_path):
    path = picture("view.png", 24, 32)
    options = ("--labels", "depth", "--format", "ply", "--distances", 2, 4, "--steps", 1)
    status, _, err = jodi("perceive", path, *tiny.options, *options, "--out", "made")
    assert status == 0, err
    head, body = (tmp_path / "work" / "made" / "view.ply").read_bytes().split(b"end_header\n", 1)
    assert b"element vertex 768" in head
    points = np.frombuffer(body, [("p", "<f4", 3), ("c", "u1", 3)], 768)
    assert -points["p"][:, 2].max() == pytest.approx(2, rel=1e-5)
    assert -points["p"][:, 2].min() == pytest.approx(4, rel=1e-5)
    shown = load_image(path)[0][0].movedim(0, -1).reshape(-1, 3).numpy()
    assert np.array_equal(points["c"], (shown * 255).round())


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "ply", "--labels", "edge"), "needs depth"),
        (("--format", "ply", "--distances", "5", "2"), "0 < near < far"),
        (("--format", "ply", "--fov", "180"), "field of view"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(jodi, tiny, picture, options, message):
    status, out, err = jodi("perceive", picture("view.png"), *tiny.options, *options)
    assert status != 0 and out == [] and message in " ".join(err)
