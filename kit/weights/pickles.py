"""Reading torch pickles as tensors only (`weights_only=True`), since a full pickle runs programs.

A torch file is a zip archive of one pickle and a record of bytes for each storage, which may be
packed again by another program; the older form is one pickle with the bytes behind it. Either may
claim to hold more than it does, so what it claims is compared with its length first.
"""

import contextlib
import logging
import pickletools
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shorten
from .foreign import AGAIN

logger = logging.getLogger("jodi")

_ZIP = b"PK\x03\x04"
_LEGACY = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def begins_like_pickle(head: bytes) -> bool:
    """Whether these first bytes are those of a torch file, old or new."""
    return head.startswith((_ZIP, *_LEGACY))


def read_pickle(
    path: Path, head: bytes, size: int, *, mapped: bool, bare: str | None = None
) -> dict[str, Tensor]:
    """The tensors of a torch file, taken out of the usual wrappings.

    mapped: leave their bytes in the file until they are used. bare: the name for a tensor that is
    all there is; None refuses it.
    Raises: CheckpointError for a file that is no plain pickle of tensors, broken off, damaged,
        refused as unsafe, or that claims more than it holds.
    """
    if head.startswith(_ZIP):
        stored = _check_records(path, size)
        content = _load(path, mapped=mapped and stored)
    else:
        with _damage_is_told_later(), path.open("rb") as file:
            # Magic number, protocol and facts about the machine stand before the content.
            _check_claims(path, file, size, pickles=4)
        content = _load(path, mapped=False)
    if bare is not None and isinstance(content, Tensor):
        content = {bare: content}
    tensors = _tensors_of(content, path)
    for name, tensor in tensors.items():
        _check_dense(name, tensor, path)
    claimed = sum(tensor.nbytes for tensor in tensors.values())
    if claimed > _limit(size):
        raise CheckpointError(
            f"{path} holds {size:,} bytes, its tensors claim {claimed:,}: the same numbers many "
            "times over. Save them as plain tensors (.contiguous()) and give that file."
        )
    return {name: tensor.resolve_neg().resolve_conj() for name, tensor in tensors.items()}


def _limit(size: int) -> int:
    """Bytes that a file of this size may unpack to; shared tensors are counted each time."""
    return 2 * size + (64 << 20)


def _check_records(path: Path, size: int) -> bool:
    """Whether every record of an archive is stored as it is, so that it can be mapped.

    Raises: CheckpointError for an archive that is no torch file or unpacks to far more than it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:  # a damaged archive can raise anything
        if isinstance(error, zipfile.BadZipFile) and "not a zip" in str(error):
            raise CheckpointError(
                f"{path} is truncated: it begins like a torch file, but the list of contents at "
                f"its end is missing after {size:,} bytes. {AGAIN}."
            ) from None
        raise CheckpointError(
            f"{path} begins like a torch file, but its list of contents is damaged "
            f"({str(error)[:80]}). {AGAIN}."
        ) from None
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a TorchScript program, not a state dict. Expected plain weights; save "
            "module.state_dict() with safetensors where you have the model."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError(
            f"{path} is a zip archive of {len(names)} files ({shorten(names)}), not a weight file. "
            "Unpack it and give the weight file inside."
        )
    if "data.pkl" in names:
        raise CheckpointError(
            f"{path} was unpacked and packed again without the folder that its files were in. "
            "Pack the folder itself, or give the original file."
        )
    unpacked = sum(record.file_size for record in records)
    if unpacked > _limit(size):
        raise CheckpointError(
            f"{path} holds {size:,} bytes and unpacks to {unpacked:,}, far more than packed "
            "weights ever do. Do not use it; get the model from where it was published."
        )
    pickle = next(record for record in records if record.filename.endswith("data.pkl"))
    with _damage_is_told_later(), zipfile.ZipFile(path) as archive, archive.open(pickle) as file:
        _check_claims(path, file, size, pickles=1)
    return all(record.compress_type == zipfile.ZIP_STORED for record in records)


_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG")
_MOST = 2_000_000  # instructions; twenty thousand tensors take less than half of them


def _check_claims(path: Path, file, size: int, *, pickles: int) -> None:
    """Pass when no storage claims more numbers than the file may hold, in the first few pickles.

    Raises: CheckpointError, for a pickle without end too; what reading raises on damage.
    """
    seen = 0
    for _ in range(pickles):
        number = 0
        for opcode, value, _at in pickletools.genops(file):
            seen += 1
            if opcode.name in _NUMBERS and isinstance(value, int):
                number = value
            elif opcode.name == "BINPERSID" and number > _limit(size):
                raise CheckpointError(
                    f"{path} holds {size:,} bytes, but one of its storages claims {number:.3g} "
                    f"numbers: it is damaged. {AGAIN}."
                )
            if seen > _MOST:
                raise CheckpointError(
                    f"{path} is a pickle of more than {_MOST:,} instructions, more than any list "
                    "of weights needs. Take the weights out of it into a file of their own."
                )


@contextlib.contextmanager
def _damage_is_told_later():
    """Ignores the errors that damage raises: the next reader explains the damage."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception:
        logger.debug("a pickle could not be looked through", exc_info=True)


def _load(path: Path, *, mapped: bool):
    safely = {"map_location": "cpu", "weights_only": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about layouts that are refused below
            if mapped and path.suffix != ".safetensors":
                return torch.load(path, mmap=True, **safely)
            # An open file, since newer torch takes a path that ends in .safetensors at its word.
            with path.open("rb") as file:
                return torch.load(file, **safely)
    except Exception as error:  # a damaged pickle can raise anything
        text = str(error)
        if "weights_only" in text or "Unsupported" in text:
            raise CheckpointError(_describe_refusal(path, text)) from error
        detail = text.splitlines()[0][:200] if text else "no detail"
        raise CheckpointError(
            f"{path} begins like a torch pickle but breaks off or is damaged "
            f"({type(error).__name__}: {detail}). {AGAIN}."
        ) from error


def _describe_refusal(path: Path, text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported class ([\w.]+)", text)
    name = (found.group(1) or found.group(2)).removeprefix("builtins.") if found else ""
    asks = f"it asks for {name}" if name else "or it is damaged"
    return (
        f"{path} is a pickle that holds more than tensors ({asks}): a full training checkpoint "
        "with optimizer and random state, or an unsafe file. Only tensors are read from a pickle, "
        "because a pickle can run any program. If you trust its origin, take the weights out "
        "once, in Python: torch.save({'state_dict': torch.load(file, weights_only=False)"
        "['state_dict']}, 'weights.pth'), and give that file."
    )


_WRAPPINGS = ("state_dict", "model", "module", "model_state_dict")
_DEEPEST = 8  # wrappings in one another; a pickle may hold itself


def _tensors_of(content, path: Path) -> dict[str, Tensor]:
    """The tensors of an unpickled object, taken out of the usual wrappings."""
    for _ in range(_DEEPEST):
        inside = content if isinstance(content, dict) else {}
        wrapped = [inside[key] for key in _WRAPPINGS if isinstance(inside.get(key), dict)]
        if not wrapped:
            break
        content = wrapped[0]
    else:
        raise CheckpointError(
            f"{path} is a pickle of a dict in a dict, more than {_DEEPEST} times over or without "
            "end. Expected a state dict, bare or under 'state_dict' or 'model'."
        )
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is a pickle of a {type(content).__name__}, not of named tensors. Expected a "
            "state dict, bare or under 'state_dict' or 'model'; save module.state_dict()."
        )
    tensors = {k: v.detach() for k, v in content.items() if isinstance(v, Tensor)}
    tensors = {name: v for name, v in tensors.items() if isinstance(name, str)}
    if not tensors:
        held = [key for key in content if isinstance(key, (str, int))]
        raise CheckpointError(
            f"{path} is a pickle without named tensors at its top; it holds {shorten(held)}. "
            "Expected a state dict, bare or under 'state_dict' or 'model'."
        )
    if len(tensors) < len(content):
        others = [k for k in content if isinstance(k, (str, int)) and k not in tensors]
        logger.info("%s: left out what is not a tensor: %s", path, shorten(others))
    return tensors


def _check_dense(name: str, tensor: Tensor, path: Path) -> None:
    """Pass when the tensor is plain dense numbers. Raises: CheckpointError."""
    odd = None
    if tensor.is_nested:
        odd = "a nested tensor"
    elif tensor.layout is not torch.strided:
        odd = f"a sparse tensor ({str(tensor.layout).removeprefix('torch.')})"
    elif tensor.is_meta:
        odd = "a tensor without its numbers (meta)"
    elif tensor.is_quantized:
        odd = f"a quantised tensor ({str(tensor.dtype).removeprefix('torch.')})"
    if odd is not None:
        raise CheckpointError(
            f"{path}: {shorten([name])} is {odd}; expected plain dense numbers. Use the original "
            "file, or save it again from dense tensors."
        )
