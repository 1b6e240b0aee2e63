"""States of a training in torch's distributed checkpoint format; the newest few are kept.

A save is a folder `step-00000500` that every process writes its slices of. It gets its name when it
is whole, so a kill at any instant, or a full disk, leaves only whole saves. Any number of processes
can go on from one.
"""

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import CheckpointError
from ..files import write_text
from . import distributed
from .state import Ema

FACTS = "facts.json"
_PARTIAL = ".part-"


class Saves:
    """The saves in a folder; older ones than the newest `keep` are removed."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep
        if distributed.is_first():
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(path, ignore_errors=True)
            self._remove_old()  # a kill may have come between a save and this
        distributed.wait()

    def steps(self) -> list[int]:
        """The updates of the whole saves, oldest first."""
        return list_saves(self.folder)

    def write(self, tensors: dict[str, Tensor], facts: dict[str, Any], step: int) -> None:
        """Keep a state. Raises: CheckpointError when it cannot be written; older saves stay."""
        dcp = _library()
        path, partial = self._path(step), self.folder / f"{_PARTIAL}{step}"
        try:
            with _alone():
                dcp.save(dict(tensors), checkpoint_id=partial)
            if distributed.is_first():
                write_text(partial / FACTS, json.dumps(facts))
                _replace_folder(partial, path)
        # torch wraps what any process met, a full disk for example, in one of its own
        except (OSError, RuntimeError, dcp.CheckpointException) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"the save of update {step} could not be written to {self.folder} "
                f"({_first_line(error)}); older saves are whole. Free some space and run again"
            ) from None
        if distributed.is_first():
            self._remove_old()
        distributed.wait()

    def _remove_old(self) -> None:
        for old in self.steps()[: -self.keep]:
            _remove(self._path(old), self.folder / f"{_PARTIAL}old-{old}")

    def newest(self) -> Path | None:
        """The folder of the newest save."""
        steps = self.steps()
        return self._path(steps[-1]) if steps else None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def list_saves(folder: Path) -> list[int]:
    """The updates of the whole saves in a folder, oldest first."""
    found = (path.name.removeprefix("step-") for path in folder.glob("step-*"))
    return sorted(int(number) for number in found if number.isdigit())


def read_facts(save: Path) -> dict[str, Any]:
    """The plain values of a save."""
    return json.loads((save / FACTS).read_text())


def read_tensors(save: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors, whole or sharded, from a save. Raises: CheckpointError when they do not fit."""
    dcp = _library()
    try:
        with _alone():
            dcp.load(into, checkpoint_id=save)
    except (OSError, RuntimeError, ValueError, dcp.CheckpointException) as error:
        raise CheckpointError(
            f"{save} cannot be read, or is of another training ({_first_line(error)}); give the "
            "run's own config, or another run folder"
        ) from None


def read_shapes(save: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every tensor of a save."""
    entries = _library().FileSystemReader(save).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in entries.items()
        if hasattr(entry, "properties")
    }


def gather_state(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: Ema
) -> dict[str, Tensor]:
    """Every tensor of a training, by name: what is trained, its averages, the optimizers' state.

    Frozen parameters are not in it: they come from where the training started.
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    state = {f"model.{name}": p.detach() for p, name in names.items()}
    state |= {f"ema.{name}": average for name, average in ema.weights.items()}
    for prefix, values in _optimizer_states(names, optimizers):
        state |= {f"{prefix}{key}": value for key, value in values.items()}
    return state


def restore_state(
    save: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: Ema
) -> None:
    """Take over what `gather_state` gave for a save. Raises: CheckpointError."""
    stored = read_shapes(save)
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for name in names.values() if f"model.{name}" not in stored]
    if missing:
        raise CheckpointError(
            f"{save} is of another training: it holds no {missing[0]}; use another run folder"
        )
    state = {f"model.{name}": p.detach() for p, name in names.items()}
    state |= {f"ema.{name}": average for name, average in ema.weights.items()}
    parameters = {name: p for p, name in names.items()}
    slots = []
    for number, optimizer in enumerate(optimizers):
        own = {names[p] for group in optimizer.param_groups for p in group["params"] if p in names}
        for key, (shape, dtype) in stored.items():
            name, _, value = key.removeprefix(f"optimizer.{number}.").rpartition("/")
            if key.startswith(f"optimizer.{number}.") and name in own:
                p = parameters[name]
                like = p.detach()
                empty = torch.zeros_like(like, dtype=dtype) if shape == like.shape else None
                state[key] = torch.zeros(shape, dtype=dtype) if empty is None else empty
                slots.append((optimizer, p, value, key))
    read_tensors(save, state)
    for optimizer, p, value, key in slots:
        optimizer.state[p][value] = state[key]


def _library() -> Any:
    """`torch.distributed.checkpoint`, which takes a second to import and only training needs."""
    import torch.distributed.checkpoint as library

    return library


def _optimizer_states(names, optimizers) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for number, optimizer in enumerate(optimizers):
        for p, values in optimizer.state.items():
            if p in names:
                yield f"optimizer.{number}.{names[p]}/", values


@contextlib.contextmanager
def _alone():
    """Without torch's warning that one process saves alone, which is meant here."""
    with warnings.catch_warnings():
        if not (dist.is_available() and dist.is_initialized()):
            warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
        yield


def _replace_folder(partial: Path, path: Path) -> None:
    if path.exists():  # a run that was told to begin again from an older save
        _remove(path, partial.with_name(f"{partial.name}-old"))
    os.replace(partial, path)
    if hasattr(os, "O_DIRECTORY"):  # the name itself, too, should outlast a loss of power
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove(path: Path, by_way_of: Path) -> None:
    """Remove a folder; half of it never stands under its name."""
    with contextlib.suppress(OSError):
        os.replace(path, by_way_of)
        shutil.rmtree(by_way_of, ignore_errors=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
