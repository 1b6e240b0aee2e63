"""Muon for the matrices of the blocks, AdamW for everything else.

Source: Keller Jordan, "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

import torch
from torch import Tensor

# Matrices that the checkpoint stores stacked; each part is orthogonalised alone.
STACKED = {"qkv.": 3, "kv_linear.": 2, "inverted_conv.": 2}
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices, roughly. matrices (..., R, C) -> same shape.

    A quintic Newton-Schulz iteration that pushes every singular value towards 1.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.is_cuda:  # elsewhere products in bfloat16 may be several times slower than in float32
        x = x.bfloat16()
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised. Takes (name, parameter) pairs of matrices.

    Parameters of more than two axes are flattened to (R, -1); stacked ones are split by name.
    Parameters must be contiguous, since they are changed through flattened views.
    """

    def __init__(self, named, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0):
        named = list(named)
        super().__init__(
            [p for _, p in named], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )
        self.parts = [next((n for s, n in STACKED.items() if s in name), 1) for name, _ in named]

    # No closure is evaluated, so there is no loss to return as the base class may.
    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every matrix; those of one shape are orthogonalised as one batch."""
        (group,) = self.param_groups
        batches: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p, parts in zip(group["params"], self.parts, strict=True):
            if p.grad is None:
                continue
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
            update = p.grad.lerp(buffer, group["momentum"]).flatten(1)
            p.mul_(1 - group["lr"] * group["weight_decay"])
            for target, piece in zip(p.flatten(1).chunk(parts), update.chunk(parts), strict=True):
                batches.setdefault(tuple(piece.shape), []).append((target, piece))
        for (rows, columns), items in batches.items():
            updates = orthogonalize(torch.stack([piece for _, piece in items]))
            scale = max(1.0, rows / columns) ** 0.5
            for (target, _), update in zip(items, updates, strict=True):
                target.add_(update, alpha=-group["lr"] * scale)
