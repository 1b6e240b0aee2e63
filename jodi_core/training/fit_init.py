"""Initial weights fitted to data in closed form, so that a short training need not learn them.

Two things are known before training. A token's place is in its positional table, and domains agree
place by place: half of every attention's features start as detectors of a place, so that tokens of
one place in different domains read each other at once. And the best linear guess of the velocity
from a token: the output heads start there rather than at zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.embeddings import make_position_table
from ..model.transformer import JodiTransformer

SAMPLES = 96
RIDGE = 1e-2
OFF = -0.15  # what a detector answers elsewhere: below zero, where ReLU is silent
# Attention does not see the common scale of a head's features, but an optimiser that moves every
# weight by the same step does: large detectors outlast the first, noisy, steps.
LOUD, QUIET = 16.0, 0.1  # scales of the detectors, and of the other features of their head


@torch.no_grad()
def fit_init(model: JodiTransformer, latents: Tensor, seed: int) -> None:
    """Set attention features and output heads of a fresh `model` from scenes' latents.

    latents: (N, L, z, h, w) scaled; the first ones are used. The patch size must be 1.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = latents[:SAMPLES].float()
    noise = torch.randn(clean.shape, generator=generator)
    sigma = torch.rand(len(clean), 1, 1, 1, 1, generator=generator)
    sigma = 3 * sigma / (1 + 2 * sigma)
    tokens = _tokens(model, torch.lerp(clean, noise, sigma))
    detectors = _place_detectors(tokens)
    head = model.config.linear_head_dim
    width = model.config.hidden_size
    for block in model.blocks:
        weight = block.attn.qkv.weight
        for part in (weight[:width], weight[width : 2 * width]):
            first = part[:head]
            first *= QUIET
            count = min(head, len(detectors))
            first[:count] = LOUD * detectors[:count]
    target = (noise - clean).flatten(3).transpose(2, 3)  # (N, L, T, z)
    for i, layer in enumerate(model.final_layers):
        fitted = _ridge(tokens[:, i].flatten(0, 1), target[:, i].flatten(0, 1))
        layer.linear.weight.copy_(fitted)


def _tokens(model: JodiTransformer, x: Tensor) -> Tensor:
    """Normed tokens (N, L, T, C) as the first block's attention sees them."""
    grid = (x.shape[-2], x.shape[-1])
    tokens = torch.stack([e(x[:, i]) for i, e in enumerate(model.x_embedders)], dim=1)
    tokens = tokens + make_position_table(model.config, grid)
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def _place_detectors(tokens: Tensor) -> Tensor:
    """Rows (T, C), each positive on the tokens of one place and negative elsewhere."""
    places = tokens.shape[2]
    wanted = torch.full((places, places), OFF)
    wanted.fill_diagonal_(1.0)
    wanted = wanted.expand(*tokens.shape[:2], -1, -1)
    return _ridge(tokens.flatten(0, 2), wanted.flatten(0, 2))


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Weights (O, C) with x @ weights.T near y; x (N, C), y (N, O)."""
    x, y = x.double(), y.double()
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(x.T @ x + penalty, x.T @ y).T.float()
