"""Low-rank adapters: a frozen layer plus B(A(x)), and their file as ComfyUI's loaders name it.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import JodiError

PREFIX = "diffusion_model."
"""What ComfyUI puts before the names of a diffusion model's modules."""


def add_adapters(model: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int):
    """Freeze a model and give its linear layers adapters; how many layers got one.

    targets: ends of the names of the layers, `attn.qkv` for example. alpha: the adapter is scaled
    by alpha / rank. The adapters are children of their layers, `lora_A` and `lora_B`; B starts at
    zero, so the model's results do not change at first.
    Raises: JodiError when a target fits no layer.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    unused, count = set(targets), 0
    for name, layer in list(model.named_modules()):
        fitting = [t for t in targets if name == t or name.endswith(f".{t}")]
        if not fitting or not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        unused -= set(fitting)
        _add_adapter(layer, rank, alpha / rank, generator)
        count += 1
    if unused:
        raise JodiError(f"no linear layer is called {', '.join(sorted(unused))}; see lora.targets")
    return count


def _add_adapter(layer: nn.Module, rank: int, scale: float, generator: torch.Generator) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    columns = weight[0].numel()
    like = {"device": weight.device, "dtype": weight.dtype}
    down = nn.Linear(columns, rank, bias=False, **like)
    up = nn.Linear(rank, len(weight), bias=False, **like)
    with torch.no_grad():
        bound = 1 / math.sqrt(columns)
        values = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
        down.weight.copy_(values)
        up.weight.zero_()
    layer.lora_A, layer.lora_B = down, up
    object.__setattr__(layer, "lora_scale", scale)  # a number, which is no part of the state
    layer.register_forward_hook(_add_low_rank)


def _add_low_rank(layer, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Of layers over the last axis: linear ones, and convolutions of kernel 1 that get tokens."""
    return output + layer.lora_B(layer.lora_A(inputs[0])) * layer.lora_scale


def find_adapted_layers(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The layers that have an adapter, by name."""
    return ((name, m) for name, m in model.named_modules() if hasattr(m, "lora_scale"))


def take_adapters(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
    """The adapters of a state as ComfyUI names them, their scale within `lora_B`.

    scales: of each adapted layer, as `read_adapter_scales` gives them.
    """
    result = {}
    for name, scale in scales.items():
        result[f"{PREFIX}{name}.lora_A.weight"] = state[f"{name}.lora_A.weight"]
        result[f"{PREFIX}{name}.lora_B.weight"] = state[f"{name}.lora_B.weight"] * scale
    return result


def read_adapter_scales(model: nn.Module) -> dict[str, float]:
    """What each adapter is scaled by, by layer."""
    return {name: float(layer.lora_scale) for name, layer in find_adapted_layers(model)}  # type: ignore[arg-type]


def merge_adapters(state: Mapping[str, Tensor], scales: Mapping[str, float]) -> dict[str, Tensor]:
    """The plain model's tensors with the adapters added into the weights of their layers."""
    result = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    for name, scale in scales.items():
        weight = result[f"{name}.weight"]
        down, up = (state[f"{name}.lora_{part}.weight"].double() for part in "AB")
        change = (up @ down * scale).view(weight.shape)
        result[f"{name}.weight"] = (weight.double() + change).to(weight.dtype)
    return result


def drop_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The plain model's tensors without the adapters."""
    return {name: tensor for name, tensor in state.items() if ".lora_" not in name}
