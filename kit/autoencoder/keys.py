"""The two published key formats of the DC-AE, and the way from each to the other.

`mit-han-lab` names are those of our own modules; `diffusers` names are those of `AutoencoderDC`.
The values are the same numbers, with two differences of layout. Diffusers cuts the map to queries,
keys and values into three `to_q`, `to_k`, `to_v` (the names mislead: they are thirds by rows of a
map whose rows are interleaved by head, and belong together again before heads are told apart), and
it keeps 1x1 kernels of the attention as matrices.

Source: mit-han-lab/dc-ae-f32c32-sana-1.0 and its diffusers twin; diffusers 0.35, AutoencoderDC.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError, shorten

MIT_HAN_LAB = "mit-han-lab"
DIFFUSERS = "diffusers"
NAMINGS = (MIT_HAN_LAB, DIFFUSERS)

# Module paths outside the stages: mit-han-lab, diffusers.
_ENDS = (
    ("encoder.project_in.conv", "encoder.conv_in"),
    ("encoder.project_out.main.op_list.0.conv", "encoder.conv_out"),
    ("decoder.project_in.main.conv", "decoder.conv_in"),
    ("decoder.project_out.op_list.0", "decoder.norm_out"),
    ("decoder.project_out.op_list.2.conv", "decoder.conv_out"),
)
_ENDS_ON = dict(_ENDS)
_ENDS_BACK = {hf: mit for mit, hf in _ENDS}
# Module paths within one entry of a stage. The first two are the step down and the step up.
_DOWN = ("main.conv", "conv")
_UP = ("main.conv.conv", "conv")
_BLOCKS = (
    ("main.conv1.conv", "conv1"),
    ("main.conv2.conv", "conv2"),
    ("main.conv2.norm", "norm"),
    ("context_module.main.aggreg.0.0", "attn.to_qkv_multiscale.0.proj_in"),
    ("context_module.main.aggreg.0.1", "attn.to_qkv_multiscale.0.proj_out"),
    ("context_module.main.proj.conv", "attn.to_out"),
    ("context_module.main.proj.norm", "attn.norm_out"),
    ("local_module.main.inverted_conv.conv", "conv_out.conv_inverted"),
    ("local_module.main.depth_conv.conv", "conv_out.conv_depth"),
    ("local_module.main.point_conv.conv", "conv_out.conv_point"),
    ("local_module.main.point_conv.norm", "conv_out.norm"),
)
_PARTS = {"encoder": (_DOWN, *_BLOCKS), "decoder": (_UP, *_BLOCKS)}
_STAGES = {"encoder": "down_blocks", "decoder": "up_blocks"}

_MIT_STAGE = re.compile(r"(encoder|decoder)\.stages\.(\d+)\.op_list\.(\d+)\.(.+)\.(weight|bias)")
_HF_STAGE = re.compile(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(\d+)\.(.+)\.(weight|bias)")
_MIT_QKV = "context_module.main.qkv.conv"
_MIT_OUT = "context_module.main.proj.conv"
_HF_THIRDS = ("attn.to_q", "attn.to_k", "attn.to_v")
_HF_OUT = "attn.to_out"


def to_naming(state: Mapping[str, Tensor], naming: str) -> dict[str, Tensor]:
    """The same weights under the keys of `naming`, whichever of the two they came in.

    Raises: CheckpointError for an unknown naming, or when one third of a query-key-value map lacks.
    """
    if naming not in NAMINGS:
        raise CheckpointError(
            f"autoencoder naming {naming!r} is unknown; use {' or '.join(NAMINGS)}"
        )
    return to_mit_han_lab(state) if naming == MIT_HAN_LAB else to_diffusers(state)


def to_mit_han_lab(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Diffusers keys -> mit-han-lab keys; keys of neither format stay as they are.

    Only the joined query-key-value maps are new tensors, all others share memory with `state`.
    Raises: CheckpointError when one or two of to_q, to_k, to_v are there without the rest, or when
        a tensor is there under both names.
    """
    out: dict[str, Tensor] = {}
    joined: set[str] = set()
    for name, tensor in state.items():
        match = _HF_STAGE.fullmatch(name)
        if match is None:
            _put(out, _swap_end(name, _ENDS_BACK), tensor)
            continue
        side, stage, entry, part, leaf = match.groups()
        prefix = f"{side}.stages.{stage}.op_list.{entry}"
        if part in _HF_THIRDS:
            # Joined once, in the place of the first third met, so that the order is kept.
            whole = f"{prefix}.{_MIT_QKV}.{leaf}"
            if whole not in joined:
                joined.add(whole)
                _put(out, whole, _join_thirds(state, name, part))
            continue
        parts = {hf: mit for mit, hf in _PARTS[side]}
        if part not in parts:
            _put(out, name, tensor)
            continue
        tensor = tensor[..., None, None] if part == _HF_OUT and tensor.ndim == 2 else tensor
        _put(out, f"{prefix}.{parts[part]}.{leaf}", tensor)
    return out


def _put(out: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if name in out:
        raise CheckpointError(
            f"the autoencoder holds {shorten([name])} twice, under its mit-han-lab and its "
            "diffusers name: two files were mixed. Convert or download it again."
        )
    out[name] = tensor


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mit-han-lab keys -> diffusers keys; keys of neither format stay as they are.

    All tensors share memory with `state`.
    Raises: CheckpointError when the rows of a query-key-value map cannot be cut in three.
    """
    out = {}
    for name, tensor in state.items():
        match = _MIT_STAGE.fullmatch(name)
        if match is None:
            out[_swap_end(name, _ENDS_ON)] = tensor
            continue
        side, stage, entry, part, leaf = match.groups()
        prefix = f"{side}.{_STAGES[side]}.{stage}.{entry}"
        parts = dict(_PARTS[side])
        if part == _MIT_QKV:
            for third, rows in zip(_HF_THIRDS, _cut_thirds(name, tensor), strict=True):
                out[f"{prefix}.{third}.{leaf}"] = rows
        elif part in parts:
            tensor = _matrix(tensor) if part == _MIT_OUT else tensor
            out[f"{prefix}.{parts[part]}.{leaf}"] = tensor
        else:
            out[name] = tensor
    return out


def _swap_end(name: str, table: dict[str, str]) -> str:
    module, dot, leaf = name.rpartition(".")
    return f"{table.get(module, module)}{dot}{leaf}"


def _join_thirds(state: Mapping[str, Tensor], name: str, part: str) -> Tensor:
    names = [name.replace(f".{part}.", f".{third}.") for third in _HF_THIRDS]
    missing = [n for n in names if n not in state]
    if missing:
        raise CheckpointError(
            f"the autoencoder holds {shorten([name])} but not {shorten(missing)}; the three make "
            "one map. The file is incomplete: convert or download it again."
        )
    thirds = [state[n] for n in names]
    shapes_differ = len({tuple(t.shape) for t in thirds}) > 1 or thirds[0].ndim == 0
    if shapes_differ or len({t.is_floating_point() and t.element_size() > 1 for t in thirds}) > 1:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}".replace("torch.", "") for t in thirds)
        raise CheckpointError(
            f"the thirds {shorten(names)} are {shapes}; expected three alike, which make one map. "
            "Tensors were exchanged: convert or download the file again."
        )
    joined = torch.cat(thirds)
    return joined[..., None, None] if joined.ndim == 2 else joined


def _cut_thirds(name: str, tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.ndim == 0 or tensor.shape[0] % 3:
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)}; expected a number of rows divisible by 3 "
            "(queries, keys, values). The file is damaged: convert or download it again."
        )
    return _matrix(tensor).chunk(3)


def _matrix(kernel: Tensor) -> Tensor:
    """A 1x1 kernel (O, I, 1, 1) as the matrix (O, I)."""
    return kernel.flatten(1) if kernel.shape[2:] == (1, 1) else kernel
