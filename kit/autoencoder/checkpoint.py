"""Load a DC-AE from a weight file. Its sizes come from the file."""

import dataclasses
import re
from collections.abc import Mapping

from torch import nn

from ..errors import CheckpointError
from ..weights import kinds as file_kind
from ..weights.faults import KeyFaults, _explain_common, _none_left, strict_keys
from ..weights.loading import State, _naming, _shapes, _take_over
from ..weights.read import read_state_dict
from ..weights.sizes import _build, _compare, _count, stored_config
from . import keys as autoencoder_keys
from .config import DC_AE_F32C32, AutoencoderConfig
from .dcae import DCAE


def load_autoencoder(
    path, *, device="cpu", dtype=None, operations=nn, config: AutoencoderConfig | None = None
) -> tuple[DCAE, dict[str, str]]:
    """The DC-AE in a weight file of either naming; otherwise as `load_transformer`."""
    state, metadata = read_state_dict(path)
    model = autoencoder_from_state(
        state,
        metadata,
        device=device,
        dtype=dtype,
        operations=operations,
        config=config,
        source=str(path),
    )
    return model, metadata


def autoencoder_from_state(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    device="cpu",
    dtype=None,
    operations=nn,
    config: AutoencoderConfig | None = None,
    source: str = "the state dict",
) -> DCAE:
    """As `load_autoencoder`, from tensors that a host has read already."""
    state, config = checked_autoencoder(state, metadata, config=config, source=source)
    model = DCAE(config, operations=operations, device="meta")
    _take_over(model, state, device, dtype, source)
    return model


def checked_autoencoder(
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    config: AutoencoderConfig | None = None,
    source: str = "the state dict",
) -> tuple[State, AutoencoderConfig]:
    """The tensors under mit-han-lab names, proved to be exactly those of a DC-AE, and its sizes.

    Raises: CheckpointError as `load_autoencoder`.
    """
    file_kind.require_kind(state, (file_kind.DCAE, file_kind.DCAE_DIFFUSERS), source)
    with _naming(source):
        state = autoencoder_keys.to_mit_han_lab(state)
        if config is None:
            config = infer_autoencoder_config(state, metadata)
        else:
            check_autoencoder_facts(config, state, "the config passed")
        strict_keys(state, _shapes(DCAE, config), config, explain_autoencoder)
    return state, config


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


def explain_autoencoder(faults: KeyFaults, config: AutoencoderConfig) -> str:
    """What these faults usually mean for a DC-AE, and what to do."""
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if _none_left(faults, f"{side}."):
            return f"Only the {other} is there. Give the complete autoencoder."
    if any(name.endswith((".running_mean", ".running_var")) for name in faults.unexpected):
        return (
            "It normalises by batch, as the DC-AE trained on ImageNet does; Jodi's latents come "
            "from dc-ae-f32c32-sana-1.0."
        )
    return _explain_common(faults) or (
        "The file is another DC-AE, or tensors were lost: give dc-ae-f32c32-sana-1.0, or convert "
        "it again from its source."
    )
