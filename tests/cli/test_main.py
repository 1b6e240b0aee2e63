"""How commands end: exit status, one line for every error, Ctrl-C, help."""

import os
import signal
import threading
import time

import pytest
from jodi_pack.cli import jobs
from jodi_pack.cli.main import build_parser
from jodi_pack.kernels import selection
from PIL import Image

NAMES = next(list(action.choices) for action in build_parser()._actions if action.choices)


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches_with_examples(jodi, name):
    status, out, err = jodi(name, "--help")
    assert (status, err) == (0, [])
    start = out.index("examples:")
    assert out[start + 1].startswith(f"  jodi {name}")


@pytest.mark.parametrize("stage", ["scenes", "transformer", "export"])
def test_stages_have_help(jodi, stage):
    status, out, _ = jodi("train", stage, "--help")
    assert status == 0 and any("--run DIR" in line for line in out)


def test_without_a_command_the_help_is_shown(jodi):
    status, out, _ = jodi()
    assert status == 2 and out[0].startswith("usage: jodi")
    status, out, _ = jodi("train")
    assert status == 2 and out[0].startswith("usage: jodi train")


USAGE = [
    (["dance"], "invalid choice: 'dance'"),
    (["perceive"], "required: PICTURE|DIR"),
    (["perceive", "a.png", "--steps", "0"], "at least 1, got '0'"),
    (["perceive", "a.png", "--steps", "²"], "at least 1, got '²'"),
    (["perceive", "a.png", "--steps", "9" * 5000], "at least 1, got '999"),
    (["perceive", "a.png", "--seed", "9" * 5000], "a whole number, got '999"),
    (["perceive", "a.png", "--steps", "10001"], "at most 10000, got 10001"),
    (["generate", "--prompt", "a", "--count", "999999999999"], "at most 100000, got 9"),
    (["imagine", "a car", "--count", "999999999999"], "at most 100000, got 9"),
    (["imagine", "a car", "--steps", "999999999"], "at most 10000, got 9"),
    (["imagine", "a car", "--seed", "9" * 5000], "a whole number, got '999"),
    (["imagine", "a car", "--out", ""], "it is empty"),
    (["caption", ""], "it is empty"),
    (["ask", "", "is it red"], "it is empty"),
    (["generate", "--prompt", "a", "--guidance", "4_5"], "a number, got '4_5'"),
    (["perceive", "a.png", "--seed", "1.5"], "a whole number, got '1.5'"),
    (["perceive", "a.png", "--" + "x" * 5000], "unrecognized arguments"),
    (["dance" * 1000], "invalid choice: 'dance"),
    (["perceive", "a.png", "--size", "12y3"], "WIDTHxHEIGHT"),
    (["perceive", "a.png", "--seeed", "3"], "unrecognized arguments: --seeed"),
    (["perceive", "a.png", "--model", "jodi.pth"], "--model needs --vae too"),
    (["perceive", "a.png", "--device", "abacus"], "'abacus' cannot be used"),
    (["control", "--prompt", "a tree"], "nothing is given"),
    (["generate"], "there is no prompt"),
    (["evaluate", "--first-seed", "7"], "is a training seed"),
    (["evaluate", "--parts", "perception,dancing"], "no part dancing"),
    (["train", "scenes"], "required: --run"),
]


@pytest.mark.long
@pytest.mark.parametrize(("command", "message"), USAGE)
def test_wrong_usage_is_status_2_and_one_line(jodi, command, message):
    status, out, err = jodi(*command)
    assert (status, out, len(err)) == (2, [], 1), err
    assert message in err[0] and len(err[0]) < 600 and "parse_" not in err[0]


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "depth,smell"], "no domain is called 'smell'"),
        (["--labels", "image"], "image cannot be both"),
    ],
)
def test_names_that_the_model_lacks_are_usage_too(jodi, tiny, picture, options, message):
    status, out, err = jodi("perceive", picture("a.png"), *options, *tiny.options)
    assert (status, out) == (2, []) and message in err[-1]


@pytest.mark.long
def test_words_need_an_encoder(jodi, tiny):
    bare = tiny.options[:4]
    status, _, err = jodi("generate", "--prompt", "a red car", *bare)
    assert status == 2 and "bring no text encoder" in err[-1]


def test_a_wrong_file_is_one_line_and_status_1(jodi, tiny, picture):
    weights = ("--model", tiny.autoencoder, "--vae", tiny.autoencoder)
    status, out, err = jodi("perceive", picture("a.png"), *weights)
    assert (status, out, len(err)) == (1, [], 1)
    assert "a DC-AE autoencoder" in err[0]
    status, _, err = jodi("perceive", picture("a.png"), *weights, "--debug")
    assert status == 1 and err[0].startswith("Traceback") and "DC-AE" in err[-1]


def test_kernels_that_cannot_run_here_say_why(jodi, tiny, picture, monkeypatch):
    monkeypatch.setattr(selection, "triton_missing", lambda: "Triton is not installed")
    with selection.use("triton"):
        status, _, err = jodi("perceive", picture("a.png"), *tiny.options)
    assert status == 1 and any("Triton is not installed" in line for line in err)
    assert not any("fault of the program" in line for line in err)


def test_a_fault_of_the_program_is_one_line_too(jodi, tiny, picture, monkeypatch):
    from jodi_pack.cli import perceive

    def broken(args):
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(perceive, "load_pipeline", broken)
    status, _, err = jodi("perceive", picture("a.png"))
    assert (status, len(err)) == (1, 1) and "ZeroDivisionError: oh no" in err[0]


def interrupt_when(condition):
    """Press Ctrl-C as soon as the condition holds."""

    def wait():
        end = time.monotonic() + 120
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals to oneself work otherwise on Windows")
def test_ctrl_c_stops_within_a_step_and_leaves_whole_files(jodi, tiny, picture, tmp_path):
    paths = [picture(f"{name}.png") for name in ("a", "b")]
    made = tmp_path / "work" / "made"
    options = (*tiny.options, "--labels", "depth", "--steps", 400, "--out", "made")
    thread = interrupt_when((made / "a_depth.png").exists)
    status, out, err = jodi("perceive", *paths, *options)
    thread.join()
    assert status == 130 and err[-1] == "stopped; finished files are whole"
    assert out == ["made/a_depth.png"]
    assert {path.name for path in made.iterdir()} == {"a_depth.png", "contact_sheet.png"}
    for path in made.iterdir():
        with Image.open(path) as image:
            image.load()


@pytest.mark.skipif(os.name == "nt", reason="signals to oneself work otherwise on Windows")
def test_ctrl_c_while_saving_keeps_the_contact_sheet(jodi, tiny, picture, tmp_path, monkeypatch):
    def save_and_interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return save_result(*arguments)

    save_result = jobs.save_result
    monkeypatch.setattr(jobs, "save_result", save_and_interrupt)
    paths = [picture(f"{name}.png") for name in ("a", "b")]
    options = (*tiny.options, "--labels", "depth", "--steps", 2, "--out", "made")
    status, out, err = jodi("perceive", *paths, *options)
    assert status == 130 and err[-1] == "stopped; finished files are whole"
    assert out == ["made/a_depth.png"]
    made = tmp_path / "work" / "made"
    assert {path.name for path in made.iterdir()} == {"a_depth.png", "contact_sheet.png"}


def test_every_command_says_what_it_is_in_one_line():
    text = build_parser().format_help()
    for name in NAMES:
        assert f"    {name} " in text
