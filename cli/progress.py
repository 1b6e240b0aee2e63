"""What the user sees while a command runs: lines, a bar on a terminal, and a clean Ctrl-C.

Results go to standard output, everything about them to standard error.
"""

import contextlib
import io
import logging
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator

BAR_WIDTH = 24
SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_DRAWINGS = 0.1


class Console:
    """Writes lines, keeping them apart from a bar that is being drawn."""

    def __init__(self):
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.quiet = False
        self._drawn = ""

    def result(self, text: str) -> None:
        """A line of what was asked for."""
        self._erase()
        print(text, flush=True)

    def note(self, text: str) -> None:
        """A line about the work, left out when quiet."""
        if not self.quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line on standard error: warnings and errors."""
        self._erase()
        indent = " " * (len(text) - len(text.lstrip(" ")))
        self._print(indent + " ".join(text.split()) + "\n")

    def draw(self, text: str) -> None:
        """The changing line of a terminal."""
        width = shutil.get_terminal_size().columns - 1
        text = text[:width]
        padding = " " * (len(self._drawn) - len(text))
        self._print(f"\r{text}{padding}")
        self._drawn = text

    def _erase(self) -> None:
        if self._drawn:
            self._print("\r" + " " * len(self._drawn) + "\r")
            self._drawn = ""

    def _print(self, text: str) -> None:
        # Nobody may be listening any more, which is no reason to end the work.
        with contextlib.suppress(OSError, ValueError):
            print(text, end="", file=sys.stderr or io.StringIO(), flush=True)

    @contextlib.contextmanager
    def bar(
        self, title: str, unit: str = "step", *, rate: bool = False
    ) -> Iterator[Callable[[int, int], None]]:
        """Yields update(done, total): a bar on a terminal, elsewhere a plain line now and then.

        rate: say how many were done a second, too.
        """
        started = last = time.monotonic()

        def update(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            wait = SECONDS_BETWEEN_DRAWINGS if self.terminal else SECONDS_BETWEEN_LINES
            if self.quiet or (now - last < wait and not (self.terminal and done in (1, total))):
                return
            last, rest = now, (now - started) / max(done, 1) * (total - done)
            speed = f"{done / max(now - started, 1e-9):.3g} a second, " if rate else ""
            state = f"{title}: {unit} {done:,}/{total:,}, {speed}{_duration(rest)} left"
            if self.terminal:
                filled = BAR_WIDTH * done // max(total, 1)
                self.draw(f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {state}")
            else:
                self.note(state)

        try:
            yield update
        finally:
            self._erase()

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Shows the core's log records inside as lines, each different one once."""
        logger, handler = logging.getLogger("jodi"), _LogHandler(self)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _LogHandler(logging.Handler):
    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self._console, self._seen = console, set()

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {record.getMessage()}"
        if line not in self._seen:
            self._seen.add(line)
            self._console.say(line)


class Stop:
    """Whether Ctrl-C was pressed inside `stop_on_interrupt`."""

    def __init__(self):
        self.asked = False


@contextlib.contextmanager
def stop_on_interrupt(console: Console) -> Iterator[Stop]:
    """Inside, the first Ctrl-C sets `asked`, which is checked after each step; the second Ctrl-C
    interrupts at once. At the end an unchecked Ctrl-C interrupts too.

    Raises: KeyboardInterrupt.
    """
    stop = Stop()

    def ask(number, frame):
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        console.say("stopping after this step; Ctrl-C again to stop at once")

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: its owner handles signals
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
    if stop.asked:
        raise KeyboardInterrupt


class Terminated(KeyboardInterrupt):
    """The system asks the program to end. number: of the signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def end_on_signals() -> Iterator[None]:
    """Inside, SIGTERM and a terminal that closes raise `Terminated`, so that what is unfinished is
    cleared away as after Ctrl-C. Signals that the program was started to ignore stay ignored.
    """

    def end(number, frame):
        raise Terminated(number)

    before = {}
    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    except ValueError:  # not the main thread: its owner handles signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds // 60} min"
    return f"{seconds / 3600:.1f} h"
