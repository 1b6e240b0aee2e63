"""A program of somebody else that makes maps, as a Python file with `load` and `infer`."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..jodi_core.domains import DOMAIN_NAMES, find_domain
from ..jodi_core.evaluation.real import Infer
from ..kit.errors import JodiError
from .options import UsageError


def load_competitor(path: Path) -> tuple[str, Infer]:
    """Its title, and what makes maps of a picture.

    The file has `load()`, called once, and `infer(image)`, which takes an array (H, W, 3) float32
    in [0, 1] and returns maps by label, arrays (H, W), (H, W, 3) or (3, H, W) in [0, 1], drawn as
    Jodi draws them. TITLE names it in reports. The file may import what lies beside it.
    Raises: UsageError for a file without the two; JodiError, naming the file, for what they raise.
    """
    module = _run_file(path)
    load, infer = getattr(module, "load", None), getattr(module, "infer", None)
    if not callable(load) or not callable(infer):
        raise UsageError(f"{path} needs the functions load() and infer(image); docs/evaluation.md")
    _call(path, load)

    def make_maps(image: Tensor, labels: tuple[str, ...]) -> dict[str, Tensor]:
        made = _call(path, infer, image[0].permute(1, 2, 0).numpy().astype(np.float32))
        if not isinstance(made, dict):
            raise JodiError(f"{path}: infer must return maps by label, got {type(made).__name__}")
        named = {_find_label(path, name): each for name, each in made.items()}
        return {label: _to_map(path, label, named[label]) for label in labels if label in named}

    return str(getattr(module, "TITLE", path.stem)), make_maps


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"--competitor {path}: there is no such file")
    # A package of its folder, so that `from .other import x` finds other.py beside it.
    spec = importlib.util.spec_from_file_location(
        f"jodi_competitor_{path.stem}", path, submodule_search_locations=[str(path.parent)]
    )
    if spec is None or spec.loader is None:
        raise UsageError(f"--competitor {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the file look it up
    _call(path, spec.loader.exec_module, module)
    return module


def _find_label(path: Path, name) -> str:
    """The label of a map; other spellings of a label's name are understood."""
    try:
        label = find_domain(name).name
    except JodiError:
        label = ""
    if label not in DOMAIN_NAMES[1:] or not isinstance(name, str):
        raise JodiError(
            f"{path}: infer returned a map called {name!r}; the labels are "
            f"{', '.join(DOMAIN_NAMES[1:])}"
        )
    return label


def _call(path: Path, function, *arguments):
    try:
        return function(*arguments)
    except JodiError:
        raise
    except Exception as error:
        name = getattr(function, "__name__", "it")
        raise JodiError(f"{path}: {name} failed: {type(error).__name__}: {error}") from error


def _to_map(path: Path, label: str, made) -> Tensor:
    array = np.asarray(made.detach().cpu() if isinstance(made, Tensor) else made)
    if array.ndim == 3 and len(array) == 3 != array.shape[2]:
        array = array.transpose(1, 2, 0)
    gray = array.ndim == 2
    if not (gray or (array.ndim == 3 and array.shape[2] == 3)) or array.dtype.kind not in "biuf":
        raise JodiError(
            f"{path}: the map of {label} must be (H, W) or (H, W, 3), got {array.dtype} of shape "
            f"{array.shape}"
        )
    tensor = torch.from_numpy(array.astype(np.float32))
    if not (torch.isfinite(tensor).all() and tensor.min() >= 0 and tensor.max() <= 1):
        raise JodiError(f"{path}: the map of {label} must hold numbers from 0 to 1")
    return tensor if tensor.dim() == 2 else tensor.permute(2, 0, 1)
