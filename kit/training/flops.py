"""What a training costs, counted."""

import numpy as np

from .loop import Task


def count_flops(task: Task, batches: int = 8) -> float:
    """Floating-point operations of one micro-batch, forward and backward, on average over some.

    Matrix products, convolutions and attention are counted, which is nearly all of it; gradients
    are left as they were: none.
    """
    # Here, since torch imports Triton with it, which takes a while.
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        for index in range(batches):
            task.losses(np.random.default_rng((0, 0, index)), 0.5).mean.backward()
    for parameter in task.model.parameters():
        parameter.grad = None
    return counter.get_total_flops() / batches
