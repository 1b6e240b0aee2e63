"""What the file of a D-DiT transformer is: its sizes, and what its faults mean.

    loaded = load("diffusion_pytorch_model.safetensors", TRANSFORMER, dtype=torch.bfloat16)

Sizes come from the tensors' shapes. Names are the released ones, so nothing is renamed; in
particular the last block's context modulation has six parts like every other and stays in order.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from torch import nn

from ...kit.errors import CheckpointError
from ...kit.weights.faults import KeyFaults, explain_common, find_lost, join_ranges
from ...kit.weights.kinds import DDIT, State
from ...kit.weights.loading import Format, load
from ...kit.weights.sizes import (
    build_config,
    check_claims,
    compare_sizes,
    count_indices,
    read_stored_config,
)
from .config import DDIT_SD3, DDiTConfig
from .facts import DDiTFacts, read_facts
from .transformer import DDiTTransformer

HEAD_DIM = 64  # of the released model and of every Stable Diffusion 3


def load_transformer(
    path, *, device="cpu", dtype=None, operations=nn, config: DDiTConfig | None = None
) -> tuple[DDiTTransformer, dict[str, str]]:
    """The transformer in a weight file and the file's metadata; see `kit.weights.loading.load`."""
    loaded = load(
        path, TRANSFORMER, device=device, dtype=dtype, operations=operations, config=config
    )
    return loaded.model, loaded.metadata


# Where a size can be read: field, key, axis.
_SOURCES = (
    ("hidden_size", "context_embedder.weight", 0),
    ("hidden_size", "text_proj_out.weight", 1),
    ("hidden_size", "null_image_embd", 2),
    ("context_channels", "context_embedder.weight", 1),
    ("vocab_size", "text_proj_out.weight", 0),
    ("vocab_size", "text_proj_out.bias", 0),
    ("mlp_size", "transformer_blocks.0.ff.net.0.proj.weight", 0),
    ("latent_channels", "pos_embed.proj.weight", 1),
    ("patch_size", "pos_embed.proj.weight", 2),
    ("frequency_size", "time_text_embed.timestep_embedder.linear_1.weight", 1),
    ("null_tokens", "null_image_embd", 1),
)
# Names of the released config.json, in ours. Others that it holds are not used.
_RELEASED_NAMES = {
    "num_layers": "depth",
    "num_attention_heads": "num_heads",
    "joint_attention_dim": "context_channels",
    "caption_projection_dim": "hidden_size",
    "vocab_size": "vocab_size",
    "in_channels": "latent_channels",
    "patch_size": "patch_size",
    "pos_embed_max_size": "position_size",
}


def read_sizes(
    state: State, metadata: Mapping[str, str], config: DDiTConfig | None = None
) -> DDiTConfig:
    """The sizes, from shapes; the number of heads from the metadata, or 64 channels a head.

    What is passed or stored must agree with the shapes. The released width without metadata has the
    released depth, because a file that lost its last blocks would pass for a shallower model.
    Raises: CheckpointError when sources contradict each other, for a table of positions that is
        missing or not square, and where nothing tells the number of heads.
    """
    facts = read_shapes(state)
    if config is not None:
        _compare(facts, "the config passed", dataclasses.asdict(config))
        return config
    stored = read_stored_config(metadata) or {}
    claimed = {ours: stored[name] for name, ours in _RELEASED_NAMES.items() if name in stored}
    _compare(facts, "its metadata", claimed)
    values = {**facts, **claimed}
    width = values.get("hidden_size", 0)
    if "num_heads" not in claimed:
        head = stored.get("attention_head_dim", HEAD_DIM)
        if not isinstance(head, int) or head < 1 or width % head:
            raise CheckpointError(
                f"nothing tells the number of heads: the width of {width} is no multiple of "
                f"{head}, and the file's metadata has no `config` that states it. Use the file "
                "that the training exported, or save the model again from where it runs."
            )
        values["num_heads"] = width // head
    if width == DDIT_SD3.hidden_size and "depth" not in claimed:
        values["depth"] = max(values.get("depth", 0), DDIT_SD3.depth)
    found = build_config(DDiTConfig, {**dataclasses.asdict(DDIT_SD3), **values})
    check_claims({"num_layers": (found.depth, len(state) // 20)})  # a block has 28 tensors
    return found


def read_shapes(state: State) -> dict[str, int]:
    """Sizes read from the shapes, by field name; a size whose tensors are missing is left out.

    Raises: CheckpointError for a table of positions that is missing or not square.
    """
    facts: dict[str, int] = {}
    for field, key, axis in _SOURCES:
        if field not in facts and key in state and state[key].ndim > axis:
            facts[field] = state[key].shape[axis]
    depth = count_indices(state, r"transformer_blocks\.(\d+)\.")
    if depth:
        facts["depth"] = depth
    table = state.get("pos_embed.pos_embed")
    if table is None or table.ndim != 3:
        raise CheckpointError(
            "pos_embed.pos_embed, the table of positions (1, cells, width), is missing. It is "
            "weights of this model and cannot be computed; give the complete file."
        )
    facts["position_size"] = math.isqrt(table.shape[1])
    if facts["position_size"] ** 2 != table.shape[1]:
        raise CheckpointError(
            f"pos_embed.pos_embed has {table.shape[1]} positions, which is no square: expected "
            "those of a square grid, 36864 (192 x 192) in the released files. The file was cut or "
            "belongs to another model; give the original."
        )
    return facts


def _compare(facts: Mapping[str, int], origin: str, claimed: Mapping):
    found = dict(facts)
    depth = claimed.get("depth", 0)
    if isinstance(depth, int) and found.get("depth", 0) < depth:
        found.pop("depth", None)  # missing tensors, which are listed by name
    compare_sizes("the tensors", found, origin, claimed)


def explain_transformer(faults: KeyFaults, config: DDiTConfig) -> str:
    """What these faults usually mean, and what to do."""
    if any(re.search(r"\.(norm_q|norm_k|norm_added_q|attn2)\.", n) for n in faults.unexpected):
        return (
            "It normalises queries and keys or attends twice, as Stable Diffusion 3.5 does, and "
            "D-DiT does not. Give the released D-DiT."
        )
    if "text_proj_out.weight" in faults.missing:
        return "The head for words is missing: give the complete file of D-DiT."
    lost = find_lost(faults, r"transformer_blocks\.(\d+)\.")
    if lost:
        return (
            f"Blocks {join_ranges(lost)} (of 0-{config.depth - 1}) are missing entirely: a save "
            "that stopped early, or one part of several. Give the complete file."
        )
    cut = any(name.endswith("norm1_context.linear.weight") for name, *_ in faults.misshaped)
    if cut or any("to_add_out" in name or "ff_context" in name for name in faults.missing):
        return (
            "A block's text stream is cut short, as in the last block of Stable Diffusion 3; in "
            "D-DiT every block is complete. Give the original file, not one that was converted."
        )
    return explain_common(faults) or (
        "Tensors were lost or exchanged: use the original file."
        if faults.missing or faults.misshaped
        else "The file holds more than this model: an extended version. Use the released file."
    )


def describe_transformer(config: DDiTConfig) -> str:
    """A transformer of these sizes, for messages."""
    return f"a D-DiT transformer of width {config.hidden_size} and depth {config.depth}"


TRANSFORMER: Format[DDiTConfig, DDiTFacts] = Format(
    kind=DDIT,
    fits=(DDIT,),
    config=DDiTConfig,
    sizes=read_sizes,
    facts=read_facts,
    explain=explain_transformer,
    build=DDiTTransformer,
    describe=describe_transformer,
)
