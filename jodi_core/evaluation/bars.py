"""What the embedded model should reach, and a report card that says whether it does."""

from collections.abc import Mapping
from dataclasses import dataclass

Values = Mapping[str, float | int | str | None]


@dataclass(frozen=True)
class Bar:
    """One demand on the values of an evaluation.

    key: of the model's value. against: key of a baseline, or None. how: "value" for the value
    itself, "share" for value / baseline, "gain" for value - baseline. must and stretch: the bar,
    and the one after it. A share should be low, everything else high.
    """

    title: str
    key: str
    how: str
    must: float
    stretch: float
    against: str | None = None

    def measure(self, values: Values) -> float | None:
        """The number that is compared with the bar; None where the evaluation has no such value."""
        value = values.get(self.key)
        if not isinstance(value, (int, float)):
            return None
        if self.against is None:
            return float(value)
        base = values.get(self.against)
        if not isinstance(base, (int, float)):
            return None
        return value - base if self.how == "gain" else value / base

    def reached(self, values: Values, bar: float) -> bool:
        """Whether the evaluation reaches `bar`."""
        number = self.measure(values)
        if number is None:
            return False
        return number <= bar if self.how == "share" else number >= bar


def _share(title: str, key: str, must: float, stretch: float) -> Bar:
    return Bar(title, f"{key}.model", "share", must, stretch, f"{key}.baseline")


BARS = (
    _share("depth, share of its baseline's error", "depth.absrel", 0.25, 0.18),
    _share("normals, share of their baseline's angle", "normal.mean_deg", 0.20, 0.15),
    Bar("albedo, dB above its baseline", "albedo.psnr.model", "gain", 5, 7, "albedo.psnr.baseline"),
    Bar("segmentation, mean IoU", "segmentation.miou.model", "value", 0.78, 0.88),
    Bar("edges, F", "edge.f.model", "value", 0.88, 0.93),
    Bar("line art, F", "lineart.f.model", "value", 0.87, 0.92),
    Bar("joints, PCK", "openpose.pck.model", "value", 0.6, 0.8),
    Bar(
        "picture from all labels, dB above the mean colour",
        "control.psnr.model",
        "gain",
        9,
        11,
        "control.psnr.mean_color",
    ),
    Bar(
        "picture from all labels, dB above the albedo",
        "control.psnr.model",
        "gain",
        4,
        6,
        "control.psnr.albedo_copy",
    ),
    _share("normals from depth, share of the baseline", "any.normal_from_depth.mean_deg", 0.4, 0.3),
    _share("depth from normals, share of the baseline", "any.depth_from_normal.absrel", 0.4, 0.3),
    Bar("classes of the caption found", "joint.caption_classes.model", "value", 0.75, 0.9),
    Bar("colours of the caption found", "joint.caption_colors.model", "value", 0.75, 0.9),
    Bar("classes read in the picture", "joint.picture.classes.model", "value", 0.75, 0.9),
    Bar("colours read in the picture", "joint.picture.colors.model", "value", 0.75, 0.9),
)


def write_report_card(values: Values) -> list[str]:
    """One line of text for each bar: the number, the bar, and whether it is reached."""
    width = max(len(bar.title) for bar in BARS)
    lines = [f"{'':{width}} {'is':>7} {'bar':>6} {'stretch':>8}"]
    for bar in BARS:
        number = bar.measure(values)
        shown = "not measured" if number is None else f"{number:.3f}"
        reached = [bar.reached(values, limit) for limit in (bar.must, bar.stretch)]
        word = "stretch reached" if reached[1] else "reached" if reached[0] else "missed"
        if number is None:
            word = ""
        lines.append(f"{bar.title:{width}} {shown:>7} {bar.must:6g} {bar.stretch:8g}  {word}")
    return lines
