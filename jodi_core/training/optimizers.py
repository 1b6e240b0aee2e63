"""The optimizers of a transformer: which of its parameters each takes."""

from collections.abc import Iterator

import torch
from torch import nn

from ...kit.training.muon import Muon
from .config import UpdateConfig


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix of a block, which Muon may turn: no table, no 3x3 kernel."""
    hidden = name.startswith("blocks.") and parameter.dim() >= 2
    return hidden and "table" not in name and "depth_conv" not in name


def make_optimizers(
    model: nn.Module, config: UpdateConfig
) -> tuple[list[torch.optim.Optimizer], tuple[float, ...]]:
    """The optimizers of what is trained of a model, and the highest rate of each.

    Weight decay is for hidden matrices alone.
    """
    matrices = [(n, p) for n, p in _trained(model) if is_hidden_matrix(n, p)]
    rest = [p for n, p in _trained(model) if not is_hidden_matrix(n, p)]
    betas = (config.beta1, config.beta2)
    if config.optimizer == "muon":
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            optimizers.append(Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
        optimizers.append(torch.optim.AdamW(rest, lr=config.lr, betas=betas, weight_decay=0.0))
        return optimizers, (config.muon_lr, config.lr)[-len(optimizers) :]
    groups = [
        {"params": [p for _, p in matrices], "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return [torch.optim.AdamW(groups, lr=config.lr, betas=betas)], (config.lr,)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
