"""`jodi label` in one process, from a folder of pictures to a data set and back to work."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from jodi_pack.cli import label as command
from jodi_pack.ddit_core.embedded import load_embedded_pipeline
from jodi_pack.ddit_core.evaluation.nano import CAPTION_OPTIONS
from jodi_pack.jodi_core.labelling import layout
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.pictures.numbers import load_numbers
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from PIL import Image

LABELS = ("lineart", "edge", "depth", "normal", "albedo", "seg_12colors", "openpose")
DEPTH = ("--labels", "depth", "--steps", 1, "--batch", 2)


@pytest.fixture
def photos(picture, tmp_path) -> Path:
    """Five pictures of two shapes, one of them in a folder below."""
    (tmp_path / "photos" / "below").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "c.png", "d.png", "below/a.png")):
        picture(f"photos/{name}", 40, 56 if i % 2 else 40, seed=i)
    return tmp_path / "photos"


@pytest.fixture
def label(jodi, tiny, photos, tmp_path):
    """Labels the photos: label("made", *options) -> (status, lines of standard error)."""

    def run(out="made", *options, labels=DEPTH) -> tuple[int, list[str]]:
        status, shown, err = jodi("label", photos, "--out", out, *tiny.options, *labels, *options)
        assert shown == []
        return status, err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(folder: Path, name="metadata.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def files_of(stem: str) -> set[str]:
    return {f"image/{stem}.png", f"annotation_depth/{stem}.png"}


@pytest.mark.long
def test_the_layout_is_that_of_joint_1600k(label, photos, tmp_path, reference_dir):
    assert label(labels=("--steps", 1))[0] == 0
    made = tmp_path / "work" / "made"
    published = lines(reference_dir.parent / "data" / "joint_example")
    written = lines(made)
    assert [line["image"] for line in written] == [
        f"image/{stem}.png" for stem in ("a", "b", "below_a", "c", "d")
    ]
    known = {key for line in published for key in line}
    for line in written:
        assert set(line) == known
        with Image.open(made / line["image"]) as image:
            assert (image.width, image.height) == (line["info"]["width"], line["info"]["height"])
            for name in LABELS:
                key = f"annotation_{name}"
                assert line[key].startswith(f"{key}/")
                with Image.open(made / line[key]) as drawn:
                    assert drawn.size == image.size
    folders = {f"annotation_{name}" for name in LABELS} | {"image"}
    assert {p.name for p in made.iterdir()} == folders | {"metadata.jsonl", "label.json"}
    assert (made / "image" / "below_a.png").read_bytes() == (photos / "below/a.png").read_bytes()


@pytest.mark.long
def test_maps_are_those_of_perceive(jodi, tiny, photos, tmp_path):
    """The same picture and seed through the other command, pixel by pixel."""
    options = (*tiny.options, "--steps", 2)
    name = "below/a.png"
    seed = command_seed(5, name)
    assert jodi("label", photos, "--out", "made", *options, "--seed", 5, "--batch", 1)[0] == 0
    assert jodi("perceive", photos / name, "--out", "seen", *options, "--seed", seed)[0] == 0
    made, seen = tmp_path / "work" / "made", tmp_path / "work" / "seen"
    for label in ("lineart", "edge", "depth", "normal", "albedo", "openpose"):
        one = load_image(made / f"annotation_{label}" / "below_a.png")[0]
        assert one.equal(load_image(seen / f"a_{label}.png")[0]), label
    classes = load_numbers(made / "annotation_seg_12colors" / "below_a.png")
    index = load_numbers(seen / "a_segmentation_index.png")
    assert classes is not None and index is not None and classes.indexed
    assert classes.values.equal(index.values)
    with Image.open(made / "annotation_seg_12colors" / "below_a.png") as image:
        shown = np.asarray(image.convert("RGB"))
    assert np.array_equal(shown, np.asarray(SEGMENTATION_PALETTE)[classes.values[0].numpy()])
    with Image.open(made / "annotation_depth" / "below_a.png") as image:
        assert image.mode.startswith("I;16")


def command_seed(seed: int, file: str) -> int:
    """The seed of a picture, as docs/label.md states it."""
    from hashlib import blake2b

    return int.from_bytes(blake2b(f"{seed}:{file}".encode(), digest_size=4).digest(), "little")


@pytest.mark.long
def test_company_and_order_change_nothing_but_rounding(label, photos, tmp_path):
    assert label("two")[0] == 0
    assert label("one", "--batch", 1)[0] == 0
    for name in ("b.png", "c.png"):
        (photos / name).unlink()
    assert label("few", "--batch", 3)[0] == 0
    work = tmp_path / "work"
    for stem in ("a", "below_a", "d"):
        maps = [load_image(work / out / "annotation_depth" / f"{stem}.png")[0] for out in OUTS]
        for other in maps[1:]:
            assert (maps[0] - other).abs().max() < 1e-4
    different = [load_image(work / "one" / "annotation_depth" / f"{s}.png")[0] for s in ("a", "d")]
    assert different[0].shape != different[1].shape or (different[0] - different[1]).any()


OUTS = ("two", "one", "few")


def test_what_is_whole_is_skipped(label, tmp_path):
    assert label()[0] == 0
    made = tmp_path / "work" / "made"
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*/*.png")}
    status, err = label()
    assert status == 0 and "5 pictures are labelled" in err[-1]
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*/*.png")}


@pytest.mark.long
@pytest.mark.parametrize("damage", ["gone", "cut", "emptied", "another size"])
@pytest.mark.parametrize("file", ["annotation_depth/b.png", "image/b.png"])
def test_a_damaged_file_is_made_again_with_its_batch(label, tmp_path, damage, file):
    assert label()[0] == 0
    made = tmp_path / "work" / "made"
    whole = contents(made)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*/*.png")}
    path = made / file
    if damage == "gone":
        path.unlink()
    elif damage == "another size":
        Image.new("L", (8, 8)).save(path)
    else:
        path.write_bytes(whole[file][:60] if damage == "cut" else b"")
    assert label()[0] == 0
    assert contents(made) == whole
    again = {p.relative_to(made).as_posix() for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert again == files_of("a") | files_of("b")


@pytest.mark.long
def test_an_interrupted_run_ends_in_the_same_bits(label, tmp_path, monkeypatch):
    """Stopped by Ctrl-C, as it arrives, after each number of written files that can be."""
    assert label("whole")[0] == 0
    work, write = tmp_path / "work", layout.write_file
    for count in (1, 7):
        left = count

        def interrupted(path, data):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            write(path, data)

        for module in MODULES:
            monkeypatch.setattr(module, "write_file", interrupted)
        assert label("made")[0] == 130
        monkeypatch.undo()
        monkeypatch.chdir(work)
        assert label("made")[0] == 0
        assert contents(work / "made") == contents(work / "whole"), count
        shutil.rmtree(work / "made")


def _modules():
    from jodi_pack.jodi_core.labelling import batch, plan

    return (layout, batch, plan)


MODULES = _modules()


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--seed", 1), "seed"),
        (("--steps", 2), "steps"),
        (("--batch", 3), "batch"),
        (("--labels", "normal"), "labels"),
        (("--size", 64), "size"),
        (("--vae", "embedded"), None),
    ],
)
def test_halves_made_otherwise_are_not_mixed(label, tmp_path, options, key):
    assert label()[0] == 0
    made = tmp_path / "work" / "made"
    before = contents(made)
    status, err = label("made", *options)
    assert status == 1 and contents(made) == before
    assert key is None or f"{key} was" in err[-1]


def test_other_code_is_told(label, tmp_path):
    assert label()[0] == 0
    path = tmp_path / "work" / "made" / "label.json"
    content = json.loads(path.read_text())
    content["fingerprint"]["code"] = "0" * 16
    path.write_text(json.dumps(content))
    status, err = label()
    assert status == 1 and "code was 0000000000000000, now " in err[-1]


def test_pictures_that_cannot_be_read_are_listed_with_reasons(label, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "b.txt").write_bytes(b"\xff\xfe\xff")
    (photos / "c.txt").write_text("a red ball\n", encoding="utf-8")
    status, err = label()
    made = tmp_path / "work" / "made"
    assert status == 0 and "3 cannot be labelled" in err[-2]
    refused = {line["file"]: line["reason"] for line in lines(made, "quarantine.jsonl")}
    assert set(refused) == {"broken.png", "empty.jpg", "b.png"}
    assert "empty" in refused["empty.jpg"] and "UTF-8" in refused["b.png"]
    captions = {Path(line["image"]).stem: line["caption"] for line in lines(made)}
    assert captions == {"a": {}, "below_a": {}, "c": {"given": "a red ball"}, "d": {}}
    before = contents(made)
    assert label()[0] == 0 and contents(made) == before, "they are not looked at again"
    shutil.copy(photos / "a.png", photos / "broken.png")
    assert label()[0] == 0
    assert "image/broken.png" in {line["image"] for line in lines(made)}
    assert {line["file"] for line in lines(made, "quarantine.jsonl")} == {"empty.jpg", "b.png"}


def test_new_pictures_are_added_and_changed_ones_made_again(label, photos, picture, tmp_path):
    assert label()[0] == 0
    made = tmp_path / "work" / "made"
    before = contents(made)
    picture("photos/0.png", seed=8)
    picture("photos/c.png", 48, 48, seed=9)
    status, err = label()
    assert status == 0 and any("changed" in line and "c.png" in line for line in err)
    after = contents(made)
    assert after["image/c.png"] == (photos / "c.png").read_bytes()
    assert after["annotation_depth/c.png"] != before["annotation_depth/c.png"]
    assert after["annotation_depth/a.png"] == before["annotation_depth/a.png"]
    stems = [Path(line["image"]).stem for line in lines(made)]
    assert stems == ["a", "b", "below_a", "c", "d", "0"]


def test_names_that_collide_stay_apart_for_ever(label, photos, picture, tmp_path):
    picture("photos/below_a.png", seed=7)
    assert label()[0] == 0
    picture("photos/A.jpg", seed=8)
    (photos / "A.jpg").rename(photos / "0A.png")
    picture("photos/below/A.png", seed=8)
    assert label()[0] == 0
    images = {line["image"] for line in lines(tmp_path / "work" / "made")}
    stems = {"a", "b", "below_a", "below_a-2", "c", "d", "0A", "below_A-3"}
    assert images == {f"image/{stem}.png" for stem in stems}


def test_a_picture_that_vanished_is_named_and_labelled_when_it_is_back(
    label, photos, tmp_path, monkeypatch
):
    assert label("whole")[0] == 0
    listed = command.list_pictures

    def vanishing(folder, root):
        found = listed(folder, root)
        (photos / "b.png").rename(tmp_path / "b.png")
        return found

    monkeypatch.setattr(command, "list_pictures", vanishing)
    status, err = label()
    assert status == 1
    assert any("b.png" in line and "could not be opened" in line for line in err)
    monkeypatch.setattr(command, "list_pictures", listed)
    made = tmp_path / "work" / "made"
    assert [Path(line["image"]).stem for line in lines(made)] == ["a", "below_a", "c", "d"]
    status, err = label()
    assert status == 1 and any("b.png" in line and "is gone" in line for line in err)
    (tmp_path / "b.png").rename(photos / "b.png")
    assert label()[0] == 0
    assert contents(made) == contents(tmp_path / "work" / "whole")


def test_the_whole_folder_may_vanish(label, photos, tmp_path, monkeypatch):
    listed = command.list_pictures

    def vanishing(folder, root):
        found = listed(folder, root)
        photos.rename(tmp_path / "elsewhere")
        return found

    monkeypatch.setattr(command, "list_pictures", vanishing)
    status, err = label()
    assert status == 1 and str(photos) in err[-1] and "the same line goes on" in err[-1]
    monkeypatch.setattr(command, "list_pictures", listed)
    (tmp_path / "elsewhere").rename(photos)
    assert label()[0] == 0


@pytest.mark.long
@pytest.mark.parametrize("count", [0, 3, 8])
def test_a_full_disk_is_named_and_the_work_goes_on(label, tmp_path, monkeypatch, count):
    assert label("whole")[0] == 0
    left, flush = count, os.fsync

    def full(fd):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(fd)

    monkeypatch.setattr(os, "fsync", full)
    status, err = label()
    assert status == 1 and "No space left on device" in err[-1]
    assert not count or "the same line goes on from there" in err[-1]
    monkeypatch.setattr(os, "fsync", flush)
    assert label()[0] == 0
    work = tmp_path / "work"
    assert contents(work / "made") == contents(work / "whole")


def test_a_real_full_disk(label, tmp_path):
    """A file system of 64 KiB, where this user may mount one."""
    place = tmp_path / "work" / "made"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {place} 2>/dev/null"):
        pytest.skip("no file system may be mounted here")
    try:
        status, err = label()
        assert status == 1 and "No space left on device" in err[-1]
        assert not list(place.rglob("*.part")), "half files would take the room for ever"
        assert not os.system(f"mount -o remount,size=8m {place}")
        assert label()[0] == 0
        assert len(lines(place)) == 5
    finally:
        os.system(f"umount {place}")


def test_a_folder_of_other_things_is_left_alone(label, tmp_path):
    made = tmp_path / "work" / "made"
    made.mkdir()
    (made / "thesis.txt").write_text("years of work")
    status, err = label()
    assert status == 1 and "thesis.txt" in err[-1]
    assert [p.name for p in made.iterdir()] == ["thesis.txt"]


def test_two_runs_at_once_are_told_apart(label, tmp_path):
    from jodi_pack.cli.label_files import hold_lock

    made = tmp_path / "work" / "made"
    with hold_lock(made):
        status, err = label()
    assert status == 1 and "another `jodi label` is at work" in err[-1]
    assert label()[0] == 0


@pytest.mark.long
def test_captions_are_those_of_the_built_in_captioner(label, photos, tmp_path):
    """Its words with the picture's own seed; a text of yours stays beside them."""
    (photos / "c.txt").write_text("a red ball\n", encoding="utf-8")
    assert label("made", "--captions")[0] == 0
    pipeline = load_embedded_pipeline()
    said = [
        pipeline.caption(
            load_image(photos / name)[0], options=CAPTION_OPTIONS, seed=command_seed(0, name)
        ).texts[0]
        for name in ("b.png", "c.png")
    ]
    made = tmp_path / "work" / "made"
    captions = {Path(line["image"]).stem: line["caption"] for line in lines(made)}
    assert all(captions[stem]["ddit-nano"] for stem in ("a", "below_a", "d"))
    assert captions["b"] == {"ddit-nano": said[0]}
    assert captions["c"] == {"given": "a red ball", "ddit-nano": said[1]}
    before = contents(made)
    status, err = label("made")
    assert status == 1 and "captions was ddit-nano, now None" in err[-1]
    (made / "annotation_depth" / "b.png").unlink()
    assert label("made", "--captions")[0] == 0 and contents(made) == before


def test_a_data_set_inside_the_folder_is_not_labelled(jodi, tiny, photos):
    for _ in range(2):
        status, _, err = jodi("label", photos, "--out", photos / "made", *tiny.options, *DEPTH)
        assert status == 0 and "5 pictures are labelled" in err[-1]


@pytest.mark.parametrize(
    ("options", "status", "told"),
    [
        (("--labels", "sounds"), 2, "sounds"),
        (("--labels", "image"), 2, "image"),
        (("--model", "nowhere.safetensors"), 1, "nowhere.safetensors"),
        (("--workers", "2", "--scheduler", "tcp://a:1"), 2, "not allowed with"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(label, tmp_path, options, status, told):
    code, err = label("made", *options)
    assert told in "\n".join(err)
    assert code == status
    assert not (tmp_path / "work" / "made").exists()


def test_without_dask_one_process_does_the_work(label, tmp_path, monkeypatch):
    find = command.importlib.util.find_spec
    hidden = lambda name: None if name == "distributed" else find(name)  # noqa: E731
    monkeypatch.setattr(command.importlib.util, "find_spec", hidden)
    status, err = label("made", "--workers", 3)
    assert status == 0 and "pip install distributed" in err[0]
    status, err = label("made", "--scheduler", "tcp://127.0.0.1:1")
    assert status == 2 and "pip install distributed" in err[-1]
