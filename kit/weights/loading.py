"""From tensors of a file to weights of a network: dtypes, finite numbers, strict names."""

import contextlib
import itertools
import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .read import few

logger = logging.getLogger("jodi")


State = Mapping[str, Tensor]


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
