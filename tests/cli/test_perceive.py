"""`jodi perceive` from files to files, with a tiny model of random weights."""

import errno
import json
import os
import re

import numpy as np
import pytest
import torch
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from jodi_pack.kit.weights.read import read_state_dict
from jodi_pack.kit.weights.write import write_state_dict
from PIL import Image

LABELS = ("lineart", "edge", "depth", "normal", "albedo", "segmentation", "openpose")


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def test_all_labels_lie_over_the_picture(jodi, tiny, picture, tmp_path):
    path = picture("view.png", 40, 56)
    status, out, err = jodi("perceive", path, *tiny.options, "--steps", 2, "--seed", 5)
    assert status == 0, err
    folder = tmp_path / "work" / "output" / "perceive"
    names = [f"view_{label}.png" for label in LABELS]
    names.insert(names.index("view_segmentation.png") + 1, "view_segmentation_index.png")
    written = [line.replace("\\", "/") for line in out]
    assert written == [f"output/perceive/{name}" for name in names]
    assert {p.name for p in folder.iterdir()} == {*names, "contact_sheet.png"}
    for name in names:
        with Image.open(folder / name) as image:
            assert image.size == (56, 40), f"{name} has the picture's own size"
            settings = json.loads(image.text["jodi"])
        assert settings["seed"] == 5 and settings["steps"] == 2
        assert settings["given"] == {"image": "view.png"}
        assert settings["domain"] in name and settings["task"] == "image perception"


def test_depth_has_16_bits_and_classes_are_numbers(jodi, tiny, picture, tmp_path):
    options = ("--labels", "depth,seg", "--steps", 2, "--out", "made")
    assert jodi("perceive", picture("view.png"), *tiny.options, *options)[0] == 0
    made = tmp_path / "work" / "made"
    with Image.open(made / "view_depth.png") as image:
        assert image.mode.startswith("I;16")
        depth = np.asarray(image)
    assert depth.min() == 0 and depth.max() == 65535 and len(np.unique(depth)) > 256
    numbers = pixels(made / "view_segmentation_index.png")
    assert numbers.ndim == 2 and numbers.min() >= 0 and numbers.max() < 12
    colors = np.asarray(SEGMENTATION_PALETTE)[numbers]
    assert np.array_equal(colors, pixels(made / "view_segmentation.png"))


def test_a_bad_file_stops_nothing_and_is_named_at_the_end(jodi, tiny, picture, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.png", "c.png"):
        picture(f"photos/{name}")
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    (folder / "notes.txt").write_text("no picture, and not taken for one")
    missing = tmp_path / "missing.jpg"
    empty = tmp_path / "empty"
    empty.mkdir()
    options = (*tiny.options, "--labels", "albedo", "--steps", 1)
    status, out, err = jodi("perceive", folder, missing, empty, *options)
    assert status == 1
    made = [line.rsplit("_", 1)[0][-1] for line in out]
    assert made == ["b", "c"]
    start = err.index("3 failed:")
    told = err[start + 1 :]
    assert len(told) == 3 and all(line.startswith("  ") for line in told)
    for path in (folder / "a.png", missing, empty):
        assert sum(str(path) in line for line in told) == 1


def test_only_bad_files_is_a_failure(jodi, tiny, tmp_path):
    status, out, err = jodi("perceive", tmp_path / "nowhere.png", *tiny.options, "--steps", 1)
    assert (status, out) == (1, [])
    assert "nowhere.png does not exist" in err[-1]


def test_a_result_does_not_depend_on_its_company(jodi, tiny, picture, tmp_path):
    paths = [picture(f"{name}.png", seed=i) for i, name in enumerate("abc")]
    options = (*tiny.options, "--labels", "albedo,normal", "--steps", 2)
    assert jodi("perceive", paths[1], *options, "--out", "alone")[0] == 0
    assert jodi("perceive", *paths, *options, "--out", "three", "--batch", 3)[0] == 0
    work = tmp_path / "work"
    for name in ("b_albedo.png", "b_normal.png"):
        alone, three = pixels(work / "alone" / name), pixels(work / "three" / name)
        assert np.abs(alone - three).max() <= 1, "only rounding may differ"
    assert np.abs(pixels(work / "three/a_albedo.png") - three).max() > 1


@pytest.mark.long
def test_a_batch_of_mixed_sizes_is_each_picture_alone(jodi, tiny, picture, tmp_path):
    """In the order given, each over its own picture, however they are grouped."""
    sizes = {"a": (40, 56), "b": (56, 40), "c": (40, 56), "d": (33, 57), "e": (40, 56)}
    paths = [picture(f"{name}.png", *sizes[name], seed=i) for i, name in enumerate(sizes)]
    options = (*tiny.options, "--labels", "albedo,seg", "--steps", 2)
    status, out, err = jodi("perceive", *paths, *options, "--out", "all", "--batch", 4)
    assert status == 0 and [line[4] for line in out] == list("aaabbbcccdddeee"), err
    work = tmp_path / "work"
    for name, path in zip("cd", paths[2:4], strict=True):
        assert jodi("perceive", path, *options, "--out", "alone")[0] == 0
        for ending in ("albedo", "segmentation"):
            alone, grouped = (pixels(work / k / f"{name}_{ending}.png") for k in ("alone", "all"))
            assert alone.shape[:2] == sizes[name] == grouped.shape[:2]
            # only rounding may differ, and a class at the border of two
            assert (np.abs(alone - grouped) <= 1).mean() > 0.99, (name, ending)


def test_results_never_replace_an_input(jodi, tiny, picture, tmp_path):
    work = tmp_path / "work"
    first, second = picture("work/x.png", seed=1), picture("work/x_albedo.png", seed=2)
    sheet = picture("work/contact_sheet.png", seed=3)
    before = [path.read_bytes() for path in (first, second, sheet)]
    options = (*tiny.options, "--labels", "albedo", "--steps", 1, "--out", ".")
    status, out, _ = jodi("perceive", "x.png", "x_albedo.png", "contact_sheet.png", *options)
    assert status == 0
    assert [path.read_bytes() for path in (first, second, sheet)] == before
    assert out == ["x-2_albedo.png", "x_albedo_albedo.png", "contact_sheet_albedo.png"]
    assert (work / "contact_sheet-2.png").exists()


def test_two_pictures_of_one_name_make_two_results(jodi, tiny, picture, tmp_path):
    picture("one/view.png", seed=1)
    picture("two/view.png", seed=2)
    options = (*tiny.options, "--labels", "albedo", "--steps", 1, "--out", "made")
    status, out, _ = jodi("perceive", tmp_path / "one", tmp_path / "two", *options)
    made = tmp_path / "work" / "made"
    assert status == 0 and len(out) == 2
    different = pixels(made / "view_albedo.png") != pixels(made / "view-2_albedo.png")
    assert different.any()


@pytest.mark.parametrize(
    ("size", "expected"), [("48x32", (48, 32)), ("50X30", (48, 32)), ("48", (56, 40))]
)
def test_size_is_width_by_height_or_one_side(jodi, tiny, picture, tmp_path, size, expected):
    options = (*tiny.options, "--labels", "depth", "--steps", 1, "--model-size", "--size", size)
    status, _, err = jodi("perceive", picture("view.png", 40, 56), *options, "--out", "made")
    assert status == 0, err
    with Image.open(tmp_path / "work" / "made" / "view_depth.png") as image:
        assert image.size == expected


def test_normals_of_another_convention_are_the_same_flipped(jodi, tiny, picture, tmp_path):
    path = picture("view.png")
    for axes in ("model", "directx"):
        options = ("--labels", "normal", "--steps", 1, "--normals", axes, "--out", axes)
        assert jodi("perceive", path, *tiny.options, *options)[0] == 0
    work = tmp_path / "work"
    ours, other = (load_image(work / a / "view_normal.png")[0] for a in ("model", "directx"))
    flipped = torch.cat([1 - ours[:, :2], ours[:, 2:]], dim=1)
    assert (other - flipped).abs().max() <= 1.01 / 255


def test_depth_near_black_is_its_inverse(jodi, tiny, picture, tmp_path):
    path = picture("view.png")
    for near in ("white", "black"):
        options = ("--labels", "depth", "--steps", 1, "--near", near, "--out", near)
        assert jodi("perceive", path, *tiny.options, *options)[0] == 0
    work = tmp_path / "work"
    white, black = (pixels(work / near / "view_depth.png") for near in ("white", "black"))
    assert np.abs(white + black - 65535).max() <= 1


@pytest.mark.parametrize("place", ["taken", "taken/below", "x" * 300, "a\0b"])
def test_a_place_that_cannot_be_written_is_named_before_anything_runs(
    jodi, picture, tmp_path, place
):
    (tmp_path / "work" / "taken").write_text("a file, no folder")
    options = ("--model", "no such model", "--vae", "no such vae", "--out", place)
    status, out, err = jodi("perceive", picture("a.png"), *options)
    assert (status, out) == (2, []) and len(err) == 1 and "--out" in err[0]


def test_files_that_do_not_fit_on_the_disk_are_named(jodi, tiny, picture, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    paths = picture("a.png"), picture("b.png")
    monkeypatch.setattr(os, "fsync", full)
    options = (*tiny.options, "--labels", "albedo", "--steps", 1)
    status, out, err = jodi("perceive", *paths, *options)
    assert (status, out) == (1, []) and "2 failed:" in err, err
    for name in ("a_albedo.png", "b_albedo.png"):
        assert sum(name in line and "No space left" in line for line in err) == 1


def test_a_sheet_that_cannot_be_saved_is_named_too(jodi, tiny, picture, tmp_path):
    (tmp_path / "work" / "made" / "contact_sheet.png").mkdir(parents=True)
    options = (*tiny.options, "--labels", "albedo", "--steps", 1, "--out", "made")
    status, out, err = jodi("perceive", picture("a.png"), tmp_path / "missing.png", *options)
    assert (status, out) == (1, ["made/a_albedo.png"])
    assert "2 failed:" in err and "missing.png" in err[-2] and "contact_sheet" in err[-1]


def test_odd_names_stop_nothing(jodi, tiny, picture, tmp_path):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    odd = (loop, "x" * 300 + ".png", "a\0b.png")
    options = (*tiny.options, "--labels", "albedo", "--steps", 1, "--out", "made")
    status, out, err = jodi("perceive", *odd, picture("good.png"), *options)
    assert (status, out) == (1, ["made/good_albedo.png"]), err
    assert (
        "3 failed:" in err
        and sum("cannot be opened" in line or "not exist" in line for line in err) == 3
    )


def test_a_long_name_still_gets_its_results(jodi, tiny, picture):
    path = picture("n" * 240 + ".png")
    options = (*tiny.options, "--labels", "seg", "--steps", 1, "--out", "made")
    status, out, err = jodi("perceive", path, *options)
    assert status == 0 and len(out) == 2, err


@pytest.mark.parametrize(
    ("size", "expected"),
    [("picture-ratio", (32, 24)), ("trained-shape", (40, 24)), ("Picture size", (56, 40))],
)
def test_sizes_by_name(jodi, tiny, picture, tmp_path, size, expected):
    options = (*tiny.options, "--labels", "depth", "--steps", 1, "--model-size", "--size", size)
    status, _, err = jodi("perceive", picture("view.png", 40, 56), *options, "--out", "made")
    assert status == 0, err
    with Image.open(tmp_path / "work" / "made" / "view_depth.png") as image:
        assert image.size == expected


@pytest.fixture
def nine(tiny, tmp_path):
    """Options of a model with a domain of its own, whose name no file can have."""
    content = read_state_dict(tiny.transformer)
    model, metadata = dict(content.tensors), dict(content.metadata)
    for name, tensor in content.tensors.items():  # the ninth is the eighth again
        if name.startswith(("x_embedders.7.", "final_layers.7.")):
            model[name.replace(".7.", ".8.", 1)] = tensor.clone()
    model["domain_embedding"] = torch.cat([model["domain_embedding"]] * 2)[:9]
    metadata["domains"] = json.dumps([*json.loads(metadata["domains"]), "heat / ../x"])
    metadata["config"] = json.dumps({**json.loads(metadata["config"]), "num_labels": 8})
    path = tmp_path / "nine.safetensors"
    write_state_dict(path, model, metadata)
    return ("--model", path, *tiny.options[2:])


def test_a_domain_of_the_models_own(jodi, nine, picture, tmp_path):
    options = (*nine, "--steps", 1, "--labels", "heat / ../x,depth", "--out", "made")
    status, out, err = jodi("perceive", picture("a.png"), *options)
    assert status == 0, err
    (heat,) = [line for line in out if "heat" in line]
    assert re.fullmatch(r"made/a_heat______x-[0-9a-f]{4}\.png", heat)
    with Image.open(heat) as image:
        assert json.loads(image.text["jodi"])["domain"] == "heat / ../x"
    names = {path.name for path in (tmp_path / "work" / "made").iterdir()}
    assert len(names) == 3 and "contact_sheet.png" in names


def test_all_labels_of_a_model_with_nine_domains(jodi, nine, picture):
    status, out, err = jodi("perceive", picture("a.png"), *nine, "--steps", 1, "--out", "made")
    assert status == 0 and len(out) == 9, err  # segmentation makes two


@pytest.mark.long
def test_a_domain_of_its_own_beside_given_maps(jodi, nine, picture):
    picture("d_depth.png")
    options = (*nine, "--steps", 1, "--generate", "image,heat / ../x", "--out", "made")
    status, out, err = jodi("control", "--depth", "../d_depth.png", *options)
    assert status == 0 and len(out) == 2, err
    generated = (*nine, "--steps", 1, "--labels", "heat / ../x", "--out", "more")
    status, out, err = jodi("generate", "--prompt", "a tree", *generated)
    assert status == 0 and len(out) == 2, err
    status, out, err = jodi("control", "--depth", "../d_depth.png", *nine, "--generate", "smell")
    assert (status, out) == (2, []) and "no domain is called 'smell'" in err[-1]
