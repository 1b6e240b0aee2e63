"""Stored vectors of published code: reading them, and comparing with what we compute.

A folder of vectors has one sub-folder for each model; sizes are read from the files. Arithmetic is
float32 with TF32 off.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import JodiError, ShapeError

EVALUATION_BOUND = 1e-5
SAMPLING_BOUND = 1e-4


@dataclass(frozen=True)
class CaseResult:
    """One case: error is the relative RMS error, None where nothing was computed."""

    name: str
    status: str  # PASS, FAIL or SKIP
    error: float | None = None
    bound: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.status} {self.name}: {self.note}"
        return (
            f"{self.status} {self.name}: relative RMS error {self.error:.2e} (bound {self.bound:g})"
        )


# Folder and device -> results.
Suites = Mapping[str, Callable[[Path, str], Iterator[CaseResult]]]


def verify_folder(folder: Path, suites: Suites, device: str = "cpu") -> Iterator[CaseResult]:
    """Run every case below `folder`, one result at a time.

    suites: for each sub-folder's name, what runs its cases. A sub-folder that is not among them
    gives one SKIP; a case that raises is a FAIL that says why.
    Raises: JodiError when the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise JodiError(
            f"there is no folder {folder}; name a folder with sub-folders {' or '.join(suites)}"
        )
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        for path in sorted(p for p in folder.iterdir() if p.is_dir()):
            if path.name in suites:
                yield from suites[path.name](path, device)
            else:
                yield CaseResult(path.name, "SKIP", note="no such model is supported yet")
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def relative_rms(ours: Tensor, reference: Tensor) -> float:
    """rms(ours - reference) / rms(reference), in float64.

    Raises: ShapeError when the shapes differ: they must not be stretched to fit.
    """
    if ours.shape != reference.shape:
        raise ShapeError(f"ours is {tuple(ours.shape)}, the reference {tuple(reference.shape)}")
    difference = (ours.double() - reference.double()).square().mean().sqrt()
    return float(difference / reference.double().square().mean().sqrt())


def check_case(name: str, bound: float, run: Callable[[], tuple[Tensor, Tensor]]) -> CaseResult:
    """The result of one case. run: gives ours and the reference; what it raises is a FAIL."""
    try:
        with torch.inference_mode():
            ours, reference = run()
        error = relative_rms(ours, reference)
    except (ValueError, LookupError, TypeError, RuntimeError) as problem:
        return CaseResult(name, "FAIL", note=f"{type(problem).__name__}: {problem}")
    return CaseResult(name, "PASS" if error <= bound else "FAIL", error, bound)


def load_network(loader, path: Path, device: str):
    """The network of a weight file in float32, or a failed CaseResult that says why not."""
    try:
        model, _ = loader(path, device=device, dtype=torch.float32)
    except JodiError as problem:
        return CaseResult(f"{path.parent.name}/{path.stem}", "FAIL", note=str(problem))
    return model.eval()


def read_cases(path: Path, device: str):
    """Tensors named `case3.x` -> {"case3": {"x": ...}} in the order of their numbers, and metadata.

    A file that cannot be read gives a failed CaseResult.
    """
    cases: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as f:
            for key in f.keys():  # noqa: SIM118  (safe_open is no mapping)
                name, _, field = key.partition(".")
                cases.setdefault(name, {})[field] = f.get_tensor(key).to(device)
            metadata = f.metadata() or {}
    except (SafetensorError, OSError) as problem:
        return CaseResult(f"{path.parent.name}/{path.stem}", "FAIL", note=f"unreadable: {problem}")
    number = {name: int("".join(filter(str.isdigit, name)) or 0) for name in cases}
    return {name: cases[name] for name in sorted(cases, key=number.__getitem__)}, metadata
