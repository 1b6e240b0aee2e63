"""What a training keeps of its parameters, in bytes: counted, not measured."""

from dataclasses import dataclass

import torch

from ...kit.training.lora import add_adapters
from ..model.config import TransformerConfig
from .config import LoraConfig
from .network import TrainedJodi


@dataclass(frozen=True)
class Counts:
    """Parameters in all, and those that are trained."""

    all: int
    trained: int


def count_parameters(config: TransformerConfig, lora: LoraConfig | None = None) -> Counts:
    """Parameters of a model of these sizes, with its adapters. Nothing is allocated."""
    with torch.device("meta"):
        model = TrainedJodi(config)
        if lora and lora.rank:
            add_adapters(model, lora.targets, lora.rank, lora.scale, seed=0)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Counts(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained))


def count_state_bytes(counts: Counts, *, short: bool, processes: int = 1) -> float:
    """Bytes a process keeps over the updates, under AdamW.

    Float32 weights, and of what is trained gradients, two moments and averages. short: arithmetic
    in bfloat16. In one process that needs a copy of the weights; several gather one block's at a
    time, which is not counted.
    """
    kept = 4 * counts.all + 4 * 4 * counts.trained
    copy = 2 * counts.all if short and processes == 1 else 0
    return kept / processes + copy
