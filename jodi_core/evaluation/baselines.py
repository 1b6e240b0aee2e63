"""Baselines, which do not look at the picture: averages of training scenes, constants, copies of
the input.

A model is worth something as far as it beats these. They are made from scenes of training seeds
only; nothing here sees an evaluation scene beyond what a baseline is allowed to (the input picture,
or for a constant depth the same per-image alignment that every prediction gets).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES, SEGMENTATION_PALETTE
from ...kit.scenes.render import SceneBatch, check_training_seeds, render_scenes
from ..domains import DOMAINS, find_domain
from . import edges
from .scores import LineTally, PoseTally, Tally, make_tally

CHUNK = 32


@dataclass(frozen=True)
class TrainingStatistics:
    """Averages over training scenes of one size.

    scenes: how many; normal (3,) unit; albedo (3,) mean sRGB; majority: the commonest class;
    lines: mean strength (H, W) of each line domain; joints (18, 2): mean place of each joint where
    it is visible, as shares of the width and height.
    """

    scenes: int
    normal: Tensor
    albedo: Tensor
    majority: int
    lines: dict[str, Tensor]
    joints: np.ndarray


def average_training_scenes(size: tuple[int, int], scenes: int = 256) -> TrainingStatistics:
    """Render the first training scenes at (H, W) and average them.

    Raises: JodiError for a count or size that makes no sense.
    """
    seeds = check_training_seeds(0, scenes)
    normal, albedo = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    counts = torch.zeros(len(SEGMENTATION_CLASSES), dtype=torch.int64)
    lines = {d.name: torch.zeros(size) for d in DOMAINS if d.kind == "gray"}
    joints = np.zeros((18, 3))
    for start in range(0, scenes, CHUNK):
        batch = render_scenes(seeds[start : start + CHUNK], size)
        normal += batch.normal.double().permute(0, 2, 3, 1)[batch.valid].sum(dim=0)
        albedo += (
            batch.pictures[:, find_domain("albedo").index].double().mean(dim=(2, 3)).sum(dim=0)
        )
        counts += torch.bincount(batch.classes.flatten().long(), minlength=len(counts))
        for name, total in lines.items():
            total += LineTally(name).strength(batch.pictures[:, find_domain(name).index]).sum(dim=0)
        points = batch.keypoints.double().numpy()
        seen = points[..., 2:]
        # Places are shares of the size: the centre of the first pixel is half a pixel in.
        places = (points[..., :2] + 0.5) / (size[1], size[0])
        joints += np.concatenate([places * seen, seen], axis=-1).sum(axis=(0, 1))
    return TrainingStatistics(
        scenes,
        torch.nn.functional.normalize(normal, dim=0).float(),
        (albedo / scenes).float(),
        int(counts.argmax()),
        {name: total / scenes for name, total in lines.items()},
        joints[:, :2] / np.maximum(joints[:, 2:], 1),
    )


KEYS: dict[str, tuple[str, ...]] = {
    "image": ("mean_color", "albedo_copy"),
    "lineart": ("all_edges", "dots", "mean_map", "sobel"),
    "edge": ("all_edges", "dots", "mean_map", "sobel"),
    "albedo": ("mean_color", "input_copy"),
    "openpose": ("mean_pose",),
}
"""Baselines of a domain that has more to say than one constant map."""

ONLY_TO_COMPARE = ("sobel", "albedo_copy")
"""Reported beside the baseline, never as it: a working detector, a picture that is nearly given."""


class BaselineBoard:
    """Every baseline of one domain, scored like a model."""

    def __init__(self, name: str, statistics: TrainingStatistics):
        self._name, self._statistics = name, statistics
        self._tallies = {key: _tally(name, key) for key in KEYS.get(name, ("constant",))}

    def add(self, truth: SceneBatch) -> None:
        for key, tally in self._tallies.items():
            if isinstance(tally, PoseTally):
                joints = _mean_pose(self._statistics, *truth.depth.shape[-2:])
                tally.add_joints([joints] * len(truth.depth), truth)
            else:
                tally.add(_picture(self._name, key, self._statistics, truth), truth)

    def values(self) -> dict[str, dict[str, float]]:
        """Measures by name of the baseline; the best one also as "baseline"."""
        each = {key: tally.values() for key, tally in self._tallies.items()}
        # Only domains whose measures are better when higher have more than one to choose from.
        measure = make_tally(self._name).headline[0]
        rivals = [key for key in each if key not in ONLY_TO_COMPARE]
        best = max(rivals, key=lambda key: each[key][measure])
        return {"baseline": each[best], **(each if len(each) > 1 else {})}


def _tally(name: str, key: str) -> Tally:
    # Thinning looks for ridges, which a full map or loose dots do not have.
    return LineTally(name, thinned=False) if key in ("all_edges", "dots") else make_tally(name)


def _picture(name: str, key: str, statistics: TrainingStatistics, truth: SceneBatch) -> Tensor:
    """The baseline's picture of a domain, (B, 3, H, W) in [0, 1]."""
    pictures = truth.pictures.cpu()
    image, shape = pictures[:, 0], pictures[:, 0].shape

    def plain(color: Tensor) -> Tensor:
        return color.view(1, 3, 1, 1).expand(shape)

    if name == "image":
        mean = image.mean(dim=(2, 3), keepdim=True).expand(shape)
        return mean if key == "mean_color" else pictures[:, find_domain("albedo").index]
    if name == "albedo":
        return plain(statistics.albedo) if key == "mean_color" else image
    if name == "normal":
        return plain((statistics.normal + 1) / 2)
    if name == "segmentation":
        return plain(torch.tensor(SEGMENTATION_PALETTE[statistics.majority]) / 255)
    if name == "depth":
        return torch.full(shape, 0.5)
    strength = torch.zeros(len(image), *shape[-2:])
    if key == "all_edges":
        strength[:] = 1
    elif key == "dots":
        strength[:, ::2, ::2] = 1
    elif key == "mean_map":
        strength[:] = statistics.lines[name]
    else:
        strength = edges.sobel(image)
    strength = strength.unsqueeze(1).expand(shape)
    return 1 - strength if name == "lineart" else strength


def _mean_pose(statistics: TrainingStatistics, height: int, width: int) -> list[np.ndarray]:
    places = statistics.joints * (width, height) - 0.5
    return [place.reshape(1, 2) for place in places]
