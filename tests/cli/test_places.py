"""Places for results and names of files: looked at before anything is computed."""

import pytest


@pytest.fixture
def odd(tmp_path):
    """Names under which nothing can be written, by what is wrong with them."""
    (tmp_path / "taken").write_text("a file, no folder")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    return {
        "below a file": tmp_path / "taken" / "below",
        "a long name": tmp_path / ("x" * 300),
        "a long way": tmp_path.joinpath(*["y" * 200] * 30),
        "a NUL byte": str(tmp_path / "a\0b"),
        "a loop of links": loop,
        "a folder in a loop": loop / "inside",
    }


NAMES = ["below a file", "a long name", "a long way", "a NUL byte", "a loop of links"]
NAMES += ["a folder in a loop"]
NO_MODEL = ("--model", "no such model", "--vae", "no such vae")
FOLDERS = {
    "perceive": ("perceive", "a.png", *NO_MODEL, "--out"),
    "generate": ("generate", "--prompt", "a tree", *NO_MODEL, "--out"),
    "demo": ("demo", *NO_MODEL, "--out"),
    "report": ("evaluate", *NO_MODEL, "--report"),
    "run": ("train", "scenes", "--count", "1", "--workers", "1", "--run"),
    "latents": ("train", "latents", "--run"),
    "transformer": ("train", "transformer", "--steps", "1", "--run"),
    "export": ("train", "export", "--run", "run", "--to"),
    "samples": ("train", "samples", "--to"),
}
FILES = {
    "scores": ("evaluate", *NO_MODEL, "--json"),
    "figures": ("bench", "--case", "step", "--json"),
    "sheet": ("train", "samples", "--to", "made", "--sheet"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", [*FOLDERS, *FILES])
def test_places_where_nothing_can_be_written(jodi, odd, command, name):
    words = {**FOLDERS, **FILES}[command]
    status, out, err = jodi(*words, odd[name])
    assert (status, out, len(err)) == (2, [], 1), err
    assert words[-1] in err[0] and len(err[0]) < 500 and "unexpected" not in err[0]


@pytest.mark.parametrize("command", FOLDERS)
def test_a_file_where_a_folder_belongs(jodi, tmp_path, command):
    file = tmp_path / "file"
    file.write_text("kept")
    status, out, err = jodi(*FOLDERS[command], file)
    assert (status, out, len(err)) == (2, [], 1) and "is no folder" in err[0], err
    assert file.read_text() == "kept"


@pytest.mark.parametrize("command", FILES)
def test_a_folder_where_a_file_belongs(jodi, tmp_path, command):
    status, out, err = jodi(*FILES[command], tmp_path)
    assert (status, out, len(err)) == (2, [], 1) and "this is a folder" in err[0], err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_conversion_into_such_a_place(jodi, tiny, odd, name):
    status, out, err = jodi("convert", tiny.transformer, f"{odd[name]}.safetensors")
    if name == "a loop of links":  # with its ending the name is free
        assert status == 0
        return
    assert (status, out) == (1, []) and "unexpected" not in err[-1] and len(err[-1]) < 700, err
    assert "choose another" in err[-1] or "make it" in err[-1]


EMPTY = [
    ("perceive", ""),
    ("perceive", "a.png", "--out", " "),
    ("perceive", "a.png", "--text-encoder", ""),
    ("control", "--depth", ""),
    ("generate", "--prompt", "x", "--text-features", ""),
    ("info", ""),
    ("convert", "", "b.safetensors"),
    ("convert", "a.pth", ""),
    ("verify", ""),
    ("evaluate", "--json", ""),
    ("bench", "--table", ""),
    ("train", "scenes", "--count", "1", "--run", ""),
    ("train", "transformer", "--run", "r", "--steps", "1", "--continue-from", ""),
    ("train", "latents", "--run", "r", "--vae", ""),
    ("train", "export", "--run", "r", "--to", ""),
]


@pytest.mark.long
@pytest.mark.parametrize("command", EMPTY, ids=" ".join)
def test_an_empty_name_chooses_nothing(jodi, command):
    """A variable of the shell that is not set must not mean the folder one happens to be in."""
    status, out, err = jodi(*command)
    assert (status, out, len(err)) == (2, [], 1) and "it is empty" in err[0], err
