"""What an evaluation found: flat JSON for programs, a page with tables and pictures for people."""

import html
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ...kit.errors import JodiError
from ...kit.files import write_text
from ...kit.pictures.contact_sheet import draw_contact_sheet
from ...kit.pictures.files import save_png
from ..domains import DOMAIN_NAMES, find_domain
from .examples import Example
from .report_tables import COLUMNS, HEADLINES, Value, define_measures, make_tables, show_number

__all__ = ["HEADLINES", "Report", "Strip", "Value", "draw_strip", "write_report_text"]


@dataclass(frozen=True)
class Strip:
    """Pictures of one scene: rows by title, each a picture (3, H, W) in [0, 1] by domain."""

    seed: int
    caption: str
    rows: dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Report:
    """Flat values "<what>.<measure>.<whose>", the settings they were made with, and pictures.

    Whose: model; baseline, the best that needs no looking; ceiling, the true label after the
    autoencoder's round trip; labels, the true label itself through the same reader. None is a value
    that could not be measured, such as a class that no scene shows.
    """

    values: dict[str, Value]
    strips: list[Strip] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    def json_text(self) -> str:
        """The values as one flat JSON object."""
        return json.dumps(self.values, indent=2, allow_nan=False) + "\n"

    def write_json(self, path: str | os.PathLike) -> None:
        """Write the JSON, whole or not at all. Raises: JodiError when the place is not writable."""
        write_report_text(Path(path), self.json_text())

    def write(self, folder: str | os.PathLike) -> Path:
        """Write report.json, report.md, report.html, pictures/*.png of scenes and examples/*.png of
        the best, the middle and the worst; returns the path of the page.

        Raises: JodiError or ImageError when the folder is not writable.
        """
        folder = Path(folder)
        names = []
        for strip in self.strips:
            names.append(f"pictures/{strip.seed}.png")
            save_png(folder / names[-1], draw_strip(strip))
        for example in self.examples:
            save_png(folder / "examples" / example.file, example.draw())
        self.write_json(folder / "report.json")
        write_report_text(folder / "report.md", self.markdown())
        page = folder / "report.html"
        write_report_text(page, _page(self, names))
        return page

    def markdown(self) -> str:
        """The tables, how it was measured, and which scenes were the best and the worst."""
        lines = [f"# Evaluation of {_cell(self.values.get('model'))}", "", NOTE]
        for table in make_tables(self.values):
            lines += ["", f"## {table.title}", "", _line(table.head)]
            lines += [_line(("---",) * len(table.head)), *(_line(row) for row in table.rows)]
        if self.examples:
            lines += ["", "## The best, the middle and the worst scene of each label", ""]
            lines += [
                f"- [{_cell(example.describe())}](examples/{example.file})"
                for example in self.examples
            ]
        lines += ["", "## How it was measured", ""]
        return "\n".join([*lines, *(f"- {line}" for line in define_measures(self.values)), ""])

    def summary(self) -> str:
        """The headline measures as lines of text."""
        width = max(len(title) for _, title, _ in HEADLINES)
        lines = [f"{'':{width}} {''.join(f'{c:>10}' for c in COLUMNS[:3])}"]
        for key, title, _ in HEADLINES:
            cells = "".join(
                f"{show_number(self.values.get(f'{key}.{c}')):>10}" for c in COLUMNS[:3]
            )
            lines.append(f"{title:{width}} {cells}")
        return "\n".join(lines)


def draw_strip(strip: Strip) -> Tensor:
    """All pictures of one scene on one sheet: a column for each domain, (3, H, W)."""
    rows, headings = [], []
    for title, pictures in strip.rows.items():
        cells = [(find_domain(n).title, pictures[n]) for n in DOMAIN_NAMES if n in pictures]
        if cells:
            rows.append(cells)
            headings.append(title)
    return draw_contact_sheet(rows, headings=headings)


NOTE = (
    "Procedural scenes that training has never seen. These numbers compare with nothing measured "
    "on photographs."
)


def _page(report: Report, pictures: list[str]) -> str:
    v = report.values
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Evaluation</title>",
        "<style>body{font:15px/1.45 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
        "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;text-align:right;"
        "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
        "img{max-width:100%;image-rendering:pixelated}</style></head><body>",
        f"<h1>Evaluation of {html.escape(str(v.get('model')))}</h1>",
        f"<p>{NOTE}</p>",
    ]
    for table in make_tables(v):
        rows = "".join(_row("td", row) for row in table.rows)
        parts.append(f"<h2>{html.escape(table.title)}</h2>")
        parts.append(f"<table>{_row('th', table.head)}{rows}</table>")
    parts += [
        "<h2>How it was measured</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in define_measures(v)),
        "</ul>",
    ]
    if report.examples:
        parts.append("<h2>The best, the middle and the worst scene of each label</h2>")
    for example in report.examples:
        parts.append(_figure(example.describe(), f"examples/{example.file}"))
    parts.append("<h2>Scenes</h2>")
    for strip, name in zip(report.strips, pictures, strict=True):
        parts.append(_figure(f"{strip.seed}: {strip.caption}", name))
    return "\n".join([*parts, "</body></html>\n"])


def _line(cells: tuple) -> str:
    return f"| {' | '.join(_cell(value) for value in cells)} |"


def _cell(value: Value) -> str:
    """A value in a table of Markdown: one line, without bars of its own."""
    return " ".join(show_number(value).replace("|", "\\|").split())


def _row(tag: str, cells: tuple) -> str:
    shown = "".join(f"<{tag}>{html.escape(show_number(value))}</{tag}>" for value in cells)
    return f"<tr>{shown}</tr>"


def _figure(text: str, source: str) -> str:
    text, source = html.escape(text), html.escape(source)
    return f"<h3>{text}</h3><img src='{source}' alt='{text}'>"


def write_report_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all. Raises: JodiError when the place is not writable."""
    try:
        write_text(path, text)
    except OSError as error:
        raise JodiError(
            f"could not write {path}: {error.strerror or error}; choose another place"
        ) from error
