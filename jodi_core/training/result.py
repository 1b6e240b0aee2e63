"""The files that a training leaves: a model that every front end loads, and adapters."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...kit.training import distributed
from ...kit.training.lora import merge_adapters, read_adapter_scales, take_adapters
from ...kit.training.shards import gather_whole_state
from ...kit.weights.loading import cast
from ...kit.weights.write import write_state_dict
from ..model.facts import ModelFacts, write_facts
from .network import TrainedJodi

MODEL, LORA = "model.safetensors", "lora.safetensors"


def write_result(
    model: TrainedJodi,
    facts: ModelFacts,
    folder: Path,
    record: Mapping,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Path]:
    """Write `model.safetensors`, and `lora.safetensors` where adapters were trained; the paths.

    The adapters are within the model too, so that one file is enough. record: how it was trained,
    plain values. Every process takes part; the first one writes.
    Raises: CheckpointError when the files cannot be written.
    """
    state, scales = gather_whole_state(model), read_adapter_scales(model)
    if not distributed.is_first():
        return {}
    metadata = {"format": "pt", **write_facts(model.config, facts)}
    metadata["training"] = json.dumps(dict(record), sort_keys=True)
    paths = {"model": folder / MODEL}
    write_model(paths["model"], merge_adapters(state, scales), metadata, dtype)
    if scales:
        paths["lora"] = folder / LORA
        write_adapters(paths["lora"], state, scales, facts, dtype)
    return paths


def write_model(path: Path, state: Mapping[str, Tensor], metadata, dtype: torch.dtype) -> None:
    """Replace a file of a whole model."""
    write_state_dict(path, state, metadata, dtype=dtype, convert=cast, force=True)


def write_adapters(path: Path, state, scales, facts: ModelFacts, dtype: torch.dtype) -> None:
    """Replace a file of adapters, named as ComfyUI's LoRA loaders read them."""
    metadata = {"format": "pt", "title": facts.title, "base": facts.title}
    tensors = take_adapters(state, scales)
    write_state_dict(path, tensors, metadata, dtype=dtype, convert=cast, force=True)


def set_trained_roles(facts: ModelFacts, roles: str) -> ModelFacts:
    """The facts of a model that was trained on these roles from here on; `any` stays what it is."""
    return dataclasses.replace(facts, trained_roles="any") if roles == "any" else facts
