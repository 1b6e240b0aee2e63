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
from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..domains import DOMAIN_NAMES, find_domain
from . import consistency, edges, metrics, pose

Value = float | int | str | None

HEADLINES: tuple[tuple[str, str, bool], ...] = (
    ("depth.absrel", "Depth, mean relative error", False),
    ("depth.delta1", "Depth, share within a factor of 1.25", True),
    ("normal.mean_deg", "Normals, mean angle (degrees)", False),
    ("normal.median_deg", "Normals, median angle (degrees)", False),
    ("albedo.psnr", "Albedo, PSNR (dB)", True),
    ("segmentation.miou", "Segmentation, mean IoU of 11 classes", True),
    ("edge.f", "Edges, F (ODS)", True),
    ("lineart.f", "Line art, F (ODS)", True),
    ("openpose.pck", "Joints, PCK", True),
    ("control.psnr", "Picture from all labels, PSNR (dB)", True),
)
"""Key, title, and whether higher is better."""

COLUMNS = ("model", "baseline", "ceiling", "labels")

JOINT_TITLES = {
    "normal_depth_deg": "Normals against the normals of the own depth (degrees, lower)",
    "picture_albedo_psnr": "Picture against albedo x fitted light (dB, higher)",
    "picture_albedo_gain": "... and what the albedo adds to light on plain grey (dB, higher)",
    "edge_segmentation_f": "Edges against the borders of the own segmentation (F, higher)",
    "caption_classes": "Classes of the caption found in the segmentation (share, higher)",
    "caption_colors": "Colours of the caption found in the albedo (share, higher)",
    "picture.classes": "Classes of the caption read in the picture (share, higher)",
    "picture.colors": "Colours of the caption read in the picture (share, higher)",
}
JOINT_COLUMNS = ("model", "perceived", "ceiling", "labels", "shuffled")


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

    def json_text(self) -> str:
        """The values as one flat JSON object."""
        return json.dumps(self.values, indent=2, allow_nan=False) + "\n"

    def write_json(self, path: str | os.PathLike) -> None:
        """Write the JSON, whole or not at all. Raises: JodiError when the place is not writable."""
        write_report_text(Path(path), self.json_text())

    def write(self, folder: str | os.PathLike) -> Path:
        """Write report.json, report.html and pictures/*.png; returns the path of the page.

        Raises: JodiError or ImageError when the folder is not writable.
        """
        folder = Path(folder)
        names = []
        for strip in self.strips:
            names.append(f"pictures/{strip.seed}.png")
            save_png(folder / names[-1], draw_strip(strip))
        self.write_json(folder / "report.json")
        page = folder / "report.html"
        write_report_text(page, _page(self, names))
        return page

    def summary(self) -> str:
        """The headline measures as lines of text."""
        width = max(len(title) for _, title, _ in HEADLINES)
        lines = [f"{'':{width}} {''.join(f'{c:>10}' for c in COLUMNS[:3])}"]
        for key, title, _ in HEADLINES:
            cells = "".join(f"{_number(self.values.get(f'{key}.{c}')):>10}" for c in COLUMNS[:3])
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


def _page(report: Report, pictures: list[str]) -> str:
    v = report.values
    settings = ("model", "scenes", "first_seed", "size", "steps", "control.steps")
    settings += ("control.guidance", "control.prompt", "device", "dtype", "seconds")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Evaluation</title>",
        "<style>body{font:15px/1.45 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
        "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;text-align:right;"
        "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
        "img{max-width:100%;image-rendering:pixelated}</style></head><body>",
        f"<h1>Evaluation of {html.escape(str(v.get('model')))}</h1>",
        "<p>Procedural scenes that training has never seen. These numbers compare with nothing "
        "measured on photographs.</p>",
        _table(("setting", "value"), [(name, v.get(name)) for name in settings]),
        "<h2>Tasks</h2>",
        _headline_table(v),
        "<h2>Other baselines</h2>",
        _key_table(v, [k for k in v if k.rpartition(".")[2] in _OTHER_BASELINES]),
        "<h2>Classes (IoU)</h2>",
        _table(
            ("class", *COLUMNS),
            [
                (name, *(v.get(f"segmentation.iou.{name}.{c}") for c in COLUMNS))
                for name in SEGMENTATION_CLASSES[1:]
            ],
        ),
        "<h2>Any to any, and all labels in one run</h2>",
        _key_table(v, [k for k in v if k.startswith(("any.", "all.")) and _is_headline(k)]),
        "<h2>Do the maps of one run fit each other?</h2>",
        _table(
            ("measure", *JOINT_COLUMNS),
            [
                (title, *(v.get(f"joint.{name}.{c}") for c in JOINT_COLUMNS))
                for name, title in JOINT_TITLES.items()
            ],
        ),
        "<h2>How it was measured</h2><ul>",
        *(f"<li>{html.escape(line)}</li>" for line in define_measures(v)),
        "</ul><h2>Pictures</h2>",
    ]
    for strip, name in zip(report.strips, pictures, strict=True):
        parts.append(
            f"<h3>{strip.seed}: {html.escape(strip.caption)}</h3>"
            f"<img src='{html.escape(name)}' alt='{html.escape(strip.caption)}'>"
        )
    return "\n".join([*parts, "</body></html>\n"])


_OTHER_BASELINES = (
    *("all_edges", "dots", "mean_map", "sobel", "mean_color", "input_copy", "albedo_copy"),
    "mean_pose",
)
_MEASURES = tuple(key.rpartition(".")[2] for key, _, _ in HEADLINES)


def _is_headline(key: str) -> bool:
    what, _, whose = key.rpartition(".")
    return what.rpartition(".")[2] in _MEASURES and whose in COLUMNS


def _headline_table(v: dict[str, Value]) -> str:
    rows = []
    for key, title, higher in HEADLINES:
        low, high = (v.get(f"{key}.model.ci95.{side}") for side in ("low", "high"))
        interval = "" if low is None else f"{_number(low)} to {_number(high)}"
        better = "higher" if higher else "lower"
        model, *others = (v.get(f"{key}.{c}") for c in COLUMNS)
        rows.append((f"{title} ({better} is better)", model, interval, *others))
    return _table(
        ("measure", "model", "95% interval", "baseline", "round trip", "exact labels"), rows
    )


def _key_table(v: dict[str, Value], keys: list[str]) -> str:
    return _table(("key", "value"), [(key, v[key]) for key in sorted(keys)])


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        cells = "".join(f"<td>{html.escape(_number(value))}</td>" for value in row)
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _number(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def define_measures(v: dict[str, Value]) -> list[str]:
    """How every measure is defined, one sentence or two each, with the values that were used."""
    size = str(v["size"])
    height, width = (int(s) for s in (size.split("x") if "x" in size else (size, size)))
    near, far = metrics.DEPTH_RANGE
    return [
        "Perception is one sample per label, each label alone from the picture, "
        f"{v['steps']} steps, no text, no guidance.",
        "Depth: scale and shift of the map are fitted to 1/depth per image by least squares over "
        f"valid pixels, the fit is inverted and clipped to {near:g}..{far:g} m (as the Marigold "
        "evaluation does for disparity); AbsRel and delta1 per image, then the mean. Baseline: a "
        "constant map under the same fit.",
        "Normals: angles pooled over all surface pixels. Baseline: the mean normal of "
        f"{v['baseline.training_scenes']} training scenes.",
        "Albedo: PSNR in sRGB, no scale fitted, mean over images. Baseline: the better of the "
        "mean training colour and the input picture.",
        "Segmentation: nearest palette colour, one pooled confusion, mean IoU over the 11 classes "
        "without 'unlabeled'. Baseline: the commonest training class everywhere.",
        "Edges and line art: thinned by non-maximum suppression, 99 thresholds, one-to-one "
        f"matching within {edges.find_tolerance(height, width):g} pixels by a maximum matching, "
        f"true lines where the thinned label is at least {edges.TRUTH_THRESHOLD:g}; F at the best "
        "threshold for the set (ODS). Baseline: the best of an all-edge map, a dot on every other "
        "pixel, and the mean map of training scenes; Sobel on the input is given beside it.",
        f"Joints: read by colour; right within {pose.PCK_SHARE:g} of the figure's larger side (at "
        f"least {pose.MIN_RADIUS:g} pixels); PCK over visible joints. Baseline: the mean training "
        "place of each joint. 'Exact labels' is what the reader itself loses.",
        f"Control: the picture from all labels, prompt: {v['control.prompt']}; PSNR against the "
        "true picture. Baseline: its own mean colour; beside it a plain copy of the albedo.",
        "Fit of maps: 'model' made picture and labels from the caption, 'perceived' all labels at "
        "once from the true picture; 'shuffled' puts exact maps of different scenes together. "
        f"Normals of depth assume a view of tan {consistency.MEAN_TAN_HALF:g} to the side; light "
        "is fitted per class region as a linear function of the normal. Classes and colours are "
        "read in the picture by a small network that was trained on rendered scenes alone; "
        "'labels' and 'ceiling' say what it reads in true pictures.",
        "95% intervals: bootstrap over images.",
    ]


def write_report_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all. Raises: JodiError when the place is not writable."""
    try:
        write_text(path, text)
    except OSError as error:
        raise JodiError(
            f"could not write {path}: {error.strerror or error}; choose another place"
        ) from error
