"""Which files belong together, and what results are called."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jodi_pack.cli.inputs import find_pictures, make_slug, name_apart, pair_maps
from jodi_pack.cli.options import UsageError


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
    found, problems = find_pictures([folder, folder / "a.jpg"])
    assert [path.name for path in found] == ["a.jpg", "b.PNG", "d.webp"] and not problems


def test_endings_in_a_folder_choose_and_name(files):
    folder = files("x_depth.png", "x_normal.png", "y_depth.png", "y_normals.png", "x.png")
    sets, problems = pair_maps({"depth": [folder], "normal": [folder]})
    assert not problems
    assert [(name, maps["depth"].name, maps["normal"].name) for name, maps in sets] == [
        ("x", "x_depth.png", "x_normal.png"),
        ("y", "y_depth.png", "y_normals.png"),
    ]


def test_plain_names_pair_and_one_file_goes_with_all(files):
    folder = files("d/1.png", "d/2.png", "n/2.png", "n/1.png", "albedo.png")
    given_files = {"depth": [folder / "d"], "normal": [folder / "n"]}
    sets, _ = pair_maps({**given_files, "albedo": [folder / "albedo.png"]})
    assert [name for name, _ in sets] == ["1", "2"]
    assert all(maps["albedo"].name == "albedo.png" for _, maps in sets)
    assert [list(maps) for _, maps in sets] == [["depth", "normal", "albedo"]] * 2


def test_single_files_are_one_set_named_after_the_first(files):
    folder = files("street_depth.png", "other.png")
    sets, _ = pair_maps({"depth": [folder / "street_depth.png"], "normal": [folder / "other.png"]})
    assert [name for name, _ in sets] == ["street"]


def test_two_maps_of_one_name_are_refused(files):
    folder = files("a/x.png", "b/x.jpg", "n/x.png")
    depth = [folder / "a" / "x.png", folder / "b" / "x.jpg"]
    with pytest.raises(UsageError, match="both the depth map of 'x'"):
        pair_maps({"depth": depth, "normal": [folder / "n"]})


@given(
    st.lists(st.sampled_from(["a", "A", "a-2", "b", "b_depth"]), max_size=6),
    st.sets(st.sampled_from(["a_depth.png", "A-2_depth.png", "b_depth.png", "b-2_depth.png"])),
)
def test_no_result_meets_another_or_an_input(stems, inputs):
    folder = Path("somewhere")
    result = name_apart(stems, ["_depth.png"], folder, [folder / name for name in inputs])
    written = [f"{stem}_depth.png".casefold() for stem in result]
    assert len(set(written)) == len(stems)
    assert not set(written) & {name.casefold() for name in inputs}


@pytest.mark.parametrize(
    ("prompt", "name"),
    [("A red car!", "a_red_car"), ("../../etc/passwd", "etc_passwd"), ("  ", "picture")],
)
def test_prompts_become_file_names(prompt, name):
    assert make_slug(prompt) == name
    assert len(make_slug("word " * 50)) <= 48


def test_endings_of_all_kinds_are_seen_and_unread_ones_are_named(files, caplog):
    folder = files("a.jfif", "b.JPE", "c.heic", "d.exr", "e.txt")
    found, problems = find_pictures([folder])
    assert [path.name for path in found] == ["a.jfif", "b.JPE"] and not problems
    assert "c.heic, d.exr" in caplog.text and "e.txt" not in caplog.text
    found, problems = find_pictures([files("only/x.heic") / "only"])
    assert not found and "no pictures that are read" in problems[0][1]


def test_patterns_are_expanded_where_the_shell_did_not(files):
    folder = files("b.png", "a.png", "c.jpg", "a[1].png")
    found, problems = find_pictures([folder / "*.png"])
    assert [path.name for path in found] == ["a.png", "a[1].png", "b.png"] and not problems
    assert find_pictures([folder / "a[1].png"])[0] == [folder / "a[1].png"]  # there is such a file
    found, problems = find_pictures([folder / "*.webp"])
    assert not found and "no file matches" in problems[0][1]
    sets, _ = pair_maps({"depth": [files("d/x.png", "d/y.png") / "d" / "*.png"]})
    assert [name for name, _ in sets] == ["x", "y"]
    sets, problems = pair_maps({"depth": [folder / "none*.png"]})
    assert not sets and "no file matches" in problems[0][1]


def test_names_that_no_file_can_have_stop_nothing(files):
    folder = files("good.png")
    loop = folder / "loop.png"
    loop.symlink_to(loop)
    odd = [loop, folder / ("x" * 300), folder / "a\0b.png", folder / ("*" + "y" * 300)]
    found, problems = find_pictures([*odd, folder])
    assert found[0] == loop and folder / "good.png" in found and len(problems) == 1
    stems = name_apart([p.stem for p in found], ["_depth.png"], folder, found)
    assert len(set(stems)) == len(found)
    sets, _ = pair_maps({"depth": [loop], "normal": [folder / ("x" * 300)]})
    assert sets[0][0] == "loop"


def test_long_names_leave_room_for_endings():
    ending = "_segmentation_index.png"
    for letter in ("a", "ü", "猫"):
        stems = name_apart([letter * 400, letter * 401], [ending], Path("out"), [])
        assert len(set(stems)) == 2
        for stem in stems:
            assert stem.startswith(letter) and len(f"{stem}{ending}".encode()) <= 255
