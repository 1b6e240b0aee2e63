"""When each masked place is revealed.

The published sampler decides at every step, for every masked place, whether it is revealed: with
probability (t - s) / t between the times t and s, independent of the network's output. So the step
of each place can be drawn beforehand, and the network need only run at steps that reveal something.
"""

import itertools

import torch
from torch import Tensor

from ...kit.errors import JodiError

# The published grid of times ends here, so this share of places outlives its last step.
LAST_TIME = 1e-5


def draw_reveal_steps(uniforms: Tensor, steps: int) -> Tensor:
    """Uniform numbers in [0, 1), any shape -> the step, 0 to steps - 1, of each place.

    Every step has the probability (1 - 1e-5) / steps. The rest is `steps` itself: places that the
    published sampler has left after its last step and fills with the likeliest token.
    Raises: JodiError for steps < 1.
    Source: github zijieli-Jlee/Dual-Diffusion @ bbf06bf, dual_diff_pipeline.py, `ddpm_cache`.
    """
    if steps < 1:
        raise JodiError(f"text needs at least 1 step, got {steps}")
    share = (1 - LAST_TIME) / steps
    left = uniforms >= 1 - LAST_TIME
    drawn = (uniforms.double() / share).floor().long().clamp(max=steps - 1)
    return torch.where(left, steps, drawn)


def count_published_evaluations(reveal_steps: Tensor, steps: int, last: int | None = None) -> int:
    """How often the published sampler runs the network for places revealed at these steps.

    It runs it at its first step, after each step that revealed something, and once more at the
    end, always. last: the number of evaluations up to and with this step, for a sampler that stops
    there and is otherwise the same.
    """
    changed = set(reveal_steps.tolist())
    if last is None:
        return 2 + len([step for step in changed if step < steps - 1])
    return 1 + len([step for step in changed if step < min(last, steps)])


def split_evenly(places: int, steps: int) -> list[int]:
    """How many places each step reveals, where that is fixed: as even as whole numbers can be."""
    done = [round(places * step / steps) for step in range(steps + 1)]
    return [after - before for before, after in itertools.pairwise(done)]
