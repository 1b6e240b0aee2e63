"""What the file of a DC-AE is: its sizes, under either naming, and what its faults mean.

loaded = load("dc-ae.safetensors", AUTOENCODER)
"""

import dataclasses
import re
from collections.abc import Mapping

from torch import nn

from ..errors import CheckpointError, shorten
from ..weights.faults import KeyFaults, explain_common, has_lost_all
from ..weights.kinds import DCAE as DCAE_FILE
from ..weights.kinds import DCAE_DIFFUSERS, State
from ..weights.loading import Format, load
from ..weights.sizes import (
    ONCE_MORE,
    build_config,
    check_claims,
    compare_sizes,
    count_indices,
    read_stored_config,
)
from .config import DC_AE_F32C32, AutoencoderConfig
from .dcae import DCAE
from .keys import to_mit_han_lab, to_naming


def load_autoencoder(
    path, *, device="cpu", dtype=None, operations=nn, config: AutoencoderConfig | None = None
) -> tuple[DCAE, dict[str, str]]:
    """The DC-AE in a weight file of either naming, and its metadata; see `weights.loading.load`."""
    loaded = load(
        path, AUTOENCODER, device=device, dtype=dtype, operations=operations, config=config
    )
    return loaded.model, loaded.metadata


def read_autoencoder_sizes(
    state: State, metadata: Mapping[str, str], config: AutoencoderConfig | None = None
) -> AutoencoderConfig:
    """The autoencoder's sizes from its shapes (mit-han-lab names).

    The latent scale is in no shape: it is that of the config passed, of the metadata, or of the
    released size f32c32 (0.41407).

    Raises: CheckpointError when sources contradict each other, when nothing tells the scale, or
        when the shapes are not those of a DC-AE of the Sana series.
    """
    facts = _read_shapes(state)
    if config is not None:
        values = {name: getattr(config, name) for name in facts}
        compare_sizes("the tensors", facts, "the config passed", values)
        return config
    stored = read_stored_config(metadata) or {}
    stored = _translate_diffusers(stored)
    compare_sizes("the tensors", facts, "its metadata", stored)
    released = dataclasses.asdict(DC_AE_F32C32)
    if all(facts[name] == released[name] for name in facts):
        stored.setdefault("scaling_factor", released["scaling_factor"])
    if "scaling_factor" not in stored:
        raise CheckpointError(
            "this autoencoder is not the released f32c32, and the file has no `config` in its "
            f"metadata, so nothing tells the scale of its latents. {ONCE_MORE}."
        )
    return build_config(AutoencoderConfig, {**facts, **stored})


def _read_shapes(state: State) -> dict:
    """Sizes from shapes, mit-han-lab names."""
    sides = ("encoder", "decoder")
    stages = max(count_indices(state, rf"{side}\.stages\.(\d+)\.") for side in sides)
    check_claims({"the number of stages": (stages, 0)})
    found = _read_stages(state, stages)
    blocks = sum(encoder + decoder for *_, encoder, decoder in found)
    check_claims({"the number of blocks": (blocks, len(state) // 4)})
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


_BLOCK = re.compile(
    r"(encoder|decoder)\.stages\.(\d+)\.op_list\.(\d+)\."
    r"(?:main\.(conv1)\.conv|context_module\.main\.proj\.norm)\.weight"
)


def _read_stages(state: State, count: int) -> list[tuple[int, str, int, int]]:
    """Width, block type, and the numbers of blocks in encoder and decoder, of each stage."""
    sides: dict[str, list[set[str]]] = {}
    for side in ("encoder", "decoder"):
        sides[side] = [set() for _ in range(count)]
    kinds: list[set[str]] = [set() for _ in range(count)]
    widths = [0] * count
    for name, tensor in state.items():
        if (match := _BLOCK.fullmatch(name)) and tensor.ndim:
            side, stage, entry, is_res = match.groups()
            index = int(stage)
            sides[side][index].add(entry)
            kinds[index].add("ResBlock" if is_res else "EViTS5_GLU")
            widths[index] = tensor.shape[0]
    stages = []
    for index in range(count):
        encoder, decoder = len(sides["encoder"][index]), len(sides["decoder"][index])
        if not encoder or not decoder or len(kinds[index]) != 1:
            raise CheckpointError(
                f"stage {index} of the autoencoder has {encoder} encoder and {decoder} decoder "
                f"blocks of {len(kinds[index])} kinds; expected at least one on either side, all "
                "of one kind, as in the DC-AE of the Sana series. The file is incomplete or "
                "another DC-AE: give dc-ae-f32c32-sana-1.0."
            )
        stages.append((widths[index], kinds[index].pop(), encoder, decoder))
    return stages


def _translate_diffusers(stored: dict) -> dict:
    """A stored autoencoder config under diffusers' names, renamed to ours."""
    stored = dict(stored)
    blocks = stored.get("block_types")
    if isinstance(blocks, tuple):
        ours = tuple("EViTS5_GLU" if block == "EfficientViTBlock" else block for block in blocks)
        stored["block_types"] = ours
    scales = stored.pop("qkv_multiscales", ())
    if not isinstance(scales, tuple) or any(s not in ([], [5]) for s in scales):
        raise CheckpointError(
            f"the metadata asks for attention scales {shorten([scales])}; only a kernel of 5 is "
            "supported. "
            "Give dc-ae-f32c32-sana-1.0 or an autoencoder of that series."
        )
    return stored


def explain_autoencoder(faults: KeyFaults, config: AutoencoderConfig) -> str:
    """What these faults usually mean for a DC-AE, and what to do."""
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if has_lost_all(faults, f"{side}."):
            return f"Only the {other} is there. Give the complete autoencoder."
    if any(name.endswith((".running_mean", ".running_var")) for name in faults.unexpected):
        return (
            "It normalises by batch, as the DC-AE trained on ImageNet does; Jodi's latents come "
            "from dc-ae-f32c32-sana-1.0."
        )
    return explain_common(faults) or (
        "The file is another DC-AE, or tensors were lost: give dc-ae-f32c32-sana-1.0, or convert "
        "it again from its source."
    )


def describe_autoencoder(config: AutoencoderConfig) -> str:
    """A DC-AE of these sizes, for messages."""
    return f"a DC-AE with stages of width {', '.join(map(str, config.widths))}"


AUTOENCODER: Format[AutoencoderConfig, AutoencoderConfig] = Format(
    kind=DCAE_FILE,
    fits=(DCAE_FILE, DCAE_DIFFUSERS),
    config=AutoencoderConfig,
    sizes=read_autoencoder_sizes,
    facts=lambda config, metadata, source: config,
    explain=explain_autoencoder,
    build=DCAE,
    describe=describe_autoencoder,
    our_names=to_mit_han_lab,
    other_names=lambda state, naming: state if naming is None else to_naming(state, naming),
)
