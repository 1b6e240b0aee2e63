"""From a weight file to the network: read, name what is wrong, load strictly.

    model, metadata = load_transformer("diffusion_pytorch_model.safetensors", dtype=torch.bfloat16)

Sizes come from the tensors' shapes. Names are the released ones, so nothing is renamed; in
particular the last block's context modulation has six parts like every other and stays in order.
"""

import math
import re
from collections.abc import Mapping

from torch import nn

from ...kit.errors import CheckpointError, JodiError
from ...kit.weights.faults import KeyFaults, key_faults
from ...kit.weights.kinds import DDIT, identify
from ...kit.weights.loading import State, _naming, _shapes, _take_over
from ...kit.weights.read import few, read_state_dict
from ...kit.weights.sizes import _compare, _count, stored_config
from .config import DDIT_SD3, DDiTConfig
from .transformer import DDiTTransformer

HEAD_DIM = 64  # of the released model and of every Stable Diffusion 3


def load_transformer(
    path, *, device="cpu", dtype=None, operations=nn, num_heads: int | None = None
) -> tuple[DDiTTransformer, dict[str, str]]:
    """The transformer in a weight file, in evaluation mode, and the file's metadata.

    dtype: of the weights; None keeps the file's own (the widest, where they are mixed).
    operations: namespace of layer classes with Linear and Conv2d. num_heads: the one size that no
    shape tells; needed only where the file's metadata lacks it and heads are not 64 wide.
    Raises: CheckpointError for an unreadable file, another model's file, sizes that contradict each
        other, and missing, unexpected, misshaped or non-finite tensors.
    """
    state, metadata = read_state_dict(path)
    model = transformer_from_state(
        state,
        metadata,
        device=device,
        dtype=dtype,
        operations=operations,
        num_heads=num_heads,
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
    num_heads: int | None = None,
    source: str = "the state dict",
) -> DDiTTransformer:
    """As `load_transformer`, from tensors that a host has read already."""
    config = checked_config(state, metadata, num_heads=num_heads, source=source)
    model = DDiTTransformer(config, operations=operations, device="meta")
    _take_over(model, state, device, dtype, source)
    return model


def checked_config(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    num_heads: int | None = None,
    source: str = "the state dict",
) -> DDiTConfig:
    """The sizes of tensors that are proved to be exactly those of a D-DiT transformer.

    Raises: CheckpointError as `load_transformer`.
    """
    kind = identify(state)
    if kind is not DDIT:
        belongs = _BELONGS.get(kind.name, f"It holds {len(state)} tensors: {few(state)}.")
        raise CheckpointError(
            f"expected {DDIT.title}, but {source} is {kind.title}. {belongs} Give transformer/"
            "diffusion_pytorch_model.safetensors of a D-DiT release here."
        )
    with _naming(source):
        config = infer_config(state, metadata, num_heads=num_heads)
        faults = key_faults(state, _shapes(DDiTTransformer, config))
        if faults:
            raise CheckpointError(
                f"the tensors are not those of a D-DiT transformer of width {config.hidden_size} "
                f"and depth {config.depth}: {faults.text()}. {_explain(faults)}"
            )
    return config


_BELONGS = {
    "jodi": "It is this package's other model, and belongs where Jodi is loaded.",
    "sd3": "D-DiT grew out of Stable Diffusion 3, but has a head for words, which this file lacks.",
    "t5": "It belongs where the text encoder is asked for.",
    "kl-vae": "It belongs where the VAE is asked for.",
    "lora": "Apply it on top of a loaded model.",
}

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


def infer_config(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    num_heads: int | None = None,
) -> DDiTConfig:
    """The sizes, from shapes; the number of heads from the metadata, the caller, or 64 a head.

    The released width always has the released depth, because a file that lost its last blocks would
    pass for a shallower model.
    Raises: CheckpointError when metadata and shapes contradict each other, and for a table of
        positions that is missing or not square.
    """
    facts = _facts(state)
    stored = stored_config(metadata) or {}
    claimed = {ours: stored[name] for name, ours in _RELEASED_NAMES.items() if name in stored}
    found = dict(facts)
    if found.get("depth", 0) < claimed.get("depth", 0):
        found.pop("depth")  # missing tensors, which the strict check lists
    _compare("the tensors", found, "its metadata", claimed)
    if num_heads is not None:
        _compare("the metadata", claimed, "the caller", {"num_heads": num_heads})
        claimed["num_heads"] = num_heads
    values = {**facts, **claimed}
    width = values.get("hidden_size", 0)
    if "num_heads" not in claimed:
        if width % HEAD_DIM:
            raise CheckpointError(
                f"a width of {width} is no multiple of the usual {HEAD_DIM} a head, and the file "
                "has no `config` in its metadata: pass num_heads="
            )
        values["num_heads"] = width // HEAD_DIM
    if width == DDIT_SD3.hidden_size and "depth" not in claimed:
        values["depth"] = max(values.get("depth", 0), DDIT_SD3.depth)
    defaults = vars(DDIT_SD3)
    try:
        return DDiTConfig(**{name: values.get(name, defaults[name]) for name in defaults})
    except JodiError as error:
        raise CheckpointError(f"the sizes in the file do not make a model: {error}") from error


def _facts(state: State) -> dict[str, int]:
    """What the shapes tell, by field name. A size whose tensors are absent is absent."""
    facts: dict[str, int] = {}
    for field, key, axis in _SOURCES:
        if field not in facts and key in state and state[key].ndim > axis:
            facts[field] = state[key].shape[axis]
    depth = _count(state, r"transformer_blocks\.(\d+)\.")
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


def _explain(faults: KeyFaults) -> str:
    """What these faults usually mean, and what to do."""
    names = (*faults.unexpected, *faults.missing)
    if any(re.search(r"\.(norm_q|norm_k|norm_added_q|attn2)\b", n) for n in faults.unexpected):
        return (
            "It normalises queries and keys or attends twice, as Stable Diffusion 3.5 does, and "
            "D-DiT does not. Give the released D-DiT."
        )
    if "text_proj_out.weight" in faults.missing:
        return "The head for words is missing: give the complete file of D-DiT."
    last = [n for n, *_ in faults.misshaped if n.endswith("norm1_context.linear.weight")]
    if last or any("to_add_out" in n or "ff_context" in n for n in faults.missing):
        return (
            "A block's text stream is cut short, as in the last block of Stable Diffusion 3; in "
            "D-DiT every block is complete. Give the original file, not one that was converted."
        )
    if any(n.endswith(("scale_weight", "weight_scale", ".comfy_quant")) for n in names):
        return "It is quantised (scales beside the weights). Use a file that was not quantised."
    if len(faults.missing) > len(faults.expected) // 2:
        return "More than half is missing: one part of several. Join the parts into one file."
    if faults.missing or faults.misshaped:
        return "Tensors were lost or exchanged: use the original file."
    return "The file holds more than this model: an extended version. Use the released file."
