"""What the file of a Jodi transformer is: its sizes, its facts, and what its faults mean.

loaded = load("jodi.safetensors", TRANSFORMER, dtype=torch.bfloat16)
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from torch import nn

from ...kit.errors import CheckpointError
from ...kit.weights.faults import (
    KeyFaults,
    explain_common,
    find_lost,
    has_lost_all,
    join_ranges,
)
from ...kit.weights.kinds import JODI, State
from ...kit.weights.loading import Format, load
from ...kit.weights.sizes import (
    ONCE_MORE,
    build_config,
    check_claims,
    compare_sizes,
    count_indices,
    read_stored_config,
)
from .config import JODI_1600M, TransformerConfig
from .facts import ModelFacts, read_facts
from .transformer import JodiTransformer


def load_transformer(
    path, *, device="cpu", dtype=None, operations=nn, config: TransformerConfig | None = None
) -> tuple[JodiTransformer, dict[str, str]]:
    """The transformer in a weight file and the file's metadata; see `kit.weights.loading.load`."""
    loaded = load(
        path, TRANSFORMER, device=device, dtype=dtype, operations=operations, config=config
    )
    return loaded.model, loaded.metadata


# The published sizes by width: depth and cross-attention heads. No others are registered.
# Source: github VIPL-GENUN/Jodi @ c21bdcb, model/nets/jodi.py.
_PUBLISHED = {
    JODI_1600M.hidden_size: (JODI_1600M.depth, JODI_1600M.cross_attention_heads),
    1152: (28, 16),
}


def read_sizes(
    state: State, metadata: Mapping[str, str], config: TransformerConfig | None = None
) -> TransformerConfig:
    """The transformer's sizes: from `config`, else from the metadata, else of a released model.

    Shapes tell most sizes, and whatever is passed or stored must agree with them. They do not tell
    how a width is cut into heads, nor the base of the positional table.

    Raises: CheckpointError when sources contradict each other (both values are named), when the
        metadata cannot be read or claims more than the file holds, or when nothing tells a size.
    """
    facts = read_shapes(state)
    if config is not None:
        check_shapes(config, facts, "the config passed")
        return config
    stored = read_stored_config(metadata)
    if stored is not None:
        config = build_config(TransformerConfig, {**_config_values(facts), **stored})
        check_shapes(config, facts, "its metadata")
        # A block has fifteen tensors, a domain four.
        check_claims({"depth": (config.depth, len(state) // 12)})
        check_claims({"num_labels": (config.num_labels, len(state) // 4)})
        return config
    width = facts.get("hidden_size")
    if width in _PUBLISHED:
        return build_config(TransformerConfig, _published_values(width, facts))
    told = f"a transformer of width {width} was not released" if width else "it has no width"
    raise CheckpointError(
        f"{told}, and the file has no `config` in its metadata: its shapes alone do not tell "
        f"{', '.join(_NOT_IN_SHAPES)}. {ONCE_MORE}."
    )


def _published_values(width: int, facts: Mapping[str, int]) -> dict:
    depth, cross_heads = _PUBLISHED[width]
    return {
        **dataclasses.asdict(JODI_1600M),
        **_config_values(facts),
        # Not the depth found: a file that lost its last blocks would pass for a shallower model.
        "depth": depth,
        "cross_attention_heads": cross_heads,
        # The published code divides a base of 32 latent cells by the patch size.
        "pe_base_size": max(JODI_1600M.pe_base_size // max(facts.get("patch_size", 1), 1), 1),
    }


_NOT_IN_SHAPES = ("cross_attention_heads", "linear_head_dim", "pe_base_size")


# Where a size can be read: field, key (N stands for any index), axis.
_SOURCES = (
    ("hidden_size", "domain_embedding", 1),
    ("hidden_size", "role_embedder.weight", 1),
    ("hidden_size", "attention_y_norm.weight", 0),
    ("hidden_size", "t_embedder.mlp.2.weight", 0),
    ("domains", "domain_embedding", 0),
    ("caption_length", "y_embedder.y_embedding", 0),
    ("caption_channels", "y_embedder.y_embedding", 1),
    ("caption_channels", "y_embedder.y_proj.fc1.weight", 1),
    ("latent_channels", "x_embedders.N.proj.weight", 1),
    ("patch_size", "x_embedders.N.proj.weight", 2),
    ("mlp_size", "blocks.N.mlp.point_conv.conv.weight", 1),
    ("frequency_size", "t_embedder.mlp.0.weight", 1),
)


def read_shapes(state: State) -> dict[str, int]:
    """Sizes read from the shapes, by field name; a size whose tensors are missing is left out.

    `mlp_size` and `domains` stand for the fields that follow from them.
    """
    facts: dict[str, int] = {}
    for field, pattern, axis in _SOURCES:
        regex = re.compile(re.escape(pattern).replace("N", r"\d+"))
        key = next((name for name in state if regex.fullmatch(name)), None)
        if field not in facts and key is not None and state[key].ndim > axis:
            facts[field] = state[key].shape[axis]
    depth = count_indices(state, r"blocks\.(\d+)\.")
    if depth:
        facts["depth"] = depth
    domains = count_indices(state, r"(?:x_embedders|final_layers)\.(\d+)\.")
    if domains:
        facts.setdefault("domains", domains)
    return facts


def check_shapes(config: TransformerConfig, facts: Mapping[str, int], origin: str):
    """Pass when the shapes agree with `config`.

    Raises: CheckpointError naming both values of the first few sizes that differ. Too few blocks
        pass: they are missing tensors, which the strict check lists.
    """
    claimed = {
        name: config.num_domains if name == "domains" else getattr(config, name) for name in facts
    }
    if facts.get("depth", 0) < config.depth:
        claimed.pop("depth", None)
    compare_sizes("the tensors", facts, origin, claimed)


def _config_values(facts: Mapping[str, int]) -> dict:
    values: dict = dict(facts)
    if "domains" in values:
        values["num_labels"] = values.pop("domains") - 1
    if "mlp_size" in values:
        mlp_size = values.pop("mlp_size")
        if values.get("hidden_size"):
            values["mlp_ratio"] = _ratio(mlp_size, values["hidden_size"])
    return values


def _ratio(size: int, width: int) -> float:
    """The ratio for which int(width * ratio) is size in spite of rounding."""
    ratio = size / width
    return ratio if int(width * ratio) == size else math.nextafter(ratio, math.inf)


def explain_transformer(faults: KeyFaults, config: TransformerConfig) -> str:
    """What these faults usually mean for a transformer, and what to do."""
    missing, unexpected = faults.missing, faults.unexpected
    if has_lost_all(faults, "final_layers.") or has_lost_all(faults, "x_embedders."):
        return (
            "Whole input or output layers are missing: the file is a Sana checkpoint, or a start "
            "for training. Give the trained Jodi file."
        )
    lost = find_lost(faults, r"blocks\.(\d+)\.")
    if lost:
        return (
            f"Blocks {join_ranges(lost)} (of 0-{config.depth - 1}) are missing entirely: a "
            "conversion or a save that stopped early, or one part of several. Convert again from "
            "the complete file."
        )
    lost = find_lost(faults, r"(?:x_embedders|final_layers)\.(\d+)\.")
    if lost:
        return (
            f"The layers of domains {join_ranges(lost)} are missing: a model trained on fewer "
            f"labels, where {config.num_domains} domains were expected. Give the file with all of "
            "them."
        )
    if any(re.match(r"(x_embedders|final_layers)\.\d+\.", name) for name in unexpected):
        return (
            f"There are layers for more domains than the {config.num_domains} expected: a model "
            "that was extended by labels, whose domain_embedding comes from another file."
        )
    if any(re.search(r"\.(q_norm|k_norm)\.", name) for name in unexpected):
        return (
            "It normalises queries and keys, which Jodi does not: a relative such as Sana 1.5. "
            "Give the released Jodi."
        )
    widths = {
        (e, c)
        for _, expected, came in faults.misshaped
        for e, c in zip(expected, came, strict=False)
        if e != c and e == config.hidden_size
    }
    if len(widths) == 1:
        (_, width) = widths.pop()
        return (
            f"These tensors have hidden size {width}, the model {config.hidden_size}: parts of two "
            "models were mixed. Give one complete file."
        )
    return explain_common(faults) or (
        "The file is of another version, or tensors were lost or exchanged: use the original file, "
        "or convert it again."
        if missing or faults.misshaped
        else "The file holds more than this model: a newer or extended version. Update the program "
        "or use the released file."
    )


def describe_transformer(config: TransformerConfig) -> str:
    """A transformer of these sizes, for messages."""
    return (
        f"a Jodi transformer of width {config.hidden_size}, depth {config.depth} and "
        f"{config.num_domains} domains"
    )


def _adds(config: TransformerConfig) -> Mapping[str, str]:
    # Only the eight domains have published patterns of roles.
    return {"trained_roles": "published"} if config.num_domains == JODI_1600M.num_domains else {}


TRANSFORMER: Format[TransformerConfig, ModelFacts] = Format(
    kind=JODI,
    fits=(JODI,),
    config=TransformerConfig,
    sizes=read_sizes,
    facts=read_facts,
    explain=explain_transformer,
    build=JodiTransformer,
    describe=describe_transformer,
    adds=_adds,
)
