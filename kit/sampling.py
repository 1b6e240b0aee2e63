"""Flow schedules and samplers: one function each, over any denoiser.

A sampler calls `denoise(x, sigma)` once per step and never knows what is behind it. Sigma is the
share of noise: x_sigma = (1 - sigma) * clean + sigma * noise; the network's velocity is
noise - clean, so the clean estimate is x - sigma * velocity.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from .errors import Interrupted, JodiError, ShapeError

Denoise = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class StepInfo:
    """One finished network evaluation.

    step counts from 1 to steps; sigma is the level that was evaluated; x is the sample at that
    level and denoised its clean estimate, both in the shape of the noise.
    """

    step: int
    steps: int
    sigma: float
    x: Tensor
    denoised: Tensor


# Return False to stop; anything else goes on.
StepCallback = Callable[[StepInfo], bool | None]


def make_flow_sigmas(steps: int, shift: float = 3.0, *, start: float = 1.0) -> list[float]:
    """Timestep-shifted linear flow schedule.

    Returns steps + 1 levels, descending, the last exactly 0; the first is 0.99966639 at shift 3.
    start: below 1, the same number of steps over the part of the schedule from that level on
    (partial denoising of an existing picture).
    Raises: JodiError for steps < 1, shift <= 0, or start outside (0, 1].
    Source: Esser et al. 2024 (timestep shifting); github VIPL-GENUN/Jodi @ c21bdcb, flow_shift 3.0
    and dpm_solver.py `time_uniform_flow`, in float32 as there.
    """
    if steps < 1:
        raise JodiError(f"a schedule needs at least 1 step, got {steps}")
    if shift <= 0:
        raise JodiError(f"the flow shift must be positive, got {shift}")
    if not 0 < start <= 1:
        raise JodiError(f"the starting noise level must be in (0, 1], got {start}")
    # The published schedule stops short of pure noise by 0.001 before shifting.
    top = min(0.999, start / (shift - (shift - 1) * start))
    base = 1 - torch.linspace(1.0, 1 - top, steps + 1, dtype=torch.float32)
    sigmas = (shift * base / (1 + (shift - 1) * base)).flip(0)
    return [*(float(s) for s in sigmas[:-1]), 0.0]


def sample_dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], callback: StepCallback | None = None
) -> Tensor:
    """DPM-Solver++ 2M (data prediction, midpoint form) in closed form for flows.

    One evaluation per interval; first order on the first and the last. With lambda the half
    log-SNR, ln((1 - sigma) / sigma), the factor (1 - t)(1 - exp(-h)) is exactly 1 - t/s, so no
    exponential is taken and a last sigma of 0 returns the last estimate itself.
    x: noise at sigmas[0]; the result is in x's dtype and shape.
    Source: Lu et al. 2022, arXiv 2211.01095, algorithm 2; github VIPL-GENUN/Jodi @ c21bdcb.
    """
    steps = len(sigmas) - 1
    previous = None
    for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
        estimate = denoise(x, s)
        _report(callback, i, steps, s, x, estimate)
        direction = estimate
        if previous is not None and i + 1 < steps and t > 0:
            h = _log_snr(t) - _log_snr(s)
            r = (_log_snr(s) - _log_snr(sigmas[i - 1])) / h
            direction = (1 + 1 / (2 * r)) * estimate - (1 / (2 * r)) * previous
        x = (t / s) * x + (1 - t / s) * direction
        previous = estimate
    return x


def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], callback: StepCallback | None = None
) -> Tensor:
    """Euler steps along the velocity; one evaluation per interval.

    Source: Karras et al. 2022, algorithm 2 without churn, in flow form.
    """
    steps = len(sigmas) - 1
    for i, (s, t) in enumerate(itertools.pairwise(sigmas)):
        estimate = denoise(x, s)
        _report(callback, i, steps, s, x, estimate)
        x = (t / s) * x + (1 - t / s) * estimate
    return x


SAMPLERS = {"dpmpp_2m": sample_dpmpp_2m, "euler": sample_euler}


def hold_region(denoise: Denoise, clean: Tensor, noise: Tensor, hold: Tensor) -> Denoise:
    """A denoiser under which a region, or a whole domain, keeps its clean latent.

    At every level the held part enters as its own noised latent and leaves as its clean one, so
    the rest is generated to fit and the held part of the result equals `clean` exactly.
    Shapes: clean and noise as x; hold broadcasts to them, 1 holds, 0 generates, between blends.
    Raises: ShapeError when hold does not broadcast.
    """
    try:
        hold = hold.to(clean).expand(clean.shape)
    except RuntimeError:
        raise ShapeError(
            f"a hold mask {tuple(hold.shape)} does not fit latents {tuple(clean.shape)}; give "
            "(batch or 1, domains or 1, 1, h, w)"
        ) from None

    def held(x: Tensor, sigma: float) -> Tensor:
        x = torch.lerp(x, (1 - sigma) * clean + sigma * noise, hold)
        return torch.lerp(denoise(x, sigma), clean, hold)

    return held


def draw_noise(shape: Sequence[int], seed: int | Sequence[int]) -> Tensor:
    """Standard normal noise (B, ...) float32, drawn on the CPU.

    Row i of seed n is row 0 of seed n + i, so a row is the same in a batch of any size and on any
    device. Seeds are whole numbers of any size. Noise of all domains comes from one call: what is
    wired does not move it.
    """
    batch, *rest = shape
    if isinstance(seed, (int, Integral)):
        seeds = [int(seed) + i for i in range(batch)]
    else:
        seeds = [int(s) for s in seed]
    if len(seeds) != batch:
        raise ShapeError(f"{len(seeds)} seeds were given for a batch of {batch}; give one per row")
    generators = [torch.Generator().manual_seed(fold_seed(s)) for s in seeds]
    return torch.stack([torch.randn(rest, generator=g) for g in generators])


def fold_seed(seed: int) -> int:
    """Any whole number as one of 32 bits, which is all that torch's generator on the CPU reads.

    Small seeds stay as they are; of larger and negative ones every digit counts.
    """
    if 0 <= seed < 2**32:
        return seed
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "little")


def _report(callback, index, steps, sigma, x, estimate):
    if callback and callback(StepInfo(index + 1, steps, sigma, x, estimate)) is False:
        raise Interrupted(f"stopped after step {index + 1} of {steps}")


def _log_snr(sigma: float) -> float:
    # A schedule may start at pure noise; the step after it is then of first order, as the limit is.
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf
