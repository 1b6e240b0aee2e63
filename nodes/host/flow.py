"""What a MODEL's sampling object means for a flow model: the time of the network, and the shift.

Nodes such as ModelSamplingFlux exchange this object. Its own `timestep` is made for the networks
of other models, so the time is read from what the sampling does to noise and picture.
"""

import torch
from torch import Tensor

from ...kit.errors import JodiError

NEAR = 1e-3
_SHARES = (0.25, 0.5, 0.75)


def find_noise_share(sampling, sigma: Tensor) -> Tensor:
    """The share of noise in what the network is given at sigma (B,): float32 (B,), in 0..1."""
    noise = torch.ones(len(sigma), 1, device=sigma.device)
    mixed = sampling.noise_scaling(sigma, noise, torch.zeros_like(noise))
    return sampling.calculate_input(sigma, mixed)[:, 0].float()


def check_flow(sampling, name: str = "Jodi") -> None:
    """Pass when this sampling mixes noise and picture as flow models are trained: t and 1 - t.

    name: of the model, for the message.

    Raises: JodiError that names what came and what to use instead.
    """
    if not _is_flow(sampling):
        raise JodiError(
            f"the MODEL's sampling was exchanged for one that {name} cannot follow "
            f"({_kind(sampling)}): {name} mixes noise and picture as flow models do. Take the node "
            "that did this (a ModelSampling node) away from the MODEL; to change the flow shift, "
            "use ModelSamplingSD3"
        )


def find_flow_shift(sampling) -> float:
    """The timestep shift of a sampling whose levels are the share of noise itself.

    Raises: JodiError for another one, which the published schedule does not fit.
    """
    check_flow(sampling)
    levels = torch.tensor(_SHARES)
    plain = all(
        (find_noise_share(sampling, level[None]) - level).abs().item() < NEAR for level in levels
    )
    middle = float(sampling.percent_to_sigma(0.5))
    shift = middle / (1 - middle) if plain and 0 < middle < 1 else 0.0
    wanted = shift * levels / (1 + (shift - 1) * levels)
    found = torch.tensor([float(sampling.percent_to_sigma(1 - s)) for s in _SHARES])
    if not shift or (found - wanted).abs().max() > NEAR:
        raise JodiError(
            f"the MODEL's sampling ({_kind(sampling)}) has levels of its own, which Jodi's "
            "schedule does not fit; use KSampler with it, or take the ModelSampling node away from "
            "the MODEL"
        )
    stated = getattr(sampling, "shift", shift)  # some samplings mean its logarithm
    return float(stated) if abs(stated - shift) <= NEAR * shift else shift


def _is_flow(sampling) -> bool:
    noise, picture = torch.tensor([[1.0, 0.0, 0.7]]), torch.tensor([[0.0, 1.0, -0.4]])
    try:
        lowest, highest = float(sampling.sigma_min), float(sampling.sigma_max)
        for part in (*_SHARES, 1.0):
            sigma = torch.tensor([lowest + part * (highest - lowest)])
            mixed = sampling.noise_scaling(sigma, noise.clone(), picture)
            seen = sampling.calculate_input(sigma, mixed)
            share = find_noise_share(sampling, sigma)
            clean = sampling.calculate_denoised(sigma, noise - picture, mixed)
            fits = (
                0 <= share.item() <= 1 + NEAR,
                torch.allclose(seen, share * noise + (1 - share) * picture, atol=NEAR),
                torch.allclose(clean, picture, atol=NEAR),
            )
            if not all(fits):
                return False
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False  # not what the host calls a sampling
    return True


def _kind(sampling) -> str:
    names = [cls.__name__ for cls in type(sampling).__mro__ if cls.__module__.startswith("comfy.")]
    return " with ".join(names[:2]) or type(sampling).__name__
