"""The rules of a labelled data set: its files, its lines, its batches, its fingerprint."""

import io
import json

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAINS, find_domain
from jodi_pack.jodi_core.labelling import layout
from jodi_pack.jodi_core.labelling.batch import derive_seed
from jodi_pack.jodi_core.labelling.fingerprint import CODE, digest, digest_code
from jodi_pack.jodi_core.labelling.plan import (
    Plan,
    Source,
    extend_plan,
    look,
    name_part,
    read_plan,
    require_same,
    write_plan,
)
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from PIL import Image

LABELS = ["depth"]


def stored(image: Image.Image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(mode="RGB", size=(7, 5)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def test_keys_are_the_published_ones(reference_dir):
    folder = reference_dir.parent / "data" / "joint_example"
    published = {p.name for p in folder.glob("annotation_*")}
    assert {layout.name_key(d.name) for d in DOMAINS[1:]} == published


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_files_are_kept_as_they_are(kind, mode):
    data = stored(picture(mode), kind)
    kept, ending = layout.encode_image(data, load_image(data)[0][0])
    assert kept == data and ending == {"PNG": ".png", "JPEG": ".jpg"}[kind]


def test_what_others_would_see_otherwise_is_drawn_anew():
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.arange(0, 35000, 1000, dtype=np.uint16).reshape(5, 7))
    files = {
        "turned": stored(picture(), "JPEG", exif=turned),
        "clear": stored(picture("RGBA")),
        "palette": stored(picture("P")),
        "16 bits": stored(deep),
        "webp": stored(picture(), "WEBP", lossless=True),
    }
    for name, data in files.items():
        seen = load_image(data)[0][0]
        drawn, ending = layout.encode_image(data, seen)
        assert ending == ".png" and drawn != data, name
        with Image.open(io.BytesIO(drawn)) as image:
            assert image.mode == "RGB" and image.size == (seen.shape[2], seen.shape[1]), name
            shown = np.asarray(image).transpose(2, 0, 1)
        assert np.array_equal(shown, np.rint(seen.double().numpy() * 255)), name


def test_maps_are_what_their_kind_says():
    raw = torch.rand(1, 3, 6, 9, generator=torch.Generator().manual_seed(1)) * 2 - 1
    modes = {}
    for of in DOMAINS[1:]:
        with Image.open(io.BytesIO(layout.encode_map(of, raw))) as image:
            modes[of.name] = image.mode
            assert image.size == (9, 6)
    assert modes.pop("depth").startswith("I;16")
    expected = {"lineart": "L", "edge": "L", "normal": "RGB", "albedo": "RGB", "openpose": "RGB"}
    assert modes == {**expected, "segmentation": "P"}
    with Image.open(io.BytesIO(layout.encode_map(find_domain("segmentation"), raw))) as image:
        numbers, colors = np.asarray(image), np.asarray(image.convert("RGB"))
    palette = np.asarray(SEGMENTATION_PALETTE, dtype=np.float64)
    pixels = (raw[0].double().numpy().transpose(1, 2, 0) + 1) / 2 * 255
    nearest = ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    assert np.array_equal(numbers, nearest)
    assert np.array_equal(colors, palette[nearest])


def test_a_seed_is_of_the_name_alone():
    seeds = {derive_seed(seed, f"{i}.png") for seed in (0, 1) for i in range(1000)}
    assert len(seeds) == 2000 and all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seed(7, "a/\udcff.png") == derive_seed(7, "a/\udcff.png")


def make(root, plan: Plan, number: int) -> None:
    """The files and the lines of a batch, as a worker leaves them."""
    found = []
    for source in plan.batches[number]:
        data = stored(picture("L"))
        for path in (f"image/{source.stem}.png", layout.name_map("depth", source.stem)):
            layout.write_file(root / path, data)
        found.append(layout.make_record(f"image/{source.stem}.png", (5, 7), LABELS, {}))
    layout.write_lines(name_part(root, number), found)


def sources(*names: str) -> list[Source]:
    return [Source(f"{name}.png", 9, name) for name in names]


def empty(size: int, *names: str) -> Plan:
    found = sources(*names)
    batches = tuple(tuple(found[i : i + size]) for i in range(0, len(found), size))
    return Plan({"labels": LABELS}, batches)


def test_a_plan_comes_back_as_it_was_written(tmp_path):
    plan = empty(2, "a", "b\udcff", "ç")
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert read_plan(tmp_path / "nowhere") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 9}', "\xff"])
def test_a_damaged_plan_is_refused(tmp_path, text):
    (tmp_path / "label.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(JodiError, match=r"label\.json"):
        read_plan(tmp_path)


def test_only_what_is_missing_is_to_do(tmp_path):
    plan = empty(2, "a", "b", "c", "d", "e")
    there = {s.file for s in plan.sources}
    assert list(look(tmp_path, plan, there).todo) == [0, 1, 2]
    for number in range(3):
        make(tmp_path, plan, number)
    assert not look(tmp_path, plan, there).todo
    (tmp_path / "annotation_depth" / "c.png").unlink()
    name_part(tmp_path, 2).write_text("{ no line")
    standing = look(tmp_path, plan, there)
    assert list(standing.todo) == [1, 2] and set(standing.lines) == {"a.png", "b.png", "d.png"}
    standing = look(tmp_path, plan, there - {"c.png"})
    assert (list(standing.todo), list(standing.missing)) == ([2], ["c.png"])


def test_new_pictures_never_move_old_ones(tmp_path):
    plan = empty(2, "b", "d", "f")
    write_plan(tmp_path, plan)
    more, changed = extend_plan(tmp_path, plan, sources("a", "b", "c", "d", "e", "f"), 2)
    assert more.batches[:2] == plan.batches and changed == []
    assert [[s.stem for s in batch] for batch in more.batches[2:]] == [["a", "c"], ["e"]]


def test_a_changed_picture_loses_its_file(tmp_path):
    plan = empty(2, "a", "b")
    make(tmp_path, plan, 0)
    found = [Source("a.png", 10, "a"), Source("b.png", 9, "b")]
    more, changed = extend_plan(tmp_path, plan, found, 2)
    assert changed == ["a.png"] and more.batches[0] == tuple(found)
    assert list(look(tmp_path, more, {"a.png", "b.png"}).todo) == [0]


def test_a_mix_is_refused_with_what_differs(tmp_path):
    require_same(tmp_path, {"seed": 1, "labels": ["a"]}, {"seed": 1, "labels": ["a"]})
    with pytest.raises(JodiError, match=r"seed was 1, now 2; size was None, now 5"):
        require_same(tmp_path, {"seed": 1}, {"seed": 2, "size": 5})


def test_the_digest_of_code_knows_every_change_but_line_ends(tmp_path):
    for folder in CODE:
        (tmp_path / folder).mkdir()
    path = tmp_path / CODE[0] / "a.py"
    path.write_bytes(b"x = 1\ny = 2\n")
    one = digest_code(tmp_path)
    path.write_bytes(b"x = 1\r\ny = 2\r\n")
    assert digest_code(tmp_path) == one
    path.write_bytes(b"x = 1\ny = 3\n")
    assert digest_code(tmp_path) != one
    path.rename(path.with_name("b.py"))
    assert len({one, digest_code(tmp_path), digest_code()}) == 3


def test_the_digest_of_weights_knows_where_files_end(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"one")
    b.write_bytes(b"two")
    seen = {digest([a, b]), digest([b, a]), digest([a])}
    a.write_bytes(b"onet")
    b.write_bytes(b"wo")
    assert len(seen | {digest([a, b])}) == 4


def test_lines_that_are_none_are_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nno json\n[1]\n\n{"b": 2}')
    assert layout.read_lines(path) == [{"a": 1}, {"b": 2}]
    layout.write_lines(path, [{"a": "ç\udcff"}])
    assert json.loads(path.read_text("ascii")) == {"a": "ç\udcff"}
