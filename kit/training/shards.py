"""One model over many processes, by torch's own FSDP2, and the mode of the loop that trains so.

Alone, nothing is sharded and the same mode keeps the same saves: a run may go on with any number of
processes.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import nn

from ..errors import JodiError
from . import distributed
from .loop import LoopSettings, Losses
from .saves import Saves, gather_state, read_facts, restore_state
from .state import Ema


class ShardTask(Protocol):
    """What `Shards` trains. rates: the highest learning rate of each optimizer."""

    @property
    def model(self) -> nn.Module: ...
    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]: ...
    @property
    def rates(self) -> Sequence[float]: ...

    def losses_of(self, step: int, index: int, progress: float) -> Losses:
        """Losses of this process's rows of a micro-batch.

        Every process has equally many rows, and runs the same layers in the same order: each holds
        a slice of them, and waits for the others' slices.
        """
        ...


class Shards:
    """Every process holds a slice of the model and does its rows of every micro-batch.

    finish: called when the gradients of an update are there, to change them.
    """

    def __init__(self, saves: Saves, finish: Callable[[], None] | None = None):
        self.saves, self.finish = saves, finish

    def share(self, count: int) -> range:
        return range(count)

    def losses(
        self, task: ShardTask, settings: LoopSettings, step: int, index: int, progress: float
    ) -> Losses:
        return task.losses_of(step, index, progress)

    def finish_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        # FSDP has averaged them over the processes.
        if self.finish:
            self.finish()

    def save(self, task: ShardTask, ema: Ema, step: int, seconds: float) -> None:
        tensors = gather_state(task.model, task.optimizers, ema)
        self.saves.write(tensors, {"step": step, "seconds": seconds}, step)

    def restore(self, task: ShardTask, ema: Ema) -> tuple[int, float]:
        save = self.saves.newest()
        if save is None:
            return 0, 0.0
        restore_state(save, task.model, task.optimizers, ema)
        facts = read_facts(save)
        return facts["step"], facts["seconds"]


def shard_model(
    model: nn.Module,
    units: Iterable[nn.Module],
    dtype: torch.dtype | None = None,
    *,
    methods: Sequence[str] = (),
) -> None:
    """Leave each process a slice of every parameter; a unit's are gathered while it runs.

    dtype: of the arithmetic; gradients are summed in float32, and the slices keep their type.
    methods: of the model, beside `forward`, that may be called.
    Raises: JodiError when torch has no FSDP2.
    """
    try:
        import torch.distributed.fsdp as fsdp

        fully_shard, policies = fsdp.fully_shard, fsdp.MixedPrecisionPolicy
    except (ImportError, AttributeError):
        raise JodiError(
            f"training in several processes needs torch 2.6 or newer, this is {torch.__version__}; "
            "update it, or train in one process"
        ) from None
    policy = policies()
    if dtype is not None:
        policy = policies(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    for name in methods:
        fsdp.register_fsdp_forward_method(model, name)


def let_go(model: nn.Module) -> None:
    """Leave each process its slices again, after a method was called and no gradient was asked for.

    FSDP keeps what the whole model's own call gathered for a backward pass. Without one, the next
    call would read these weights again, whatever became of the slices.
    """
    if distributed.place()[1] > 1:
        model.reshard()  # pyright: ignore[reportCallIssue]  (of FSDP's modules)


def gather_whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's tensors, put together from all processes, on the CPU of the first one."""
    if distributed.place()[1] == 1:
        return model.state_dict()
    import torch.distributed.checkpoint.state_dict as library

    options = library.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return library.get_model_state_dict(model, options=options)  # pyright: ignore[reportReturnType]


def join_torchrun(device: str) -> str:
    """Join the processes that torchrun started, if it did; the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return device
    if torch.device(device).type == "cuda":
        place = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(place)
        dist.init_process_group("nccl")
        return f"cuda:{place}"
    dist.init_process_group("gloo")
    return device
