"""Several samples of one label into one, and where they disagree.

Each kind is averaged in its own way: depth knows no scale or offset, normals have unit length,
classes cannot be mixed. Shapes: N samples, H W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kit.pictures.palettes import SEGMENTATION_CLASSES
from ..domains import Domain, find_domain
from .checks import check_picture
from .depth import FLAT_SPAN
from .normals import find_normals, make_normal_map, read_normals
from .segmentation import colorize, find_classes

BLOCK = 1 << 22
"""Values (samples x pixels) worked on at a time in double precision: about 32 MB."""


@dataclass(frozen=True)
class Ensemble:
    """picture (3, H, W) and uncertainty (H, W), float32 in [0, 1]; 0 where all samples agree."""

    picture: Tensor
    uncertainty: Tensor


def combine(of: str | int | Domain, samples: Tensor) -> Ensemble:
    """The consensus of samples (N, 3, H, W) in [0, 1] of one domain, as a picture of that domain.

    depth: aligned to each other by scale and offset, averaged, stretched to [0, 1]; uncertainty is
    the standard deviation in that range. normal: mean direction; uncertainty is 1 - length of the
    mean of the unit vectors. palette: majority vote, the lower class number winning a tie;
    uncertainty is the share of samples outvoted. pose: median; all others: mean; uncertainty is
    the standard deviation, averaged over colours.
    Raises: ImageError for samples that are no pictures, JodiError for an unknown domain.
    """
    kind = (of if isinstance(of, Domain) else find_domain(of)).kind
    samples = check_picture(samples, "samples")
    if kind == "depth":
        return _depth(samples.mean(dim=1))
    if kind == "normal":
        return _normals(samples)
    if kind == "palette":
        return _votes(samples)
    center = samples.median(dim=0).values if kind == "pose" else samples.mean(dim=0)
    if kind == "gray":
        center = center.mean(dim=0, keepdim=True).expand(3, -1, -1).contiguous()
    return Ensemble(center, samples.std(dim=0, correction=0).mean(dim=0).clamp(0, 1))


def align_affine(maps: Tensor) -> Tensor:
    """Maps that agree up to scale and offset, brought to one scale and offset.

    Shapes: (N, H, W) -> (N, H, W) float32, about zero mean. Each map is centred and fitted by
    least squares to the consensus r, which is the first principal component of the maps at unit
    length. A map with a negative correlation to r is left out of r and becomes flat, so that it
    counts as disagreeing; a flat map stays flat. The consensus has standard deviation 1.
    """
    flat = maps.to(torch.float32).flatten(1)
    # brightness is of order 1, so float32 is exact enough once the mean is gone
    centred = flat - flat.mean(dim=1, keepdim=True)
    # The few numbers of the fit are double, on the CPU: some devices have no such numbers.
    length = torch.linalg.vector_norm(centred, dim=1).cpu().double()
    known = length > FLAT_SPAN * flat.shape[1] ** 0.5
    unit = torch.where(known, 1 / length.clamp_min(1e-300), 0.0)
    agreement = _agreement(_gram(centred) * unit[:, None] * unit[None, :])
    # |r| = 1 there; times sqrt(pixels) gives it standard deviation 1
    scale = (agreement * unit * flat.shape[1] ** 0.5).float().to(maps.device)
    return (centred * scale[:, None]).view(maps.shape)


def _agreement(gram: Tensor) -> Tensor:
    """Correlation of each map with the consensus of those that agree; 0 for the others.

    gram: (N, N) correlations of the maps among themselves.
    """
    agrees = torch.ones(len(gram), dtype=gram.dtype, device=gram.device)
    while True:
        part = gram * agrees[:, None] * agrees[None, :]
        weights = torch.linalg.eigh(part).eigenvectors[:, -1]
        agreement = part @ weights
        if agreement.sum() < 0:  # an eigenvector has no sign; most maps are right
            weights, agreement = -weights, -agreement
        if (agreement >= 0).all():
            return agreement / (weights @ agreement).clamp_min(1e-300).sqrt()
        agrees = agrees * (agreement >= 0)


def _gram(rows: Tensor) -> Tensor:
    """rows @ rows.T in double precision on the CPU, a block of columns at a time."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for block in rows.split(max(1, BLOCK // len(rows)), dim=1):
        block = block.cpu().double()
        total += block @ block.T
    return total


def _depth(maps: Tensor) -> Ensemble:
    aligned = align_affine(maps)
    mean = aligned.mean(dim=0)
    low, high = mean.min(), mean.max()
    if float(high - low) <= FLAT_SPAN:
        flat = torch.zeros_like(mean)
        return Ensemble(flat.expand(3, -1, -1).contiguous(), flat)
    picture = ((mean - low) / (high - low)).expand(3, -1, -1).contiguous()
    spread = aligned.std(dim=0, correction=0) / (high - low)
    return Ensemble(picture, spread.clamp(0, 1))


def _normals(samples: Tensor) -> Ensemble:
    mean = torch.zeros_like(samples[:1])
    for sample in samples.split(1):
        mean += find_normals(read_normals(sample, "model") * 2 - 1)
    mean /= len(samples)
    length = torch.linalg.vector_norm(mean[0], dim=0)
    return Ensemble(make_normal_map(mean)[0], (1 - length).clamp(0, 1))


def _votes(samples: Tensor) -> Ensemble:
    index = find_classes(samples * 2 - 1)
    winner, most = torch.zeros_like(index[0]), torch.zeros_like(index[0], dtype=torch.int32)
    for number in range(len(SEGMENTATION_CLASSES)):
        votes = (index == number).sum(dim=0, dtype=torch.int32)
        winner = torch.where(votes > most, number, winner).to(torch.uint8)
        most = torch.maximum(votes, most)
    return Ensemble(colorize(winner[None])[0], 1 - most / len(samples))
