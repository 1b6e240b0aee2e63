"""Training in a short float type, with the weights kept in a wide one.

A step of the optimizer is often smaller than bfloat16 can add to a weight, so weights that only
exist in it stop learning. Here the optimizer works on float32 masters, and the network that is
evaluated is a copy of them.
"""

import copy

import torch
from torch import nn


class ShortCopy:
    """A copy of `masters` in `dtype`, for forward and backward; its gradients go to the masters.

    Gradients are added up in the masters' type, and the copy keeps none. `refresh` takes over the
    masters' weights, and is due after each step of the optimizer.
    """

    def __init__(self, masters: nn.Module, dtype: torch.dtype):
        self.model = copy.deepcopy(masters).to(dtype)
        self._pairs = list(zip(self.model.parameters(), masters.parameters(), strict=True))
        for short, master in self._pairs:
            if short.requires_grad:
                short.register_post_accumulate_grad_hook(_hand_over(master))

    @torch.no_grad()
    def refresh(self) -> None:
        for short, master in self._pairs:
            short.copy_(master)


def _hand_over(master: nn.Parameter):
    def hand_over(short: torch.Tensor) -> None:
        gradient = short.grad
        short.grad = None
        if gradient is not None:
            wide = gradient.to(master.dtype)
            master.grad = wide if master.grad is None else master.grad.add_(wide)

    return hand_over
