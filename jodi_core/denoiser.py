"""From a transformer and one job's constants to the function that samplers call.

Shapes: B rows, L domains, z latent channels, h w latent grid, S text tokens.
"""

import torch
from torch import Tensor

from .context import PreparedContext
from .errors import TextError
from .roles import Role
from .sampling import Denoise
from .text import TextFeatures
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
) -> Denoise:
    """A function (x, sigma) -> clean estimate, float32, with classifier-free guidance.

    role (B, L); clean (B, L, z, h, w), read where a role is condition. Everything constant over
    the steps is computed here, once. No second evaluation is made when both halves would be equal:
    with guidance 1, with the image given in every row (the network reads no text then), and where
    both texts are the same.
    own_mask: mask the negative text with its own mask; the released code masks it with the
    prompt's, so a negative prompt is read as far as the prompt is long.
    Raises: TextError when text is needed and missing.
    """
    dtype = model.domain_embedding.dtype
    like = torch.empty_like(clean, dtype=dtype)
    role = role.to(clean.device)

    def prepare(features: TextFeatures | None, mask: Tensor | None) -> PreparedContext:
        caption = None if features is None else features.caption
        return model.prepare(
            role,
            caption,
            mask,
            clean,
            like=like,
            sigmas=sigmas[:-1],
            round_timestep=round_timestep,
        )

    positive = prepare(text, None if text is None else text.mask)
    null = None
    if guidance != 1 and bool((role[:, 0] != Role.CONDITION).any()):
        if text is None or negative_text is None:
            raise TextError(
                f"guidance {guidance} needs text and negative text; pass both, or guidance 1"
            )
        mask = negative_text.mask if own_mask else text.mask
        if not (_same(text.caption, negative_text.caption) and _same(text.mask, mask)):
            null = prepare(negative_text, mask)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        x_in = x.to(dtype)
        velocity = model.velocity(x_in, sigma, positive).float()
        if null is not None:
            uncond = model.velocity(x_in, sigma, null).float()
            velocity = uncond + guidance * (velocity - uncond)
        return x - sigma * velocity

    return denoise


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.device == b.device and torch.equal(a, b))
