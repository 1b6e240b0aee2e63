"""Which files belong together, what results are called, and what size they are made at."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jodi_pack.cli.inputs import named_apart, paired_maps, picture_files, slug
from jodi_pack.cli.options import UsageError
from jodi_pack.cli.pictures import MAX_RATIO, fit_all, job_size
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures.frame import Frame


@pytest.fixture
def files(tmp_path):
    """Makes empty files: files("a.png", "maps/b.png") -> the folder."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def test_a_folder_gives_its_pictures_by_name(files):
    folder = files("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "below/c.png", "d.webp")
    found, problems = picture_files([folder, folder / "a.jpg"])
    assert [path.name for path in found] == ["a.jpg", "b.PNG", "d.webp"] and not problems


def test_endings_in_a_folder_choose_and_name(files):
    folder = files("x_depth.png", "x_normal.png", "y_depth.png", "y_normals.png", "x.png")
    sets, problems = paired_maps({"depth": [folder], "normal": [folder]})
    assert not problems
    assert [(name, maps["depth"].name, maps["normal"].name) for name, maps in sets] == [
        ("x", "x_depth.png", "x_normal.png"),
        ("y", "y_depth.png", "y_normals.png"),
    ]


def test_plain_names_pair_and_one_file_goes_with_all(files):
    folder = files("d/1.png", "d/2.png", "n/2.png", "n/1.png", "albedo.png")
    given_files = {"depth": [folder / "d"], "normal": [folder / "n"]}
    sets, _ = paired_maps({**given_files, "albedo": [folder / "albedo.png"]})
    assert [name for name, _ in sets] == ["1", "2"]
    assert all(maps["albedo"].name == "albedo.png" for _, maps in sets)
    assert [list(maps) for _, maps in sets] == [["depth", "normal", "albedo"]] * 2


def test_single_files_are_one_set_named_after_the_first(files):
    folder = files("street_depth.png", "other.png")
    sets, _ = paired_maps(
        {"depth": [folder / "street_depth.png"], "normal": [folder / "other.png"]}
    )
    assert [name for name, _ in sets] == ["street"]


def test_two_maps_of_one_name_are_refused(files):
    folder = files("a/x.png", "b/x.jpg", "n/x.png")
    depth = [folder / "a" / "x.png", folder / "b" / "x.jpg"]
    with pytest.raises(UsageError, match="both the depth map of 'x'"):
        paired_maps({"depth": depth, "normal": [folder / "n"]})


@given(
    st.lists(st.sampled_from(["a", "A", "a-2", "b", "b_depth"]), max_size=6),
    st.sets(st.sampled_from(["a_depth.png", "A-2_depth.png", "b_depth.png", "b-2_depth.png"])),
)
def test_no_result_meets_another_or_an_input(stems, inputs):
    folder = Path("somewhere")
    result = named_apart(stems, ["_depth.png"], folder, [folder / name for name in inputs])
    written = [f"{stem}_depth.png".casefold() for stem in result]
    assert len(set(written)) == len(stems)
    assert not set(written) & {name.casefold() for name in inputs}


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A red car!", "a_red_car"), ("../../etc/passwd", "etc_passwd"), ("  ", "picture")],
)
def test_prompts_become_file_names(prompt, name):
    assert slug(prompt) == name
    assert len(slug("word " * 50)) <= 48


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.sampled_from([(8, 64), (8, 128), (32, 1024), (64, 1024)]))
def test_a_size_of_the_models_choice_fits_the_picture(height, width, model):
    factor, side = model
    h, w = job_size(None, (height, width), (side, side), factor)
    assert h % factor == w % factor == 0
    if max(height / width, width / height) > MAX_RATIO:
        assert max(h / w, w / h) <= 2 * MAX_RATIO
        return
    assert 0.4 < h * w / side**2 < 2
    frame = Frame.fitting((height * 1000, width * 1000), (h, w))
    seen = frame.height * frame.width / (frame.resized_h * frame.resized_w)
    assert seen > (0.9 if max(height / width, width / height) <= 3 else 0.7)


def test_sizes_asked_for_are_kept_as_far_as_they_can_be():
    assert job_size((100, 60), (7, 9), (64, 64), 8) == (104, 64)
    assert job_size(None, None, (64, 64), 8) == (64, 64)
    assert job_size(100, None, (64, 64), 32) == (96, 96)
    assert job_size(None, (480, 640), (1024, 1024), 32) == (896, 1184)
    for ratio in itertools.product((2, 3, 4), (2, 3, 4)):
        h, w = job_size(None, (100 * ratio[0], 100 * ratio[1]), (1024, 1024), 32)
        assert abs(h / w * ratio[1] / ratio[0] - 1) < 0.03


def test_maps_of_one_view_may_have_any_size():
    maps = {"depth": torch.rand(1, 3, 30, 40), "normal": torch.rand(1, 3, 61, 80)}
    fitted, frame = fit_all(maps, (24, 32), "crop", "x")
    assert {tuple(m.shape) for m in fitted.values()} == {(1, 3, 24, 32)}
    assert (frame.original_h, frame.original_w) == (30, 40)
    with pytest.raises(ImageError, match="proportions differ"):
        fit_all({**maps, "albedo": torch.rand(1, 3, 40, 30)}, (24, 32), "crop", "x")
