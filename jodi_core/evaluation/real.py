"""Scores of maps on real pictures: what is aligned how stands in every key.

Keys are "<data set>.<alignment>.<metric>":
    nyuv2.disparity_affine.absrel   scale and shift fitted to 1/depth, as for Jodi's disparities
    nyuv2.depth_affine.absrel       the map turned to depth (1 - map), scale and shift fitted there
    nyuv2.unaligned.mean_deg        normals, pooled over all valid pixels
    bsds.unaligned.ods, .ois        edges, annotators' counts summed
    ade20k.unaligned.miou           of Jodi's 11 named classes; IoU of each beside it
with ".ci95.low" and ".ci95.high" by bootstrap over pictures.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...kit.errors import ImageError, JodiError
from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..domains import find_domain
from ..labels.normals import convert_normals
from ..labels.segmentation import find_classes
from . import edges, metrics
from .datasets import PROTOCOLS, RealSample, list_samples, load_sample
from .scores import ratio

Infer = Callable[[Tensor, tuple[str, ...]], dict[str, Tensor]]
"""Picture (1, 3, H, W) in [0, 1] and the labels wanted -> maps (3, H, W) or (H, W) in [0, 1], drawn
as Jodi draws them."""

RESAMPLES = 1000
DELTAS = (1, 2, 3)
TOLERANCE = 0.0075  # of the diagonal


def evaluate_folder(
    folder: str | Path,
    data_set: str,
    infer: Infer,
    *,
    resamples: int = RESAMPLES,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, float | int | None], list[tuple[str, dict[str, float]]]]:
    """Score maps on a data set's folder.

    infer: makes the maps of one picture; maps of another size are resized to the picture's (class
    maps to the nearest pixel). limit: the first pictures only.
    Returns: flat values by key, and for each picture its name and its own scores by key, for
    finding the best and the worst.
    Raises: JodiError for an unknown data set or a folder of another layout; ImageError for files
    that cannot be read and for maps of no known shape.
    """
    if data_set not in PROTOCOLS:
        raise JodiError(f"there is no protocol {data_set!r}; use {', '.join(PROTOCOLS)}")
    protocol, folder = PROTOCOLS[data_set], Path(folder)
    names = list_samples(folder, protocol)[:limit]
    tallies: dict[str, list[np.ndarray]] = {}
    each: list[tuple[str, dict[str, float]]] = []
    for done, name in enumerate(names, 1):
        sample = load_sample(folder, name, protocol)
        wanted = tuple(label for label in protocol.labels if label in sample.truth)
        maps = infer(sample.image, wanted)
        own: dict[str, float] = {}
        for label in wanted:
            if label not in maps:
                raise JodiError(f"no map of {label} was made for {name}; return one for each label")
            drawn = fit_map(maps[label], sample.image.shape[-2:], label)
            count, summarise = _MEASURES[label]
            for key, row in count(drawn, sample, protocol.depth_range).items():
                tallies.setdefault(key, []).append(row)
                own |= {
                    _key(data_set, key, measure): float(value)
                    for measure, value in summarise(row).items()
                    if np.isfinite(value)
                }
        each.append((name, own))
        if progress:
            progress(done, len(names))
    values: dict[str, float | int | None] = {f"{data_set}.pictures": len(names)}
    for key, rows in tallies.items():
        _, summarise = _MEASURES[key.partition(".")[2]]
        values |= {
            _key(data_set, key, measure): value
            for measure, value in _summarise(np.stack(rows), summarise, resamples).items()
        }
    return dict(sorted(values.items())), each


def _key(data_set: str, key: str, measure: str) -> str:
    """`<data set>.<alignment>.<metric>`; `key` is "<alignment>.<label>"."""
    return f"{data_set}.{key.partition('.')[0]}.{measure}"


def _summarise(rows: np.ndarray, summarise, resamples: int) -> dict[str, float | None]:
    """Measures of the summed rows, and their 95 % intervals by resampling the pictures."""
    values = {name: _plain(v) for name, v in summarise(rows.sum(0)).items()}
    if resamples and len(rows) > 1:
        share = np.full(len(rows), 1 / len(rows))
        draws = np.random.default_rng(0).multinomial(len(rows), share, size=resamples)
        for name, spread in summarise(draws @ rows).items():
            finite = spread[np.isfinite(spread)]
            if len(finite):
                low, high = np.percentile(finite, (2.5, 97.5))
                values |= {f"{name}.ci95.low": _plain(low), f"{name}.ci95.high": _plain(high)}
    return values


def _plain(value) -> float | None:
    value = float(value)
    return round(value, 6) if math.isfinite(value) else None


def fit_map(drawn: Tensor, size: tuple[int, ...], label: str) -> Tensor:
    """A map as (3, H, W) float32 of the picture's size. Raises: ImageError for another shape."""
    drawn = torch.as_tensor(drawn).detach().float().cpu()
    if drawn.dim() == 4 and len(drawn) == 1:
        drawn = drawn[0]
    if drawn.dim() == 2:
        drawn = drawn[None]
    if drawn.dim() != 3 or len(drawn) not in (1, 3) or 0 in drawn.shape:
        raise ImageError(
            f"the map of {label} must be (3, H, W) or (H, W) in [0, 1], got {tuple(drawn.shape)}"
        )
    if not torch.isfinite(drawn).all():
        raise ImageError(f"the map of {label} holds values that are not finite")
    drawn = drawn.expand(3, -1, -1)
    if tuple(drawn.shape[-2:]) == tuple(size):
        return drawn
    if find_domain(label).kind == "palette":
        return F.interpolate(drawn[None], tuple(size), mode="nearest-exact")[0]
    return F.interpolate(drawn[None], tuple(size), mode="bilinear", antialias=True)[0]


def align_depth(prediction: Tensor, depth: Tensor, valid: Tensor, bounds) -> Tensor:
    """Depth (H, W) from a depth-like map by least squares on depth, clipped to `bounds`.

    Source: github prs-eth/Marigold, src/util/alignment.py (align_depth_least_square).
    """
    p, d = prediction.double(), depth.double()
    if int(valid.sum()) < 2:
        return torch.full_like(d, bounds[1])
    known = p[valid]
    spread = (known - known.mean()).square().sum()
    scale = 0.0
    if spread > 1e-12 * len(known):
        scale = ((known - known.mean()) * (d[valid] - d[valid].mean())).sum() / spread
    return (scale * (p - known.mean()) + d[valid].mean()).clamp(*bounds)


def _depth_rows(drawn: Tensor, sample: RealSample, bounds) -> dict[str, np.ndarray]:
    truth, valid = sample.truth["depth"], sample.valid["depth"]
    near = drawn.mean(0)  # near is bright, as Jodi draws depth
    disparity = metrics.align_disparity(near[None], truth[None], valid[None], bounds)[0]
    depth = align_depth(1 - near, truth, valid, bounds)
    return {
        "disparity_affine.depth": _depth_row(disparity, truth, valid),
        "depth_affine.depth": _depth_row(depth, truth, valid),
    }


def _depth_row(made: Tensor, truth: Tensor, valid: Tensor) -> np.ndarray:
    """absrel, delta1..3, rmse of one picture, and 1; zeros for one without a valid pixel."""
    if not valid.any():
        return np.zeros(len(DELTAS) + 3)
    p, d = made[valid], truth[valid]
    worse = torch.maximum(p / d, d / p)
    deltas = [float((worse < 1.25**k).double().mean()) for k in DELTAS]
    absrel = float(((p - d).abs() / d).mean())
    return np.array([absrel, *deltas, float((p - d).square().mean().sqrt()), 1.0])


def _depth_values(total: np.ndarray) -> dict[str, np.ndarray]:
    names = ("absrel", *(f"delta{k}" for k in DELTAS), "rmse")
    return {name: ratio(total[..., i], total[..., -1]) for i, name in enumerate(names)}


def _normal_rows(drawn: Tensor, sample: RealSample, bounds) -> dict[str, np.ndarray]:
    made = convert_normals(drawn[None], "jodi", "opengl") * 2 - 1
    valid = sample.valid["normal"]
    angles = metrics.angular_errors(made, sample.truth["normal"][None])[0][valid]
    below = [float((angles < limit).sum()) for limit in metrics.NORMAL_THRESHOLDS]
    return {"unaligned.normal": np.array([float(angles.sum()), float(len(angles)), *below])}


def _normal_values(total: np.ndarray) -> dict[str, np.ndarray]:
    values = {"mean_deg": ratio(total[..., 0], total[..., 1])}
    for i, limit in enumerate(metrics.NORMAL_THRESHOLDS):
        values[f"within_{limit:g}".replace(".", "_")] = ratio(total[..., 2 + i], total[..., 1])
    return values


def _edge_rows(drawn: Tensor, sample: RealSample, bounds) -> dict[str, np.ndarray]:
    """Counts at each threshold: predicted pixels, those that an edge of any annotator explains, and
    annotators' edge pixels that are found, summed over annotators."""
    truth = sample.truth["edge"].numpy()
    tolerance = TOLERANCE * math.hypot(*truth.shape[-2:])
    strength = edges.thin(drawn.mean(0)[None])[0].numpy()
    present, explained, found = np.zeros(1), np.zeros(1, dtype=np.int64), np.zeros(1)
    for annotator in truth:
        # Predicted pixels come in one order for every annotator, so that answers can be joined.
        present, hits = edges.match_strongest_first(strength, annotator, tolerance)
        explained = hits | explained
        found = found + edges.count_first(hits, present)
    row = np.concatenate([[truth.sum()], present, edges.count_first(explained, present), found])
    best = int(_edge_f(row).argmax())
    own = row.reshape(1, -1)[0][[0, *(1 + best + i * len(edges.THRESHOLDS) for i in range(3))]]
    return {"unaligned.edge": np.concatenate([row, own])}


def _edge_values(total: np.ndarray) -> dict[str, np.ndarray]:
    """ODS: the best F at one threshold for all pictures; OIS: each picture at its own best."""
    return {"ods": _edge_f(total[..., :-4]).max(axis=-1), "ois": _edge_f(total[..., -4:])[..., 0]}


def _edge_f(total: np.ndarray) -> np.ndarray:
    """F of [true, predicted.., explained.., found..], a value for each threshold."""
    count = (total.shape[-1] - 1) // 3
    true, predicted, explained, found = np.split(total, [1, 1 + count, 1 + 2 * count], axis=-1)
    precision = np.nan_to_num(ratio(explained, predicted))
    recall = np.nan_to_num(ratio(found, np.broadcast_to(true, found.shape)))
    return np.nan_to_num(ratio(2 * precision * recall, precision + recall))


def _class_rows(drawn: Tensor, sample: RealSample, bounds) -> dict[str, np.ndarray]:
    made = find_classes(drawn[None] * 2 - 1)[0]
    valid = sample.valid["segmentation"]
    pairs = made[valid][None, None], sample.truth["segmentation"][valid][None, None]
    matrix = metrics.confusion(*pairs, len(SEGMENTATION_CLASSES))
    return {"unaligned.segmentation": matrix.flatten().double().numpy()}


def _class_values(total: np.ndarray) -> dict[str, np.ndarray]:
    count = len(SEGMENTATION_CLASSES)
    matrix = torch.from_numpy(np.asarray(total, dtype=np.float64)).unflatten(-1, (count, count))
    iou = metrics.intersection_over_union(matrix)
    values = {"miou": iou[..., 1:].nanmean(dim=-1).numpy()}
    for i, name in enumerate(SEGMENTATION_CLASSES[1:], start=1):
        values[f"iou.{name}"] = iou[..., i].numpy()
    return values


_MEASURES: dict[str, tuple[Callable, Callable]] = {
    "depth": (_depth_rows, _depth_values),
    "normal": (_normal_rows, _normal_values),
    "edge": (_edge_rows, _edge_values),
    "segmentation": (_class_rows, _class_values),
}
