"""What an evaluation on real pictures found: JSON, Markdown, and a page with the best, the middle
and the worst picture of each label."""

import html
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...kit.pictures.contact_sheet import draw_contact_sheet
from ...kit.pictures.files import save_png
from ..domains import find_domain
from ..labels.normals import convert_normals
from ..labels.segmentation import draw_segmentation
from .datasets import Protocol, RealSample, load_sample
from .examples import pick_places
from .real import Infer, fit_map
from .report import write_report_text
from .report_tables import Value, show_number

HEADLINE = {
    "depth": ("disparity_affine.absrel", False),
    "normal": ("unaligned.mean_deg", False),
    "edge": ("unaligned.ois", True),
    "segmentation": ("unaligned.miou", True),
}
"""By label: what pictures are ranked by, and whether higher is better."""


@dataclass(frozen=True)
class FolderReport:
    """values: flat, by key. each: name of a picture and its own scores. The maps that are shown
    are made again by `infer`."""

    values: dict[str, Value]
    each: list[tuple[str, dict[str, float]]]
    folder: Path
    protocol: Protocol
    infer: Infer

    def summary(self) -> str:
        """The measures as lines of text, without their intervals."""
        keys = [
            k for k in self.values if k.startswith(f"{self.protocol.name}.") and "ci95" not in k
        ]
        width = max(map(len, keys))
        return "\n".join(f"{key:{width}} {show_number(self.values[key]):>10}" for key in keys)

    def write_json(self, path: str | os.PathLike) -> None:
        """Write the values. Raises: JodiError when the place is not writable."""
        text = json.dumps(self.values, indent=2, allow_nan=False) + "\n"
        write_report_text(Path(path), text)

    def markdown(self) -> str:
        """The values as a table, with intervals."""
        lines = ["| measure | value | 95 % interval |", "| --- | --- | --- |"]
        for key, value in self.values.items():
            if "ci95" not in key:
                low, high = (self.values.get(f"{key}.ci95.{side}") for side in ("low", "high"))
                between = "" if low is None else f"{show_number(low)} to {show_number(high)}"
                lines.append(f"| {key} | {show_number(value)} | {between} |")
        return "\n".join(lines) + "\n"

    def write(self, folder: str | os.PathLike) -> Path:
        """Write report.json, report.md, report.html and pictures/*.png; returns the page's path.

        Raises: JodiError or ImageError when the folder is not writable.
        """
        folder, parts = Path(folder), []
        for label, (measure, higher) in HEADLINE.items():
            for place, (name, score) in self.pick(label, measure, higher).items():
                sheet = self.draw(name, label)
                target = f"pictures/{label}_{place}.png"
                save_png(folder / target, sheet)
                text = f"{find_domain(label).title}, {place}: {name}, {measure} {score:.4g}"
                parts.append(
                    f"<h3>{html.escape(text)}</h3><img src='{target}' alt='{html.escape(text)}'>"
                )
        self.write_json(folder / "report.json")
        write_report_text(folder / "report.md", self.markdown())
        page = folder / "report.html"
        write_report_text(page, self._page(parts))
        return page

    def pick(self, label: str, measure: str, higher: bool) -> dict[str, tuple[str, float]]:
        """The best, the middle and the worst picture by a measure: place -> name and score."""
        key = f"{self.protocol.name}.{measure}"
        if label not in self.protocol.labels:
            return {}
        scored = [(name, own[key]) for name, own in self.each if key in own]
        places = pick_places([score for _, score in scored], higher)
        return {place: scored[index] for place, index in places.items()}

    def draw(self, name: str, label: str) -> Tensor:
        """Picture, truth and map of one label side by side, (3, H, W)."""
        sample = load_sample(self.folder, name, self.protocol)
        made = self.infer(sample.image, (label,))[label]
        drawn = fit_map(made, sample.image.shape[-2:], label)
        cells = [("picture", sample.image[0]), ("truth", draw_truth(sample, label)), ("map", drawn)]
        return draw_contact_sheet([cells])

    def _page(self, parts: list[str]) -> str:
        title = html.escape(f"{self.values.get('model')} on {self.protocol.name}")
        rows = "".join(
            f"<tr><td>{html.escape(k)}</td><td>{html.escape(show_number(v))}</td></tr>"
            for k, v in self.values.items()
        )
        return (
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
            "<style>body{font:15px/1.45 sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
            "td{padding:.2em .8em;border-bottom:1px solid #ddd}img{max-width:100%}</style></head>"
            f"<body><h1>{title}</h1><table>{rows}</table>{''.join(parts)}</body></html>\n"
        )


def draw_truth(sample: RealSample, label: str) -> Tensor:
    """The truth of a label as Jodi draws it, (3, H, W) in [0, 1]; black where it is not scored."""
    truth, valid = sample.truth[label], sample.valid[label]
    if label == "depth":
        near = torch.where(valid, 1 / truth.clamp(min=1e-6), 0.0)
        known = near[valid]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        plane = ((near - low) / max(float(high - low), 1e-12)).clamp(0, 1).float()
        picture = plane.expand(3, -1, -1)
    elif label == "normal":
        picture = convert_normals((truth.float()[None] + 1) / 2, "opengl", "jodi")[0]
    elif label == "edge":
        picture = truth.float().mean(0).expand(3, -1, -1)
    else:
        picture = draw_segmentation(truth[None])[0]
    return torch.where(valid, picture, 0.0)
