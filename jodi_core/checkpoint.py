"""From a weight file to a network: read, name what is wrong, load strictly.

    model, metadata = load_transformer("jodi.safetensors", dtype=torch.bfloat16)

A network is built without memory (meta device) and takes over the file's tensors, so that no weight
exists twice. Every tensor must be there, with its shape, and nothing else.
"""

import contextlib
import itertools
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from . import autoencoder_keys, file_kind
from .autoencoder import DCAE
from .checkpoint_config import (
    check_autoencoder_facts,
    check_transformer_facts,
    infer_autoencoder_config,
    infer_transformer_config,
    transformer_facts,
)
from .checkpoint_faults import explain_autoencoder, explain_transformer, strict_keys
from .config import AutoencoderConfig, TransformerConfig
from .errors import CheckpointError
from .file_kind import FileKind, identify
from .state_file import StateFile, few, read_state_dict
from .transformer import JodiTransformer

__all__ = [
    "FileKind",
    "StateFile",
    "autoencoder_from_state",
    "identify",
    "infer_autoencoder_config",
    "infer_transformer_config",
    "load_autoencoder",
    "load_transformer",
    "null_text_is_two_rows",
    "read_state_dict",
    "transformer_from_state",
]

logger = logging.getLogger("jodi")

State = Mapping[str, Tensor]
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def float_dtype(state: State) -> torch.dtype:
    """The dtype that holds every floating tensor of `state` without loss.

    Raises: CheckpointError for eight-bit and other packed formats.
    """
    widest = None
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{name} is stored as {_plain(tensor.dtype)}; expected float16, bfloat16 or "
                "float32. Use a file that was not quantised."
            )
        widest = tensor.dtype if widest is None else torch.promote_types(widest, tensor.dtype)
    return widest or torch.float32


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating tensor in `dtype`, any other as it is.

    Raises: CheckpointError when a value is not finite, before or after: float16 ends at 65504.
    """
    if not tensor.is_floating_point():
        return tensor
    if not _all_finite(tensor):
        raise CheckpointError(
            f"{name} holds values that are not finite (NaN or infinity), where weights are always "
            "finite. The file is damaged or comes from a training that diverged: download it "
            "again, or go back to an earlier save."
        )
    out = tensor.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and not _all_finite(out):
        raise CheckpointError(
            f"{name} reaches {tensor.abs().max().item():.4g}, more than {_plain(dtype)} can hold "
            f"({torch.finfo(dtype).max:.4g}). Use bfloat16 or float32."
        )
    return out


def _all_finite(tensor: Tensor) -> bool:
    # A NaN or an infinity shows in the extremes, which cost no mask of the tensor's size.
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _take_over(model: nn.Module, state: State, device, dtype, source: str):
    """Move `state` into a model on the meta device, one tensor at a time."""
    with _naming(source):
        found = float_dtype(state)
        tensors = {n: cast(n, t, dtype or found).to(device) for n, t in state.items()}
    zeros = [name for name, tensor in state.items() if tensor.ndim > 1 and _all_zero(tensor)]
    if zeros:
        logger.warning(
            "%s: nothing but zeros in %s: a model before its training, or a download that stopped",
            source,
            few(zeros),
        )
    model.load_state_dict(tensors, strict=True, assign=True)
    outside = itertools.chain(model.named_parameters(), model.named_buffers())
    left = [name for name, tensor in outside if tensor.is_meta]
    if left:
        raise CheckpointError(
            f"{type(model).__name__} keeps {', '.join(left)} outside its state dict, so no file "
            "can fill them. This is a fault of the program, not of the file: report it."
        )
    model.eval()


def _all_zero(tensor: Tensor) -> bool:
    # The first value tells almost always, so that big tensors are not read once more.
    return not tensor.flatten()[:1].any() and not tensor.any()


def _shapes(cls, config) -> dict[str, tuple[int, ...]]:
    model = cls(config, device="meta")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def _naming(source: str):
    """Puts the file's name before the text of a CheckpointError raised inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
