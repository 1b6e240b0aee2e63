"""A start from the weights of Sana-1.6B, the text-to-picture model that Jodi grew from.

Source: arXiv 2505.19084 section 3; github VIPL-GENUN/Jodi @ c21bdcb, train.py. Other than there,
every domain's head starts as Sana's, where only the picture's did and the labels' were random.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kit.errors import CheckpointError, shorten
from ..model.config import TransformerConfig
from ..model.transformer import JodiTransformer

# What Jodi has once, and Sana under the same name.
_SHARED = re.compile(
    r"(t_embedder|t_block|blocks)\..*|y_embedder\.y_proj\..*|attention_y_norm\.weight"
)
# What Jodi has once for each domain, and Sana once.
_REPEATED = {"x_embedders": "x_embedder", "final_layers": "final_layer"}
# What Sana has and Jodi does not take: the table of places is computed, the null text is encoded.
_LEFT = re.compile(r"(base_model\.|model\.)?pos_embed|y_embedder\.y_embedding")
# What Jodi adds. The roles start so that they change nothing much.
_NEW = re.compile(r"domain_embedding|role_embedder\.weight|role_block\.1\.(weight|bias)")
SPREAD = 0.02


@dataclass(frozen=True)
class SanaStart:
    """Where every tensor of a Jodi comes from: `taken` {Jodi's name: Sana's}, `new` names."""

    taken: Mapping[str, str]
    new: tuple[str, ...]


def map_sana(config: TransformerConfig, sana: Mapping[str, Tensor]) -> SanaStart:
    """The plan of a start from Sana. Shapes alone are read: tensors may be on the meta device.

    Raises: CheckpointError when a tensor is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        wanted = JodiTransformer(config).state_dict()
    taken, new = {}, []
    for name in wanted:
        source = _source(name)
        if source is None:
            new.append(name)
        else:
            taken[name] = source
    missing = sorted(set(taken.values()) - set(sana))
    left = sorted(name for name in sana if name not in taken.values() and not _LEFT.fullmatch(name))
    if missing or left:
        parts = [f"lacks {shorten(missing)}"] * bool(missing) + [
            f"also has {shorten(left)}"
        ] * bool(left)
        raise CheckpointError(
            f"the Sana weights do not fit: the file {' and '.join(parts)}. Give "
            "Sana_1600M_1024px_BF16 (mit-han-lab names, without q_norm and k_norm)"
        )
    for name, source in taken.items():
        if sana[source].shape != wanted[name].shape:
            raise CheckpointError(
                f"{source} of the Sana weights is {tuple(sana[source].shape)}, this model needs "
                f"{tuple(wanted[name].shape)}; choose the size of model that was made from it"
            )
    return SanaStart(taken, tuple(new))


def _source(name: str) -> str | None:
    first, _, rest = name.partition(".")
    if first in _REPEATED:
        return f"{_REPEATED[first]}.{rest.partition('.')[2]}"
    if _SHARED.fullmatch(name):
        return name
    return None


@torch.no_grad()
def start_from_sana(
    config: TransformerConfig, sana: Mapping[str, Tensor], null_text: Tensor, seed: int
) -> JodiTransformer:
    """A Jodi to train, with Sana's weights. null_text (S, Cc): features of the empty prompt.

    Raises: CheckpointError as `map_sana`.
    """
    plan = map_sana(config, sana)
    model = JodiTransformer(config)
    generator = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, source in plan.taken.items():
        state[name].copy_(sana[source])
    for name in plan.new:
        if name == "y_embedder.y_embedding":
            state[name].copy_(null_text)
        elif _NEW.fullmatch(name) and state[name].ndim > 1:
            state[name].normal_(0, SPREAD, generator=generator)
        else:
            state[name].zero_()
    return model
