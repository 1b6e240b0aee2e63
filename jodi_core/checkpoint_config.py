"""Sizes of a network, read from its weights.

Most sizes are in the tensor shapes. The rest comes from the file's metadata (`config`, JSON), from
a released size that is recognised, or from the caller, and is never guessed.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping

from torch import Tensor

from . import autoencoder_keys
from .config import DC_AE_F32C32, JODI_1600M, AutoencoderConfig, TransformerConfig
from .errors import CheckpointError, JodiError

State = Mapping[str, Tensor]

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


def infer_autoencoder_config(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    scaling_factor: float | None = None,
) -> AutoencoderConfig:
    """The autoencoder's sizes from its shapes, under either naming.

    The latent scale is in no shape: it comes from the metadata, the caller, or the released size
    f32c32 (0.41407).

    Raises: CheckpointError when sources contradict each other, when nothing tells the scale, or
        when the shapes are not those of a DC-AE of the Sana series.
    """
    facts = _autoencoder_facts(autoencoder_keys.to_mit_han_lab(state))
    given = {} if scaling_factor is None else {"scaling_factor": scaling_factor}
    stored = stored_config(metadata)
    if stored is not None:
        stored = _translate_diffusers(stored)
        _compare("the metadata", stored, "the caller", given)
        _compare("the tensors", facts, "its metadata", stored)
        given = {**stored, **given}
    released = dataclasses.asdict(DC_AE_F32C32)
    if all(facts[name] == released[name] for name in facts):
        given.setdefault("scaling_factor", released["scaling_factor"])
    if "scaling_factor" not in given:
        raise CheckpointError(
            "this autoencoder is not the released f32c32, and the file has no `config` in its "
            "metadata, so nothing tells the scale of its latents: pass scaling_factor= or a whole "
            "config=AutoencoderConfig(...)."
        )
    return _build(AutoencoderConfig, {**facts, **given})


def check_autoencoder_facts(config: AutoencoderConfig, state: State, origin: str):
    """Pass when the shapes of `state` (mit-han-lab names) agree with `config`.

    Raises: CheckpointError naming both values of the first few sizes that differ.
    """
    facts = _autoencoder_facts(state)
    _compare("the tensors", facts, origin, {name: getattr(config, name) for name in facts})


def _autoencoder_facts(state: State) -> dict:
    """Sizes from shapes, mit-han-lab names."""
    stages = max(_count(state, rf"{side}\.stages\.(\d+)\.") for side in ("encoder", "decoder"))
    found = [_stage(state, i) for i in range(stages)]
    facts = {
        "widths": tuple(width for width, *_ in found),
        "block_types": tuple(block for _, block, *_ in found),
        "encoder_depths": tuple(depth for *_, depth, _ in found),
        "decoder_depths": tuple(depth for *_, depth in found),
    }
    for field, key, axis in (
        ("latent_channels", "encoder.project_out.main.op_list.0.conv.weight", 0),
        ("latent_channels", "decoder.project_in.main.conv.weight", 1),
        ("in_channels", "encoder.project_in.conv.weight", 1),
        ("in_channels", "decoder.project_out.op_list.2.conv.weight", 0),
    ):
        if field not in facts and key in state and state[key].ndim > axis:
            facts[field] = state[key].shape[axis]
    heads = [t for name, t in state.items() if name.endswith(".aggreg.0.1.weight") and t.ndim > 1]
    if heads:
        facts["attention_head_dim"] = heads[0].shape[1]
    return facts


def _stage(state: State, index: int) -> tuple[int, str, int, int]:
    """Width, block type, and the numbers of blocks in encoder and decoder of one stage."""
    pattern = re.compile(
        rf"(encoder|decoder)\.stages\.{index}\.op_list\.(\d+)\."
        r"(?:main\.(conv1)\.conv|context_module\.main\.proj\.norm)\.weight"
    )
    entries: dict[str, set[str]] = {"encoder": set(), "decoder": set()}
    kinds = set()
    width = 0
    for name, tensor in state.items():
        if (match := pattern.fullmatch(name)) and tensor.ndim:
            side, entry, is_res = match.groups()
            entries[side].add(entry)
            kinds.add("ResBlock" if is_res else "EViTS5_GLU")
            width = tensor.shape[0]
    if not entries["encoder"] or not entries["decoder"] or len(kinds) != 1:
        raise CheckpointError(
            f"stage {index} of the autoencoder has {len(entries['encoder'])} encoder and "
            f"{len(entries['decoder'])} decoder blocks of {len(kinds)} kinds; expected at least "
            "one on either side, all of one kind, as in the DC-AE of the Sana series. The file is "
            "incomplete or another DC-AE: give dc-ae-f32c32-sana-1.0."
        )
    return width, kinds.pop(), len(entries["encoder"]), len(entries["decoder"])


def _translate_diffusers(stored: dict) -> dict:
    """Diffusers words in a stored autoencoder config, in ours."""
    stored = dict(stored)
    names = {"EfficientViTBlock": "EViTS5_GLU"}
    if "block_types" in stored:
        stored["block_types"] = tuple(names.get(b, b) for b in stored["block_types"])
    scales = stored.pop("qkv_multiscales", None)
    if scales is not None and any(list(s) not in ([], [5]) for s in scales):
        raise CheckpointError(
            f"the metadata asks for attention scales {scales}; only a kernel of 5 is supported. "
            "Give dc-ae-f32c32-sana-1.0 or an autoencoder of that series."
        )
    return stored


def stored_config(metadata: Mapping[str, str] | None) -> dict | None:
    """The metadata's `config` as plain values with tuples for lists, or None when it has none.

    Raises: CheckpointError when it is not a JSON object.
    """
    text = (metadata or {}).get("config")
    if text is None:
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"the file's metadata has a `config` that is not JSON ({error}). Expected the sizes of "
            "the network; convert the file again from its source."
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"the file's metadata has a `config` that is a {type(values).__name__}; expected a "
            "JSON object with the sizes of the network. Convert the file again from its source."
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _compare(one: str, values: Mapping, other: str, others: Mapping):
    differ = [name for name in values if name in others and values[name] != others[name]]
    if differ:
        told = "; ".join(f"{n} is {values[n]} by {one}, {others[n]} by {other}" for n in differ[:4])
        raise CheckpointError(
            f"sizes contradict each other: {told}. The metadata or the config belongs to another "
            "model, or tensors were exchanged: use the file's own, or convert it again."
        )


def _build(cls, values: dict):
    for field in dataclasses.fields(cls):
        value = values.get(field.name, 0)
        if field.type is int and type(value) is not int:
            raise CheckpointError(
                f"{field.name} is {value!r} in the file's metadata; expected a whole number. "
                "Convert the file again from its source."
            )
    try:
        return cls.from_dict(values)
    except (JodiError, TypeError) as error:
        raise CheckpointError(
            f"the sizes found in the file do not make a model: {error}"
        ) from error


def _count(state: State, pattern: str) -> int:
    """One more than the highest index that the pattern's group finds."""
    found = (re.match(pattern, name) for name in state)
    return 1 + max((int(match.group(1)) for match in found if match), default=-1)
