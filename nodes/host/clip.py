"""What text encoders need to become CLIP of the host, whichever model they belong to."""

from collections.abc import Callable, Mapping

import comfy.sd
import torch
from torch import Tensor

from ...kit.errors import CheckpointError, TextError
from ...kit.weights.faults import find_key_faults


class Tokens(dict):
    """Tokens of one prompt by the encoder's name; nodes for several encoders ask for others."""

    def __init__(self, name: str, tokens: list, advice: str):
        """advice: what this CLIP reads, and which node to use, for the error."""
        super().__init__({name: [tokens]})
        self._advice = advice

    def __missing__(self, name):
        raise TextError(f"this CLIP has no encoder {name}: {self._advice}")


def weigh_tokens(ids, with_word_ids: bool) -> list[tuple]:
    """Each token with the weight 1, in the form that the host's encoders take."""
    return [(i, 1.0, 0) if with_word_ids else (i, 1.0) for i in ids]


class ClipTarget:
    """What the host's CLIP is built from."""

    def __init__(self, clip: Callable, tokenizer: Callable):
        self.clip, self.tokenizer, self.params = clip, tokenizer, {}


def build_clip(
    target: ClipTarget,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    disable_dynamic: bool,
    tokenizer_data: Mapping | None = None,
) -> comfy.sd.CLIP:
    """An empty CLIP for weights of this size.

    dtype: in which weights are kept. disable_dynamic: set by the host when it needs its plain
    patcher; hosts that do not know the argument are not given it.
    """
    return comfy.sd.CLIP(
        target,
        tokenizer_data=dict(tokenizer_data or {}),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        model_options={"dtype": dtype},
        **({"disable_dynamic": True} if disable_dynamic else {}),
    )


def check_tensors(
    network: torch.nn.Module, weights: Mapping[str, Tensor], model: str, advice: str
) -> None:
    """Pass when the weights are exactly those of the host's network.

    model, advice: of the file, for the error. Raises: CheckpointError.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    faults = find_key_faults(weights, expected)
    if faults:
        raise CheckpointError(f"its tensors are not those of {model}: {faults.text()}. {advice}")
