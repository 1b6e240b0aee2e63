"""Training folders: both layouts, and a fault with its line for whatever cannot be trained on."""

import json
import math
import os

import pytest
import torch
from jodi_pack.jodi_core.training.reading import Bins, read_record
from jodi_pack.jodi_core.training.records import scan, weigh_captions
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.files import save_png

from ..conftest import shared_dir, skip_or_fail


@pytest.fixture
def joint():
    folder = shared_dir() / "data" / "joint_example"
    if not folder.is_dir():
        skip_or_fail("reference", f"no sample of Joint-1.6M at {folder}")
    return folder


def entry(folder, name, size=(40, 48), **values):
    """A line of metadata, with the picture it names."""
    save_png(folder / f"image/{name}.png", torch.rand(3, *size))
    info = {"height": size[0], "width": size[1]}
    return {"image": f"image/{name}.png", "info": info, "caption": {"A": "a cat"}, **values}


def written(folder, *lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(texts))
    return scan(folder)


@pytest.mark.slow
def test_the_real_sample_is_read_whole(joint):
    records, faults = scan(joint)
    assert not faults and len(records) == 3
    assert [record.size for record in records] == [(1280, 1024), (1024, 1916), (1195, 1024)]
    assert "openpose" not in records[0].labels and "openpose" in records[1].labels
    assert set(records[0].captions) == {"Qwen2-VL-7b-Instruct", "BLIP2-OPT-2.7b"}
    pictures = read_record(records[0], Bins(8, 64), NAMES)
    assert list(pictures) == list(NAMES)
    assert {tuple(p.shape) for p in pictures.values()} == {(3, 72, 56)}  # bin 1.21 of 64 px
    assert torch.equal(pictures["openpose"], torch.full((3, 72, 56), -1.0))
    assert "openpose" not in read_record(records[0], Bins(8, 64), NAMES, empty_pose=False)


NAMES = ["image", "lineart", "edge", "depth", "normal", "albedo", "segmentation", "openpose"]


def test_every_bad_line_is_named_and_the_others_are_read(tmp_path):
    good = entry(tmp_path, "good")
    outside = tmp_path.parent / f"{tmp_path.name}.png"
    outside.write_bytes(b"there")
    cases = [
        ("{", "not JSON"),
        ("[1]", "no JSON object"),
        ({"caption": "x"}, "names no `image`"),
        (entry(tmp_path, "a", image="image/lost.png"), "no file image/lost.png"),
        (entry(tmp_path, "b", annotation_depth=f"../{outside.name}"), "leaves the folder"),
        (entry(tmp_path, "c", annotation_depth=str(outside)), "leaves the folder"),
        (entry(tmp_path, "d", annotation_heat="image/d.png"), "no domain is called 'heat'"),
        (entry(tmp_path, "e", caption={"A": "  "}), "caption is empty"),
        (entry(tmp_path, "f", caption=[1]), "caption is neither"),
        (entry(tmp_path, "g", info={"height": "tall"}), "no whole height and width"),
        (entry(tmp_path, "h", annotation_depth=7), "expected the path"),
        (good, "stands at"),
        (entry(tmp_path, "i", annotation_image="image/i.png"), "the picture itself"),
    ]
    records, faults = written(tmp_path, good, *(line for line, _ in cases))
    assert [record.image.name for record in records] == ["good.png"]
    # whatever the order in which faults are found, each has the line it stands on
    told = {int(fault.place.rsplit(":", 1)[1]): fault.reason for fault in faults}
    for number, (_, reason) in enumerate(cases, 2):
        assert reason in told[number], (number, told[number])


def test_what_only_an_opened_picture_shows(tmp_path):
    save_png(tmp_path / "depth/a.png", torch.rand(20, 24))
    lines = [
        entry(tmp_path, "a", annotation_depth="depth/a.png"),
        entry(tmp_path, "b") | {"info": {"height": 40, "width": 50}},
        entry(tmp_path, "c"),
    ]
    records, faults = written(tmp_path, *lines)
    assert not faults
    (tmp_path / "image/c.png").write_bytes(b"\x89PNG broken")
    for record, reason in zip(records, ("depth is 24 x 20", "48 x 40", "c.png"), strict=True):
        with pytest.raises(JodiError, match=reason):
            read_record(record, Bins(8, 64), NAMES)


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    (record,), _ = written(tmp_path, entry(tmp_path, "a"))
    from jodi_pack.jodi_core.training import reading

    real = reading.load_image

    def slow(path):
        picture = real(path)
        os.utime(path, (1, 1))
        return picture

    monkeypatch.setattr(reading, "load_image", slow)
    with pytest.raises(JodiError, match="changed while it was read"):
        read_record(record, Bins(8, 64), NAMES)


@pytest.mark.parametrize("home", ["", "image/"])
def test_folders_of_pictures(tmp_path, home):
    for stem in ("a", "b", "c"):
        save_png(tmp_path / f"{home}{stem}.png", torch.rand(3, 16, 16))
    (tmp_path / f"{home}a.txt").write_text("a house\n")
    (tmp_path / f"{home}b.txt").write_text(" \n")
    save_png(tmp_path / "depth/a.jpg.png", torch.rand(16, 16))
    save_png(tmp_path / "annotation_seg_12colors/c.png", torch.rand(3, 16, 16))
    save_png(tmp_path / "depth/nobody.png", torch.rand(16, 16))
    save_png(tmp_path / "heat/a.png", torch.rand(16, 16))
    records, faults = scan(tmp_path)
    assert [(r.image.name, list(r.labels), dict(r.captions)) for r in records] == [
        ("a.png", ["depth"], {"caption": "a house"})
    ]
    reasons = " ".join(map(str, faults))
    for part in ("b.png: the caption is empty", "c.png", "no picture has this depth", "'heat'"):
        assert part in reasons
    records, _ = scan(tmp_path, need_captions=False)
    assert [(r.image.name, list(r.labels)) for r in records] == [
        ("a.png", ["depth"]),
        ("b.png", []),
        ("c.png", ["segmentation"]),
    ]


def test_caption_probabilities(joint):
    records, _ = scan(joint)
    weights = weigh_captions(records[0], {"BLIP2": 4, "Qwen2-VL": 1, "GPT-4o": 2})
    assert weights == pytest.approx({"BLIP2-OPT-2.7b": 0.8, "Qwen2-VL-7b-Instruct": 0.2})
    assert math.isclose(sum(weigh_captions(records[0], {}).values()), 1)
    with pytest.raises(JodiError, match="none of which is wanted"):
        weigh_captions(records[0], {"GPT-4o": 1})


def test_a_split_is_named(tmp_path):
    (tmp_path / "metadata.train.jsonl").write_text(json.dumps(entry(tmp_path, "a")))
    with pytest.raises(JodiError, match=r"metadata\.train\.jsonl"):
        scan(tmp_path)
    assert len(scan(tmp_path, split="train")[0]) == 1
