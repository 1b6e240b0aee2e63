"""The latent format of a Jodi model, and its live preview: one sheet of all domains.

Shapes: B rows, L domains, z latent channels, h w latent grid.
"""

import logging
import math
import weakref

import comfy.latent_formats
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..wires.job import check_uncut

log = logging.getLogger("jodi")

PREVIEW_SIDE = 256  # the sheet is enlarged until its shorter side has this many pixels

# VAEs that were loaded and are still in use; the preview borrows one for its colours.
_vaes: "weakref.WeakSet" = weakref.WeakSet()


def offer_for_preview(vae) -> None:
    """Let previews use this VAE: has `latent_channels`, `factor`, `latent_scale`, `rgb_fit()`."""
    _vaes.add(vae)


class JodiLatent(comfy.latent_formats.LatentFormat):
    """(B, z, L, h, w): the domains stand where video models have time."""

    latent_dimensions = 3
    temporal_downscale_ratio = 1

    def __init__(self, channels: int, domains: int, factor: int, scale: float):
        self.latent_channels = channels
        self.domains = domains
        self.spacial_downscale_ratio = factor
        self.scale_factor = scale
        self.latent_rgb_factors_reshape = lay_out_domains

    @property
    def latent_rgb_factors(self) -> list[list[float]] | None:
        """Linear map from scaled latents to colours, (z, 3), or None when no fitting VAE is loaded.

        Fitted when it is first asked for, so a run without previews does not pay for it.
        """
        fit = self._fit()
        return None if fit is None else fit[0]

    @property
    def latent_rgb_factors_bias(self) -> list[float] | None:
        fit = self._fit()
        return None if fit is None else fit[1]

    def _fit(self):
        wanted = (self.latent_channels, self.spacial_downscale_ratio, self.scale_factor)
        for vae in _vaes:
            if (vae.latent_channels, vae.factor, vae.latent_scale) == wanted:
                return vae.rgb_fit()
        return None

    def fix_empty_latent(self, latent: Tensor) -> Tensor:
        """An empty latent of another model's node, (B, z, any, h, w), with all domains.

        Raises: ShapeError for a part of a LATENT of Jodi Roles.
        """
        if latent.ndim != 5 or latent.shape[2] == self.domains:
            return latent
        check_uncut(latent, self.domains)
        return latent[:, :, :1].repeat(1, 1, self.domains, 1, 1)


def lay_out_domains(x0: Tensor) -> Tensor:
    """Latents (B, z, L, h, w) -> the first row's active domains side by side, (1, z, H, W).

    Ignored domains are held at zero by the model and take no room.
    """
    if x0.ndim != 5:
        return x0
    domains = x0[0].movedim(1, 0)
    active = domains[domains.flatten(1).any(1)]
    domains = active if len(active) else domains[:1]
    rows = math.isqrt(len(domains))
    columns = math.ceil(len(domains) / rows)
    domains = F.pad(domains, (0, 0, 0, 0, 0, 0, 0, rows * columns - len(domains)))
    sheet = rearrange(domains, "(rows columns) z h w -> z (rows h) (columns w)", rows=rows)
    times = max(1, math.ceil(PREVIEW_SIDE / min(sheet.shape[-2:])))
    return sheet.repeat_interleave(times, -2).repeat_interleave(times, -1)[None]


def fit_colours(latents: Tensor, pictures: Tensor) -> tuple[list[list[float]], list[float]]:
    """Least-squares map from scaled latents (N, z, h, w) to pictures (N, 3, h, w) in [-1, 1].

    Returns: factors (z, 3) and bias (3), as the host wants them. Slightly ridged, so that channels
    that never vary get no weight.
    """
    x = latents.movedim(1, -1).reshape(-1, latents.shape[1]).cpu().double()
    y = pictures.movedim(1, -1).reshape(-1, 3).cpu().double()
    x1 = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    gram = x1.T @ x1
    ridge = 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    ridge[-1, -1] = 0
    solution = torch.linalg.solve(gram + ridge, x1.T @ y)
    return solution[:-1].tolist(), solution[-1].tolist()
