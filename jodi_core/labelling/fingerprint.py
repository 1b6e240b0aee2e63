"""What must be the same for two halves of a data set to be one: model, settings and code."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch

from ...kernels.selection import chosen
from ..pipeline import JodiPipeline
from .batch import Recipe

ROOT = Path(__file__).resolve().parents[2]
CODE = ("kernels", "kit", "jodi_core", "ddit_core")


def compute_fingerprint(pipeline: JodiPipeline, recipe: Recipe, files: Iterable[Path]) -> dict:
    """Everything that decides the bits of the results, as plain values.

    files: the weights. Only what they and this package's code hold counts, not where they lie.
    Raises: OSError when one cannot be read.
    """
    return {
        "model": pipeline.facts.title,
        "weights": digest(files),
        "code": digest_code(),
        "torch": torch.__version__,
        "device": pipeline.device.type,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "kernels": chosen(),
        "labels": list(recipe.labels),
        "size": list(recipe.size) if isinstance(recipe.size, tuple) else recipe.size,
        "fit": recipe.fit,
        "steps": recipe.steps or pipeline.facts.perception_steps,
        "sampler": recipe.sampler,
        "seed": recipe.seed,
        "tile": recipe.tile,
    }


def digest(files: Iterable[Path]) -> str:
    """A short name of what the files hold, one after the other."""
    state = hashlib.blake2b(digest_size=8)
    for path in files:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                state.update(chunk)
        state.update(b"\0end of a file\0")
    return state.hexdigest()


def digest_code(root: Path = ROOT) -> str:
    """A short name of the code that makes labels and captions. Comments count, line ends do not."""
    sources = sorted(
        (path for folder in CODE for path in (root / folder).rglob("*.py")),
        key=lambda path: path.relative_to(root).as_posix(),
    )
    state = hashlib.blake2b(digest_size=8)
    for path in sources:
        state.update(path.relative_to(root).as_posix().encode())
        state.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return state.hexdigest()
