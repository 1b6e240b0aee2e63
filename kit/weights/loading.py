"""From a weight file to a network: one way for every model.

    loaded = load("jodi.safetensors", TRANSFORMER, dtype=torch.bfloat16)

A model's room describes its files in one `Format`; the rest is the same for all. A file is read,
its kind and sizes are found, its tensors are compared with those of the network, and its facts are
checked. Then the network is built without memory (meta device) and takes over the file's tensors,
so that no weight exists twice.
"""

import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..config import JsonConfig
from ..errors import CheckpointError, shorten
from .faults import KeyFaults, find_key_faults, require_keys
from .kinds import FileKind, State, require_kind
from .read import StateFile, read_state_dict

logger = logging.getLogger("jodi")

Metadata = Mapping[str, str]
Config = TypeVar("Config", bound=JsonConfig)
Facts = TypeVar("Facts")

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def keep_names(state: State, naming: str | None = None) -> State:
    """The same tensors: for a model whose files have one naming."""
    return state


@dataclass(frozen=True)
class Format(Generic[Config, Facts]):
    """The description of a model's files.

    kind: what its files are called, and what a converted file says it is. fits: the kinds of file
    it is read from. config: the class of its sizes. sizes: (tensors under our names, metadata, a
    config passed or None) -> config, where what a file claims is bounded by what it holds. facts:
    (config, metadata, the file's name) -> what else the metadata says, checked. explain: what
    differences of names and shapes mean, and what to do. build: (config, operations=, device=) ->
    network. describe: the network of a config, for messages. our_names: tensors of any naming
    under ours. other_names: the way back, for a naming by its name. adds: metadata that a converted
    file gets where its source says nothing.
    """

    kind: FileKind
    fits: tuple[FileKind, ...]
    config: type[Config]
    sizes: Callable[[State, Metadata, Config | None], Config]
    facts: Callable[[Config, Metadata, str], Facts]
    explain: Callable[[KeyFaults, Config], str]
    build: Callable[..., nn.Module]
    describe: Callable[[Config], str]
    our_names: Callable[[State], State] = keep_names
    other_names: Callable[[State, str | None], State] = keep_names
    adds: Callable[[Config], Metadata] = lambda config: {}


@dataclass(frozen=True)
class Checked(Generic[Config, Facts]):
    """Tensors proved to be exactly those of a network, under our names, and what their file says.

    The numbers themselves are not looked at yet: see `check_values`, and `cast`, which does both.
    """

    kind: FileKind
    state: State
    config: Config
    facts: Facts
    metadata: Metadata
    source: str


@dataclass(frozen=True)
class Loaded(Generic[Facts]):
    """A network in evaluation mode, and what its file says."""

    model: Any
    facts: Facts
    metadata: dict[str, str]


def load(
    path,
    format: Format[Config, Facts],
    *,
    device="cpu",
    dtype: torch.dtype | None = None,
    operations=nn,
    config: Config | None = None,
) -> Loaded[Facts]:
    """The network in a weight file, in evaluation mode, and what the file says of it.

    dtype: of the weights; None keeps the file's own (the widest, where they are mixed).
    operations: namespace of layer classes that the network is built from.
    config: sizes, for a file that does not tell its own; must agree with the tensors.
    Raises: CheckpointError for an unreadable file, another model's file (WrongKindError), sizes
        that contradict each other or cannot be told, facts that make no sense, and missing,
        unexpected, misshaped, packed or non-finite tensors.
    """
    content = read_state_dict(path)
    checked = check(content, format, config=config, source=str(path))
    model = build(checked, format, device=device, dtype=dtype, operations=operations)
    return Loaded(model, checked.facts, dict(content.metadata))


def load_state(
    state: State,
    format: Format,
    metadata: Metadata | None = None,
    *,
    device="cpu",
    dtype: torch.dtype | None = None,
    operations=nn,
    config: JsonConfig | None = None,
) -> Any:
    """The network, as `load`, of tensors in memory."""
    checked = check(StateFile(dict(state), dict(metadata or {})), format, config=config)
    return build(checked, format, device=device, dtype=dtype, operations=operations)


def check(
    content: StateFile,
    format: Format[Config, Facts],
    *,
    kind: FileKind | None = None,
    config: Config | None = None,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
    source: str = "the state dict",
) -> Checked[Config, Facts]:
    """The content of a file, proved to be exactly a network of this format.

    kind: of the content, where it is known already. dtypes: that weights may have.
    Raises: CheckpointError as `load`, but for numbers that are not finite.
    """
    kind = kind or require_kind(content.tensors, format.fits, source)
    with name_source(source):
        state = format.our_names(content.tensors)
        found = format.sizes(state, content.metadata, config)
        faults = find_key_faults(state, _shapes_of(format, found))
        if faults:
            require_keys(faults, format.describe(found), format.explain(faults, found))
        check_dtypes(state, dtypes)
        facts = format.facts(found, content.metadata, source)
    return Checked(kind, state, found, facts, content.metadata, source)


def build(
    checked: Checked,
    format: Format,
    *,
    device="cpu",
    dtype: torch.dtype | None = None,
    operations=nn,
) -> nn.Module:
    """The network of checked tensors, in evaluation mode; see `load`."""
    model = format.build(checked.config, operations=operations, device="meta")
    _fill(model, checked.state, device, dtype, checked.source)
    return model


def check_values(checked: Checked) -> None:
    """Pass when every number is finite. Raises: CheckpointError naming the first tensor."""
    with name_source(checked.source):
        check_finite(checked.state)


def check_finite(state: State) -> None:
    """Pass when every number is finite. Raises: CheckpointError naming the first tensor."""
    for name, tensor in state.items():
        _require_finite(name, tensor.float() if tensor.dtype in FP8 else tensor)


def find_float_dtype(state: State) -> torch.dtype:
    """The dtype that holds every floating tensor of `state` without loss.

    Raises: CheckpointError for eight-bit and other packed formats.
    """
    widest = None
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        if tensor.dtype not in FLOATS:
            _refuse_dtype(name, tensor.dtype)
        widest = tensor.dtype if widest is None else torch.promote_types(widest, tensor.dtype)
    return widest or torch.float32


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating tensor in `dtype`, any other as it is.

    Raises: CheckpointError when a value is not finite, before or after: float16 ends at 65504.
    """
    if not tensor.is_floating_point():
        return tensor
    _require_finite(name, tensor)
    out = tensor.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and not _all_finite(out):
        raise CheckpointError(
            f"{name} reaches {tensor.abs().max().item():.4g}, more than {name_dtype(dtype)} can "
            f"hold ({torch.finfo(dtype).max:.4g}). Use bfloat16 or float32."
        )
    return out


def name_dtype(dtype: torch.dtype) -> str:
    """A dtype as people write it: "float16"."""
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def name_source(source: str):
    """Puts the file's name before the text of a CheckpointError raised inside."""
    try:
        yield
    except CheckpointError as error:
        if str(error).startswith(source):
            raise
        raise CheckpointError(f"{source}: {error}") from error


def _shapes_of(format: Format, config) -> dict[str, tuple[int, ...]]:
    try:
        model = format.build(config, device="meta")
    except (RuntimeError, OverflowError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the sizes it states make no network ({str(error).splitlines()[0][:120]}). Use the "
            "file that the training exported, or convert it again from its source."
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def check_dtypes(state: State, dtypes: tuple[torch.dtype, ...]) -> None:
    """Pass when weights have these dtypes only. Raises: CheckpointError naming the first other."""
    for name, tensor in state.items():
        if tensor.dtype not in dtypes:
            _refuse_dtype(name, tensor.dtype)


def _refuse_dtype(name: str, dtype: torch.dtype):
    raise CheckpointError(
        f"{name} is stored as {name_dtype(dtype)}; expected float16, bfloat16 or float32. Use a "
        "file that was not quantised."
    )


def _require_finite(name: str, tensor: Tensor) -> None:
    if not _all_finite(tensor):
        raise CheckpointError(
            f"{name} holds values that are not finite (NaN or infinity), where weights are always "
            "finite. The file is damaged or comes from a training that diverged: download it "
            "again, or go back to an earlier save."
        )


def _all_finite(tensor: Tensor) -> bool:
    # A NaN or an infinity shows in the extremes, which cost no mask of the tensor's size.
    return not tensor.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _fill(model: nn.Module, state: State, device, dtype: torch.dtype | None, source: str) -> None:
    """Move `state` into a model on the meta device, one tensor at a time."""
    with name_source(source):
        found = find_float_dtype(state)
        tensors = {n: cast(n, t, dtype or found).to(device) for n, t in state.items()}
    zeros = [name for name, tensor in state.items() if tensor.ndim > 1 and _all_zero(tensor)]
    if zeros:
        logger.warning(
            "%s: nothing but zeros in %s: a model before its training, or a download that stopped",
            source,
            shorten(zeros),
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
    # The first value is almost always enough, so that big tensors are not read again.
    return not tensor.flatten()[:1].any() and not tensor.any()
