"""From a weight file to a network: read, name what is wrong, load strictly.

    model, metadata = load_transformer("jodi.safetensors", dtype=torch.bfloat16)

A network is built without memory (meta device) and takes over the file's tensors, so that no weight
exists twice. Every tensor must be there, with its shape, and nothing else.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

import torch
from torch import nn

from ...kit.errors import CheckpointError
from ...kit.weights import kinds as file_kind
from ...kit.weights.faults import (
    KeyFaults,
    _explain_common,
    _lost,
    _none_left,
    _ranges,
    strict_keys,
)
from ...kit.weights.loading import State, _naming, _shapes, _take_over
from ...kit.weights.read import read_state_dict
from ...kit.weights.sizes import _build, _compare, _count, stored_config
from .config import JODI_1600M, TransformerConfig
from .transformer import JodiTransformer


def load_transformer(
    path, *, device="cpu", dtype=None, operations=nn, config: TransformerConfig | None = None
) -> tuple[JodiTransformer, dict[str, str]]:
    """The transformer in a weight file, in evaluation mode, and the file's metadata.

    dtype: of the weights; None keeps the file's own (the widest, where they are mixed).
    config: sizes, for a file whose own cannot be inferred; must agree with the tensors.
    operations: namespace of layer classes, as for JodiTransformer.
    Raises: CheckpointError for an unreadable file, another model's file, sizes that contradict each
        other or cannot be inferred, and missing, unexpected, misshaped or non-finite tensors.
    """
    state, metadata = read_state_dict(path)
    model = transformer_from_state(
        state,
        metadata,
        device=device,
        dtype=dtype,
        operations=operations,
        config=config,
        source=str(path),
    )
    return model, metadata


def transformer_from_state(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    device="cpu",
    dtype=None,
    operations=nn,
    config: TransformerConfig | None = None,
    source: str = "the state dict",
) -> JodiTransformer:
    """As `load_transformer`, from tensors that a host has read already."""
    state, config = checked_transformer(state, metadata, config=config, source=source)
    model = JodiTransformer(config, operations=operations, device="meta")
    _take_over(model, state, device, dtype, source)
    return model


def checked_transformer(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    config: TransformerConfig | None = None,
    source: str = "the state dict",
) -> tuple[State, TransformerConfig]:
    """The tensors, proved to be exactly those of a transformer, and its sizes.

    Raises: CheckpointError as `load_transformer`.
    """
    file_kind.require_kind(state, (file_kind.JODI,), source)
    with _naming(source):
        if config is None:
            config = infer_transformer_config(state, metadata)
        else:
            check_transformer_facts(config, transformer_facts(state), "the config passed")
        strict_keys(state, _shapes(JodiTransformer, config), config, explain_transformer)
    return state, config


def null_text_is_two_rows(state: State) -> bool:
    """Whether the stored null text has the structure of an encoded empty prompt.

    An empty prompt has one row for its start token and one for all padding, so rows 1.. of
    `y_embedder.y_embedding` (S, Cc) are equal, bit for bit. A file where they differ was trained
    with other null features, and its guidance pass should read those instead.

    Raises: CheckpointError when the file has no null text.
    Source: github VIPL-GENUN/Jodi @ c21bdcb, utils/checkpoint.py (Gemma's features of "").
    """
    rows = state.get("y_embedder.y_embedding")
    if rows is None or rows.ndim != 2:
        raise CheckpointError(
            "y_embedder.y_embedding, the null text (tokens, channels), is missing or no matrix. "
            "Expected the weights of a Jodi transformer; load them from the complete file."
        )
    return torch.equal(rows[1:], rows[1:2].expand_as(rows[1:]))


# The published sizes by width: depth and cross-attention heads. No others are registered.
# Source: github VIPL-GENUN/Jodi @ c21bdcb, model/nets/jodi.py.
_PUBLISHED = {
    JODI_1600M.hidden_size: (JODI_1600M.depth, JODI_1600M.cross_attention_heads),
    1152: (28, 16),
}


def infer_transformer_config(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    cross_attention_heads: int | None = None,
    linear_head_dim: int | None = None,
    pe_base_size: int | None = None,
) -> TransformerConfig:
    """The transformer's sizes: shapes, then metadata, then a released size, then the arguments.

    Shapes do not tell how a width is cut into heads, nor the base of the positional table; the
    three arguments are needed for a size that was not released and carries no metadata.

    Raises: CheckpointError when sources contradict each other (both values are named), when the
        metadata cannot be read, or when nothing tells a size (the argument to pass is named).
    """
    facts = transformer_facts(state)
    given = {
        "cross_attention_heads": cross_attention_heads,
        "linear_head_dim": linear_head_dim,
        "pe_base_size": pe_base_size,
    }
    given = {name: value for name, value in given.items() if value is not None}
    stored = stored_config(metadata)
    if stored is not None:
        _compare("the metadata", stored, "the caller", given)
        config = _build(TransformerConfig, {**_config_values(facts), **given, **stored})
        check_transformer_facts(config, facts, "its metadata")
        return config
    width = facts.get("hidden_size")
    if width in _PUBLISHED:
        return _build(TransformerConfig, {**_published_values(width, facts), **given})
    missing = [f"{name}=" for name in _NOT_IN_SHAPES if name not in given]
    if missing and width is not None:
        raise CheckpointError(
            f"a transformer of width {width} was not released, and the file has no `config` in its "
            f"metadata. Its shapes do not tell all sizes: pass {', '.join(missing)} or a whole "
            "config=TransformerConfig(...)."
        )
    return _build(TransformerConfig, {**_config_values(facts), **given})


def _published_values(width: int, facts: Mapping[str, int]) -> dict:
    depth, cross_heads = _PUBLISHED[width]
    return {
        **dataclasses.asdict(JODI_1600M),
        **_config_values(facts),
        # Not the depth found: a file that lost its last blocks would pass for a shallower model.
        "depth": depth,
        "cross_attention_heads": cross_heads,
        # The published code divides a base of 32 latent cells by the patch size.
        "pe_base_size": max(JODI_1600M.pe_base_size // facts.get("patch_size", 1), 1),
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


def transformer_facts(state: State) -> dict[str, int]:
    """What the shapes tell, by field name (`mlp_size` and `domains` stand for what they imply).

    A size whose tensors are absent is absent.
    """
    facts: dict[str, int] = {}
    for field, pattern, axis in _SOURCES:
        regex = re.compile(re.escape(pattern).replace("N", r"\d+"))
        key = next((name for name in state if regex.fullmatch(name)), None)
        if field not in facts and key is not None and state[key].ndim > axis:
            facts[field] = state[key].shape[axis]
    depth = _count(state, r"blocks\.(\d+)\.")
    if depth:
        facts["depth"] = depth
    domains = _count(state, r"(?:x_embedders|final_layers)\.(\d+)\.")
    if domains:
        facts.setdefault("domains", domains)
    return facts


def check_transformer_facts(config: TransformerConfig, facts: Mapping[str, int], origin: str):
    """Pass when the shapes agree with `config`.

    Raises: CheckpointError naming both values of the first few sizes that differ. Too few blocks
        pass: they are missing tensors, which the strict check lists.
    """
    claimed = {
        name: config.num_domains if name == "domains" else getattr(config, name) for name in facts
    }
    if facts.get("depth", 0) < config.depth:
        claimed.pop("depth", None)
    _compare("the tensors", facts, origin, claimed)


def _config_values(facts: Mapping[str, int]) -> dict:
    values: dict = dict(facts)
    if "domains" in values:
        values["num_labels"] = values.pop("domains") - 1
    if "mlp_size" in values:
        mlp_size = values.pop("mlp_size")
        if "hidden_size" in values:
            values["mlp_ratio"] = _ratio(mlp_size, values["hidden_size"])
    return values


def _ratio(size: int, width: int) -> float:
    """The ratio for which int(width * ratio) is size in spite of rounding."""
    ratio = size / width
    return ratio if int(width * ratio) == size else math.nextafter(ratio, math.inf)


def explain_transformer(faults: KeyFaults, config: TransformerConfig) -> str:
    """What these faults usually mean for a transformer, and what to do."""
    missing, unexpected = faults.missing, faults.unexpected
    if _none_left(faults, "final_layers.") or _none_left(faults, "x_embedders."):
        return (
            "Whole input or output layers are missing: this is what is left when a Sana checkpoint "
            "is taken for Jodi, or a start of training. Give the trained Jodi file."
        )
    lost = _lost(faults, r"blocks\.(\d+)\.")
    if lost:
        return (
            f"Blocks {_ranges(lost)} (of 0-{config.depth - 1}) are missing entirely: a conversion "
            "or a save that stopped early, or one part of several. Convert again from the complete "
            "file; if the model really is this shallow, pass its config."
        )
    lost = _lost(faults, r"(?:x_embedders|final_layers)\.(\d+)\.")
    if lost:
        return (
            f"The layers of domains {_ranges(lost)} are missing: a model trained on fewer labels, "
            f"where {config.num_domains} domains were expected. Give the file with all of them, or "
            "pass a config with the right num_labels."
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
    return _explain_common(faults) or (
        "The file is of another version, or tensors were lost or exchanged: use the original file, "
        "or convert it again."
        if missing or faults.misshaped
        else "The file holds more than this model: a newer or extended version. Update the program "
        "or use the released file."
    )
