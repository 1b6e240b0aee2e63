"""How many joints read from an OpenPose picture are right (PCK)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..labels.joints import read_joints

__all__ = ["JointCounts", "count_joints", "measure_figures", "read_joints"]

PCK_SHARE = 0.1
"""A joint is right within this share of the larger side of its figure's box of visible joints.

Yang and Ramanan 2013 ("Articulated human detection with flexible mixtures of parts"), alpha 0.1.
"""

PCK_SHARE_STRICT = 0.05
MIN_RADIUS = 1.5
"""Pixels: joints of tiny figures need not be nearer than a neighbouring pixel."""


@dataclass(frozen=True)
class JointCounts:
    """Joints of one picture: `true` ones that are visible, `found` of them, `read` from the
    picture, and `confirmed`, how many of those read are a true one."""

    true: int
    found: int
    read: int
    confirmed: int


def count_joints(
    places: list[np.ndarray], keypoints: Tensor, share: float = PCK_SHARE
) -> JointCounts:
    """Compare joints read from one picture with the true ones.

    Joints of one kind are matched one to one, the closest pair first. As in the usual PCK the
    number of figures is given: of each kind only as many joints are taken for `found` as are
    visible, the best first, so that scattering joints everywhere does not help. `confirmed` takes
    all that were read.

    Shapes: places, 18 arrays (N, 2 or more) of x, y, the best first; keypoints (P, 18, 3) x, y,
    visible 0 or 1. PCK is found / true over a set, precision confirmed / read.
    """
    points = keypoints.cpu().double().numpy()
    radii = measure_figures(keypoints.cpu(), share).numpy()
    shown = points[..., 2] > 0.5
    found = confirmed = 0
    for kind, read in enumerate(places):
        true, radius = points[shown[:, kind], kind, :2], radii[shown[:, kind]]
        found += _matches(true, radius, read[: len(true), :2])
        confirmed += _matches(true, radius, read[:, :2])
    return JointCounts(int(shown.sum()), found, sum(len(read) for read in places), confirmed)


def measure_figures(keypoints: Tensor, share: float = PCK_SHARE) -> Tensor:
    """Pixels within which the joints of each figure count as right: (P, 18, 3) -> (P,)."""
    shown = keypoints[..., 2:] > 0.5
    low = torch.where(shown, keypoints[..., :2], math.inf).amin(dim=1)
    high = torch.where(shown, keypoints[..., :2], -math.inf).amax(dim=1)
    return (share * (high - low).amax(dim=1)).clamp(min=MIN_RADIUS).double()


def _matches(true: np.ndarray, radius: np.ndarray, read: np.ndarray) -> int:
    """Pairs within the radius of the true point, the closest first, nothing used twice."""
    if not len(true) or not len(read):
        return 0
    distance = np.linalg.norm(true[:, None] - read[None], axis=2)
    distance[distance > radius[:, None]] = math.inf
    pairs = 0
    while np.isfinite(distance).any():
        row, column = divmod(int(distance.argmin()), distance.shape[1])
        distance[row, :] = distance[:, column] = math.inf
        pairs += 1
    return pairs
