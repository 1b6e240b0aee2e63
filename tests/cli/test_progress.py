"""The bar, plain lines, and Ctrl-C."""

import io
import logging
import os
import signal
import sys

import pytest
from jodi_pack.cli import progress
from jodi_pack.cli.progress import Console, stop_on_interrupt


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text: str) -> list[str]:
    """What a terminal shows after this output: carriage returns overwrite."""
    lines = [""]
    for part in text.replace("\n", "\n\0").split("\0"):
        end = part.endswith("\n")
        for piece in part.removesuffix("\n").split("\r"):
            lines[-1] = piece + lines[-1][len(piece) :]
        if end:
            lines.append("")
    return [line.rstrip() for line in lines if line.strip()]


def test_a_bar_leaves_nothing_behind_and_keeps_lines_apart(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_DRAWINGS", 0)
    console = Console()
    with console.bar("work") as update:
        update(1, 4)
        (line,) = screen(terminal.getvalue())
        assert line == "[######..................] work: step 1/4, 0 s left"
        console.note("a line")
        update(4, 4)
    assert screen(terminal.getvalue()) == ["a line"]


def test_elsewhere_there_are_few_plain_lines(capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Console().bar("work") as update:
        for step in range(1, 11):
            update(step, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"work: step {n}/10, {round(4 * (10 - n))} s left" for n in (3, 6, 9)]


def test_a_rate_is_said_where_it_is_asked_for(capsys, monkeypatch):
    clock = iter((0, 20, 40))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Console().bar("work", unit="file", rate=True) as update:
        update(5, 12)
        update(10, 12)
    assert capsys.readouterr().err.splitlines() == [
        "work: file 5/12, 0.25 a second, 28 s left",
        "work: file 10/12, 0.25 a second, 8 s left",
    ]


def test_quiet_keeps_errors(capsys):
    console = Console()
    console.quiet = True
    console.note("unheard")
    console.say("heard")
    assert capsys.readouterr().err == "heard\n"


def test_warnings_of_the_core_are_lines_once(capsys):
    console = Console()
    logger = logging.getLogger("jodi")
    before = list(logger.handlers)
    with console.logging():
        for _ in range(3):
            logger.warning("%s is odd", "x.png")
        logger.info("unheard")
    assert capsys.readouterr().err == "warning: x.png is odd\n"
    assert logger.handlers == before


@pytest.mark.skipif(os.name == "nt", reason="signals to oneself work otherwise on Windows")
def test_the_first_ctrl_c_asks_the_second_insists():
    console = Console()
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(console) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        seen.append(stop.asked)
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("never")
    assert seen == [True]
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(console):
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("went on to the end")
    assert seen[1:] == ["went on to the end"]
    assert signal.getsignal(signal.SIGINT) == before
