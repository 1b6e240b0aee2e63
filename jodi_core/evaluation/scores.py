"""One tally per domain: pictures and their exact labels in, measures over the whole set out.

A tally keeps one row of sufficient statistics per image (a few numbers), never the pictures, and
every measure is a function of the summed rows. That makes pooled measures (IoU, F, PCK) and means
over images the same thing, bounds the memory, and gives bootstrap intervals by summing resampled
rows.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ...kit.scenes.render import SceneBatch
from ..domains import find_domain
from ..labels.segmentation import find_classes
from . import edges, metrics, pose

Values = dict[str, np.ndarray]

RANKED: dict[str, tuple[str, bool]] = {
    "image": ("psnr", True),
    "lineart": ("f", True),
    "edge": ("f", True),
    "depth": ("absrel", False),
    "normal": ("mean_deg", False),
    "albedo": ("psnr", True),
    "segmentation": ("miou", True),
    "openpose": ("pck", True),
}
"""By domain: the measure that scenes are ranked by, and whether higher is better."""


class Tally:
    """Adds up images. Subclasses say what one image contributes and what the sum means."""

    headline: tuple[str, ...] = ()
    """Names of the measures that are reported first."""

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []

    def add(self, picture: Tensor, truth: SceneBatch) -> None:
        """Score pictures (B, 3, H, W) in [0, 1], post-processed, against their scenes."""
        self._rows.append(self._measure(picture.detach().cpu(), truth))

    def values(self) -> dict[str, float]:
        """Every measure over all images added; NaN where nothing was there to measure."""
        return {name: float(v) for name, v in self._summarise(self._all().sum(axis=0)).items()}

    def each(self) -> Values:
        """Every measure of each image alone, in the order they were added; NaN where an image has
        nothing to measure. A pooled measure, such as the mean IoU, is then that of one image."""
        return self._summarise(self._all())

    def intervals(self, resamples: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Bootstrap 95% interval over images for each measure."""
        rows = self._all()
        draws = np.random.default_rng(seed).multinomial(
            len(rows), np.full(len(rows), 1 / len(rows)), size=resamples
        )
        spread = self._summarise(draws @ rows)
        result = {}
        for name, values in spread.items():
            finite = values[np.isfinite(values)]
            if len(finite):
                low, high = np.percentile(finite, (2.5, 97.5))
                result[name] = (float(low), float(high))
        return result

    def _all(self) -> np.ndarray:
        return np.concatenate(self._rows)

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        """(B, k) float64 rows."""
        raise NotImplementedError

    def _summarise(self, total: np.ndarray) -> Values:
        """Measures from sums (..., k)."""
        raise NotImplementedError


class DepthTally(Tally):
    """AbsRel and delta1 after the disparity fit, per image, then the mean over images."""

    headline = ("absrel", "delta1")

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        depth, valid = truth.depth.cpu(), truth.valid.cpu()
        aligned = metrics.align_disparity(picture.mean(dim=1), depth, valid)
        absrel, delta1 = metrics.depth_errors(aligned, depth, valid)
        return _rows(absrel, delta1, torch.isfinite(absrel))

    def _summarise(self, total: np.ndarray) -> Values:
        return {
            "absrel": ratio(total[..., 0], total[..., 2]),
            "delta1": ratio(total[..., 1], total[..., 2]),
        }


class NormalTally(Tally):
    """Angles pooled over all surface pixels of the set; the sky has no surface."""

    headline = ("mean_deg", "median_deg")

    def __init__(self) -> None:
        super().__init__()
        self._histogram = torch.zeros(metrics.ANGLE_BINS, dtype=torch.int64)

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        valid = truth.valid.cpu()
        angles = metrics.angular_errors(picture * 2 - 1, truth.normal.cpu())
        self._histogram += metrics.angle_histogram(angles[valid])
        below = [((angles < limit) & valid).sum(dim=(1, 2)) for limit in metrics.NORMAL_THRESHOLDS]
        return _rows(torch.where(valid, angles, 0).sum(dim=(1, 2)), valid.sum(dim=(1, 2)), *below)

    def _summarise(self, total: np.ndarray) -> Values:
        values = {"mean_deg": ratio(total[..., 0], total[..., 1])}
        for i, limit in enumerate(metrics.NORMAL_THRESHOLDS):
            values[f"within_{limit:g}".replace(".", "_")] = ratio(total[..., 2 + i], total[..., 1])
        return values

    def values(self) -> dict[str, float]:
        median = metrics.histogram_median(self._histogram)
        return {**super().values(), "median_deg": median}


class ColorTally(Tally):
    """PSNR per image against the domain's true picture, then the mean over images."""

    headline = ("psnr",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self._index = find_domain(name).index

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        value = metrics.psnr(picture, truth.pictures[:, self._index].cpu())
        return _rows(value, torch.ones_like(value))

    def _summarise(self, total: np.ndarray) -> Values:
        return {"psnr": ratio(total[..., 0], total[..., 1])}


class SegmentationTally(Tally):
    """Mean IoU of one pooled confusion over the 11 named classes.

    Pixels that are truly unlabeled count against a class predicted there. A class that neither the
    truth nor the prediction holds is left out.
    """

    headline = ("miou",)

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        index = find_classes(picture * 2 - 1)
        matrix = metrics.confusion(index, truth.classes.cpu(), len(SEGMENTATION_CLASSES))
        return matrix.flatten(1).double().numpy()

    def _summarise(self, total: np.ndarray) -> Values:
        count = len(SEGMENTATION_CLASSES)
        matrix = torch.from_numpy(np.asarray(total, dtype=np.float64))
        iou = metrics.intersection_over_union(matrix.unflatten(-1, (count, count)))
        values = {"miou": iou[..., 1:].nanmean(dim=-1).numpy()}
        for i, name in enumerate(SEGMENTATION_CLASSES[1:], start=1):
            values[f"iou.{name}"] = iou[..., i].numpy()
        return values


class LineTally(Tally):
    """F of an edge map or a line drawing: best over one threshold for the set (ODS), or per image.

    thinned: False takes maps as they are, for zero-effort maps that have no ridges to find.
    """

    headline = ("f",)

    def __init__(self, name: str, thinned: bool = True) -> None:
        super().__init__()
        self._index, self._thinned = find_domain(name).index, thinned
        self._dark = name == "lineart"

    def strength(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) picture of this domain -> (B, H, W) line strength in [0, 1]."""
        grey = picture.float().mean(dim=1)
        return 1 - grey if self._dark else grey

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        true = edges.thin(self.strength(truth.pictures[:, self._index].cpu()))
        strength = self.strength(picture)
        strength = edges.thin(strength) if self._thinned else strength
        return count_edges(strength, true >= edges.TRUTH_THRESHOLD)

    def _summarise(self, total: np.ndarray) -> Values:
        return score_edges(total)


class PoseTally(Tally):
    """Share of visible joints found (PCK), and of read joints that are one (precision)."""

    headline = ("pck",)

    def _measure(self, picture: Tensor, truth: SceneBatch) -> np.ndarray:
        return self.take_rows(pose.read_joints(picture), truth)

    def add_joints(self, found: list[list[np.ndarray]], truth: SceneBatch) -> None:
        """Score joints that were not read from a picture, as `pose.read_joints` returns them."""
        self._rows.append(self.take_rows(found, truth))

    @staticmethod
    def take_rows(found: list[list[np.ndarray]], truth: SceneBatch) -> np.ndarray:
        rows = []
        for places, keypoints in zip(found, truth.keypoints, strict=True):
            n = pose.count_joints(places, keypoints)
            strict = pose.count_joints(places, keypoints, pose.PCK_SHARE_STRICT)
            rows.append((n.found, n.true, n.read, strict.found, n.confirmed))
        return np.array(rows, dtype=np.float64)

    def _summarise(self, total: np.ndarray) -> Values:
        return {
            "pck": ratio(total[..., 0], total[..., 1]),
            "pck05": ratio(total[..., 3], total[..., 1]),
            "precision": ratio(total[..., 4], total[..., 2]),
        }


def make_tally(name: str) -> Tally:
    """The tally that scores a domain."""
    special: Mapping[str, type[Tally]] = {
        "depth": DepthTally,
        "normal": NormalTally,
        "segmentation": SegmentationTally,
        "openpose": PoseTally,
    }
    if name in special:
        return special[name]()
    return LineTally(name) if find_domain(name).kind == "gray" else ColorTally(name)


def count_edges(strength: Tensor, truth: Tensor) -> np.ndarray:
    """Statistics of edge maps against true edge pixels: two (B, H, W) -> rows for `score_edges`."""
    tolerance = edges.find_tolerance(*truth.shape[-2:])
    rows = []
    for own, true in zip(strength.cpu().numpy(), truth.cpu().numpy(), strict=True):
        present, matched = edges.count_matches(own, true, tolerance)
        best = int(edges.f_measure(matched, present, true.sum()).argmax())
        rows.append([true.sum(), present[best], matched[best], *present, *matched])
    return np.array(rows, dtype=np.float64)


def score_edges(total: np.ndarray) -> Values:
    """ODS and OIS F from summed `count_edges`."""
    true, sweep = total[..., :1], total[..., 3:]
    half = sweep.shape[-1] // 2
    curve = edges.f_measure(sweep[..., half:], sweep[..., :half], true)
    ois = edges.f_measure(total[..., 2], total[..., 1], total[..., 0])
    return {"f": curve.max(axis=-1), "ois": ois}


def _rows(*columns: Tensor) -> np.ndarray:
    """Columns of per-image numbers side by side; an image without a value contributes nothing."""
    return torch.stack([c.double() for c in columns], dim=1).nan_to_num(nan=0.0).cpu().numpy()


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)
