"""Joints read back from an OpenPose picture by their colours.

Every keypoint has its own colour, drawn as a bright dot; limbs share those colours at 0.6 of the
brightness. Hue tells which joint it is; brightness, and limbs of the right hues that end there,
tell a joint from a stretch of limb. The constants were chosen on training scenes: drawn exactly,
blurred, noisy, and after an autoencoder's round trip.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ...kit.pictures.palettes import OPENPOSE_COLORS, OPENPOSE_LIMBS

MIN_PEAK = 0.4
"""Smallest score of a joint; 1 is the brightest of its picture with a limb of the right hue."""

KEEP = 0.8
"""Joints of one kind scoring below this share of the best one are taken for stretches of limb."""

REFERENCE_PIXELS, MIN_REFERENCE = 12, 0.4
"""Scores are relative to the mean of the brightest pixels of a picture, so that a soft drawing is
read as well as a crisp drawing; the mean counts as at least this, so that a black picture has no
joints."""

HUE_SIGMA = 0.25
"""Spread of hues, in units of the brightest channel; neighbouring colours are 1/3 apart."""

DRAWN_SIZE = 64.0
"""Shorter side in pixels at which a dot is drawn with a radius of 0.8 pixels; it grows with it."""


def read_joints(picture: Tensor) -> list[list[np.ndarray]]:
    """Places where a joint of each kind is drawn.

    A joint is a local maximum of the score of its kind, at least `MIN_PEAK` and at least `KEEP` of
    the best of its kind; its place is the centre of the score around that pixel.

    Shapes: (B, 3, H, W) in [0, 1] -> for each picture 18 arrays (N, 3) of x, y in pixels (the
    centre of the first pixel is 0, 0) and score, the best first.
    """
    scale = min(picture.shape[-2:]) / DRAWN_SIZE
    score = score_joints(picture.float().cpu(), scale)
    reach = max(1, round(2 * scale))
    highest = _highest_near(score, reach)
    enough = (KEEP * score.amax(dim=(2, 3), keepdim=True)).clamp(min=MIN_PEAK)
    peaks = (score == highest) & (score >= enough)
    score, peaks = score.numpy(), peaks.numpy()
    return [
        [_places(score[b, k], peaks[b, k], reach) for k in range(len(OPENPOSE_COLORS))]
        for b in range(len(picture))
    ]


def score_joints(picture: Tensor, scale: float) -> Tensor:
    """How much each pixel looks like each joint: (B, 3, H, W) -> (B, 18, H, W).

    scale: of the drawing, 1 where a dot has a radius of 0.8 pixels.
    """
    bright, dark = picture.amax(dim=1, keepdim=True), picture.amin(dim=1, keepdim=True)
    # Every colour of the drawing is pure, so what is grey in a pixel was added by a decoder: the
    # hue is read without it, and it only counts as less certain.
    chroma = bright - dark
    hue = (picture - dark) / chroma.clamp(min=1e-3)
    bright = bright * (chroma / bright.clamp(min=1e-3)).clamp(0, 1).sqrt()
    colors = picture.new_tensor(OPENPOSE_COLORS).div(255)
    distance = torch.stack([(hue - c.view(1, 3, 1, 1)).square().sum(1) for c in colors], dim=1)
    score = _smooth(bright * torch.exp(-0.5 * distance / HUE_SIGMA**2), 0.5 * scale)
    count = max(1, round(REFERENCE_PIXELS * scale * scale))
    top = _smooth(bright, 0.5 * scale).flatten(1).topk(min(count, bright[0].numel()), dim=1)
    score = score / top.values.mean(dim=1).clamp(min=MIN_REFERENCE).view(-1, 1, 1, 1)
    reach = max(1, round(2 * scale))
    near = _highest_near(score, reach)
    ends = picture.new_zeros(len(colors), len(colors))
    for limb, joints in enumerate(OPENPOSE_LIMBS):
        ends[list(joints), limb] = 1
    # A limb at 0.6 of the brightness, smoothed, reaches about 0.35.
    limbs = (torch.einsum("jl,blhw->bjhw", ends, near) / 0.35).clamp(max=1)
    return score * (0.5 + 0.5 * limbs)


def _highest_near(x: Tensor, reach: int) -> Tensor:
    """The largest value within `reach` pixels along each axis; one axis at a time is cheaper."""
    x = torch.nn.functional.max_pool2d(x, (1, 2 * reach + 1), 1, (0, reach))
    return torch.nn.functional.max_pool2d(x, (2 * reach + 1, 1), 1, (reach, 0))


def _smooth(x: Tensor, sigma: float) -> Tensor:
    radius = max(1, math.ceil(2.5 * sigma))
    taps = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (taps / sigma).square())
    groups = x.shape[1]
    kernel = (kernel / kernel.sum()).expand(groups, 1, -1)
    x = torch.nn.functional.conv2d(x, kernel.unsqueeze(2), padding=(0, radius), groups=groups)
    return torch.nn.functional.conv2d(x, kernel.unsqueeze(3), padding=(radius, 0), groups=groups)


def _places(score: np.ndarray, peaks: np.ndarray, reach: int) -> np.ndarray:
    places = []
    for y, x in np.argwhere(peaks).tolist():
        top, left = max(0, y - reach), max(0, x - reach)
        # Squared, so that a faint tail of a limb does not pull the centre along it.
        window = np.square(score[top : y + reach + 1, left : x + reach + 1], dtype=np.float64)
        total = window.sum()
        cy = top + (window.sum(1) @ np.arange(window.shape[0])) / total
        cx = left + (window.sum(0) @ np.arange(window.shape[1])) / total
        places.append((cx, cy, float(score[y, x])))
    places.sort(key=lambda place: -place[2])
    return np.array(places, dtype=np.float64).reshape(-1, 3)
