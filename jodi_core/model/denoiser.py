"""From a transformer and one job's constants to the function that samplers call.

Shapes: B rows, L domains, z latent channels, h w latent grid, S text tokens.
"""

import torch
from torch import Tensor

from ...kit.errors import TextError
from ...kit.sampling import Denoise
from ..roles import Role
from ..text import TextFeatures
from .text_cache import are_equal_tensors
from .transformer import JodiTransformer


def prepare_denoiser(
    model: JodiTransformer,
    role: Tensor,
    clean: Tensor,
    text: TextFeatures | None,
    negative_text: TextFeatures | None,
    *,
    sigmas: list[float],
    guidance: float = 1.0,
    own_mask: bool = False,
    round_timestep: bool = False,
    dtype: torch.dtype | None = None,
) -> Denoise:
    """A function (x, sigma) -> clean estimate, float32, with classifier-free guidance.

    role (B, L); clean (B, L, z, h, w), read where a role is condition. Everything constant over
    the steps is computed here, once. No second evaluation is made when both halves would be equal:
    with guidance 1, with the image given in every row (the network reads no text then), and where
    both texts are the same.
    own_mask: mask the negative text with its own mask; the released code masks it with the
    prompt's, so a negative prompt is read as far as the prompt is long.
    dtype: of the arithmetic, where it is not that of the weights.
    Raises: TextError when text is needed and missing.
    """
    dtype = dtype or model.domain_embedding.dtype
    role = role.to(clean.device)
    mask = None if text is None else text.mask
    second = None
    reads_text = bool((role[:, 0] != Role.CONDITION).any())
    if guidance != 1 and reads_text and text is not None:  # without any, `prepare` says so
        if negative_text is None:
            raise TextError(
                f"guidance {guidance} needs text and negative text; pass both, or guidance 1"
            )
        second = (negative_text.caption, negative_text.mask if own_mask else mask)
        if are_equal_tensors(text.caption, second[0]) and are_equal_tensors(mask, second[1]):
            second = None
    context = model.prepare(
        role,
        None if text is None else text.caption,
        mask,
        clean,
        like=torch.empty_like(clean, dtype=dtype),
        second_text=second,
        sigmas=sigmas[:-1],
        round_timestep=round_timestep,
    )

    def denoise(x: Tensor, sigma: float) -> Tensor:
        velocity, *others = (v.float() for v in model.velocities(x.to(dtype), sigma, context))
        for unguided in others:
            velocity = unguided + guidance * (velocity - unguided)
        return x - sigma * velocity

    return denoise
