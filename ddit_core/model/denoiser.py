"""From a transformer and one picture job's constants to the function that samplers call."""

import torch
from torch import Tensor

from ...kit.errors import JodiError, TextError
from ...kit.sampling import Denoise
from .transformer import DDiTTransformer

STEPS, GUIDANCE, SHIFT = 28, 7.0, 3.0


def make_published_sigmas(steps: int = STEPS, shift: float = SHIFT) -> list[float]:
    """The noise levels of the published image sampler: steps + 1, descending, the last exactly 0.

    It shifts twice: its lowest level is shifted before the levels are spaced out, and all are
    shifted after. ComfyUI's scheduler "normal" gives the same levels for ModelSamplingSD3 of the
    same shift.
    Raises: JodiError for steps < 1 or shift <= 0.
    Source: FlowMatchEulerDiscreteScheduler of diffusers 0.31, 1000 training steps.
    """
    if steps < 1:
        raise JodiError(f"a schedule needs at least 1 step, got {steps}")
    if shift <= 0:
        raise JodiError(f"the flow shift must be positive, got {shift}")
    levels = torch.linspace(1.0, float(_shifted(0.001, shift)), steps, dtype=torch.float64)
    return [*_shifted(levels, shift).tolist(), 0.0]


def _shifted(level, shift: float):
    return shift * level / (1 + (shift - 1) * level)


def prepare_denoiser(
    model: DDiTTransformer,
    text: Tensor,
    negative_text: Tensor | None,
    *,
    rows: int,
    sigmas: list[float],
    guidance: float = GUIDANCE,
) -> Denoise:
    """A function (x, sigma) -> clean estimate, float32, with classifier-free guidance.

    text, negative_text: features (rows or 1, L, D). As published, guidance of 1 or less evaluates
    the prompt alone; equal texts are evaluated once, too.
    Raises: TextError where guidance needs a negative text and none is given; ShapeError.
    """
    weight = model.context_embedder.weight
    texts = [text]
    if guidance > 1:
        if negative_text is None:
            raise TextError(
                f"guidance {guidance} needs the features of a negative prompt too; pass those of "
                '"" (nothing but end tokens), or guidance 1'
            )
        if not torch.equal(text, negative_text):
            texts.append(negative_text)
    like = torch.empty(0, dtype=weight.dtype, device=weight.device)
    context = model.prepare_text(*texts, rows=rows, sigmas=sigmas[:-1], like=like)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        velocity, *others = (v.float() for v in model.velocities(x.to(like), sigma, context))
        for unguided in others:
            velocity = unguided + guidance * (velocity - unguided)
        return x - sigma * velocity.to(x)

    return denoise
