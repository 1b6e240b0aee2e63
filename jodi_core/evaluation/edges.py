"""Edge maps: thinning, one-to-one matching within a few pixels, F over a sweep of thresholds.

The protocol of the BSDS benchmark (Martin et al. 2004; Dollar and Zitnick 2015, github
pdollar/edges; E.g. Walstruzz/edge_eval_python) with its own parts: non-maximum suppression from
the Hessian, and an exact maximum matching instead of the approximate assignment of the original.
"""

import math
from collections import deque

import numpy as np
import torch
from torch import Tensor

THRESHOLDS = np.arange(1, 100) / 100.0
"""Strengths at which a predicted map is cut; a pixel is an edge when it is at least that strong."""

TRUTH_THRESHOLD = 0.5
MIN_TOLERANCE = 1.5
"""Pixels: an edge may lie on any of the eight neighbours. The benchmark's own tolerance, 0.0075 of
the diagonal, is 0.68 px at 64 x 64, less than the width of a line; it takes over from 142 px."""

BLUR = 0.75
"""Sigma in pixels of the blur before the Hessian: lines two pixels apart stay two lines."""

MIN_CURVATURE = 0.02
"""Least curvature across a line, relative to its height: a band wider than five pixels has none."""


def find_tolerance(height: int, width: int) -> float:
    """Distance in pixels within which an edge pixel counts as found."""
    return max(MIN_TOLERANCE, 0.0075 * math.hypot(height, width))


def thin(strength: Tensor) -> Tensor:
    """The map on its ridges, zero elsewhere: non-maximum suppression across each line.

    The direction across a line is the eigenvector of the Hessian with the most negative
    eigenvalue; a pixel stays when the blurred map there is above one neighbour a pixel away
    across the line and not below the other. Of two equal neighbours one stays, and of the steps
    of a diagonal the inner corners go. Outside the picture there are no edges. A flat area has no
    ridge.

    Shapes: (B, H, W) in [0, 1] -> (B, H, W) float32 with the kept values unchanged.
    """
    blurred = _gaussian(strength.float())
    padded = torch.nn.functional.pad(blurred, (1, 1, 1, 1))
    middle = padded[:, 1:-1, 1:-1]
    xx = padded[:, 1:-1, 2:] - 2 * middle + padded[:, 1:-1, :-2]
    yy = padded[:, 2:, 1:-1] - 2 * middle + padded[:, :-2, 1:-1]
    xy = (padded[:, 2:, 2:] + padded[:, :-2, :-2] - padded[:, 2:, :-2] - padded[:, :-2, 2:]) / 4
    across = 0.5 * torch.atan2(2 * xy, xx - yy) + math.pi / 2
    dx, dy = torch.cos(across), torch.sin(across)
    # An axis has two directions. One is chosen by a half-plane whose border no common line
    # follows, or rounding would choose and ties would break either way along one line.
    turn = torch.where(dx + 1.5574 * dy < 0, -1.0, 1.0)
    dx, dy = dx * turn, dy * turn
    before, after = _sample(blurred, -dx, -dy), _sample(blurred, dx, dy)
    # Rounding must not decide between equals, so a difference below 1e-5 counts as none.
    ridge = (blurred > before + 1e-5) & (blurred > after - 1e-5)
    curvature = (xx + yy) / 2 - ((xx - yy).square() / 4 + xy.square()).sqrt()
    ridge &= curvature < -MIN_CURVATURE * blurred
    return torch.where(_without_corners(ridge), strength.float(), 0.0)


def sobel(picture: Tensor) -> Tensor:
    """Gradient magnitude of the luminance, scaled to a maximum of 1 per picture.

    The classical detector, as a yardstick for learned edges.
    Shapes: (B, 3, H, W) in [0, 1] -> (B, H, W).
    """
    weights = picture.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = torch.nn.functional.pad((picture * weights).sum(1, keepdim=True), (1,) * 4, "replicate")
    kernel = picture.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    both = torch.stack([kernel, kernel.T]).unsqueeze(1)
    magnitude = torch.nn.functional.conv2d(grey, both).square().sum(1).sqrt()
    return magnitude / magnitude.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def find_class_borders(index: Tensor) -> Tensor:
    """Pixels whose right or lower neighbour has another class: (B, H, W) indices -> bool."""
    index = index.long()
    border = torch.zeros_like(index, dtype=torch.bool)
    border[:, :, :-1] |= index[:, :, :-1] != index[:, :, 1:]
    border[:, :-1] |= index[:, :-1] != index[:, 1:]
    return border


def count_matches(
    strength: np.ndarray, truth: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each of `THRESHOLDS`: how many predicted edge pixels there are, and how many find a
    true edge pixel of their own within `tolerance`.

    The matching has the largest possible size at every threshold. Predicted pixels are added from
    the strongest to the weakest, each by an augmenting path (Kuhn 1955): the number of successes
    among the first k is the size of a maximum matching of those k, so one pass serves the whole
    sweep. True pixels that a failed search visited can never be freed again and are left out of
    later searches, which keeps the pass near linear.

    Shapes: strength (H, W) already thin, truth (H, W) bool -> two (99,) int64.
    """
    present, hits = match_strongest_first(strength, truth, tolerance)
    return present, count_first(hits, present)


def match_strongest_first(
    strength: np.ndarray, truth: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """How many predicted pixels each threshold has, (99,), and for all of them from the strongest
    to the weakest whether one finds a true pixel of its own, (N,) of 0 and 1. See `count_matches`.
    """
    edges = np.argwhere(strength >= THRESHOLDS[0])
    values = strength[edges[:, 0], edges[:, 1]]
    order = np.argsort(-values, kind="stable")
    present = np.searchsorted(-values[order], -THRESHOLDS.astype(values.dtype), side="right")
    return present, _augment_in_order(edges[order], truth, tolerance)


def count_first(hits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """How many of the first `present` entries of `hits` are 1, for each entry of `present`."""
    return np.concatenate([[0], np.cumsum(hits)])[present]


def f_measure(matched: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """2PR / (P + R) with P = matched / predicted, R = matched / true; 0 where nothing matches."""
    matched = np.asarray(matched, dtype=np.float64)
    # Algebraically the same, and defined when either side is empty.
    return 2 * matched / np.maximum(np.asarray(predicted) + np.asarray(true), 1)


def _augment_in_order(edges: np.ndarray, truth: np.ndarray, tolerance: float) -> np.ndarray:
    """1 for each edge pixel whose search for a true pixel succeeds, in the order given."""
    reach = math.floor(tolerance)
    steps = [
        (dy * dy + dx * dx, dy, dx)
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
        if dy * dy + dx * dx <= tolerance * tolerance
    ]
    stride = truth.shape[1] + 2 * reach
    # A margin of False lets every step be one addition to a flat index.
    open_truth = np.pad(truth, reach).ravel().tolist()
    offsets = [dy * stride + dx for _, dy, dx in sorted(steps)]
    starts = ((edges[:, 0] + reach) * stride + edges[:, 1] + reach).tolist()
    owner: dict[int, int] = {}
    place_of: dict[int, int] = {}
    hits = np.zeros(len(starts), dtype=np.int64)
    for number, start in enumerate(starts):
        hits[number] = _augment(start, owner, place_of, open_truth, offsets)
    return hits


def _augment(
    start: int,
    owner: dict[int, int],
    place_of: dict[int, int],
    open_truth: list[bool],
    offsets: list[int],
) -> bool:
    """Breadth-first search for a free true pixel; on success the path changes hands.

    `owner` maps true pixels to the edge pixels they are matched with, `place_of` the other way.
    """
    came_from: dict[int, int] = {}
    queue = deque([start])
    while queue:
        edge = queue.popleft()
        for offset in offsets:
            place = edge + offset
            if not open_truth[place] or place in came_from:
                continue
            came_from[place] = edge
            if place in owner:
                queue.append(owner[place])
            else:
                _hand_over(place, came_from, owner, place_of)
                return True
    for place in came_from:
        open_truth[place] = False
    return False


def _hand_over(place: int | None, came_from: dict, owner: dict, place_of: dict):
    """Each edge pixel on the path takes the true pixel it reached and gives up its old one."""
    while place is not None:
        taker = came_from[place]
        owner[place] = taker
        place, place_of[taker] = place_of.get(taker), place


def _without_corners(mask: Tensor) -> Tensor:
    """Drop pixels that only join two diagonal neighbours of a line: one pass per orientation.

    Within one pass no two neighbours can go together, so lines stay connected.
    """
    for turn in range(4):
        mask = torch.rot90(mask, turn, (1, 2))
        around = torch.nn.functional.pad(mask, (1, 1, 1, 1))
        north, south = around[:, :-2, 1:-1], around[:, 2:, 1:-1]
        west, east = around[:, 1:-1, :-2], around[:, 1:-1, 2:]
        southwest = around[:, 2:, :-2]
        mask = mask & ~(north & east & ~south & ~west & ~southwest)
        mask = torch.rot90(mask, -turn, (1, 2))
    return mask


def _gaussian(x: Tensor) -> Tensor:
    taps = torch.arange(-3, 4, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (taps / BLUR).square())
    kernel = kernel / kernel.sum()
    x = torch.nn.functional.conv2d(x.unsqueeze(1), kernel.view(1, 1, 1, -1), padding=(0, 3))
    return torch.nn.functional.conv2d(x, kernel.view(1, 1, -1, 1), padding=(3, 0)).squeeze(1)


def _sample(x: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Bilinear values at each pixel's own place plus (dx, dy); zero outside."""
    height, width = x.shape[-2:]
    ys = torch.arange(height, dtype=x.dtype, device=x.device).view(1, -1, 1) + dy
    xs = torch.arange(width, dtype=x.dtype, device=x.device).view(1, 1, -1) + dx
    grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], dim=-1)
    return torch.nn.functional.grid_sample(x.unsqueeze(1), grid, align_corners=False).squeeze(1)
