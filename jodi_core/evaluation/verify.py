"""Compare this implementation with vectors computed by the published code.

A folder of vectors has sub-folders `jodi` and `dcae`; sizes are read from the files. Arithmetic is
float32 with TF32 off, and time is not rounded.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...kit.autoencoder.checkpoint import load_autoencoder
from ...kit.errors import JodiError, ShapeError
from ...kit.sampling import flow_sigmas, sample_dpmpp_2m
from ..model.checkpoint import load_transformer
from ..model.denoiser import prepare_denoiser
from ..roles import Role
from ..text import TextFeatures

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


def verify(folder: Path, device: str = "cpu") -> Iterator[CaseResult]:
    """Run every case below `folder`, one result at a time.

    A sub-folder that is not supported gives one SKIP; a case that raises is a FAIL that says why.
    Raises: JodiError when the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise JodiError(f"there is no folder {folder}; name a folder with sub-folders jodi or dcae")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        for path in sorted(p for p in folder.iterdir() if p.is_dir()):
            if path.name in _SUITES:
                yield from _SUITES[path.name](path, device)
            else:
                yield CaseResult(path.name, "SKIP", note="no such model is supported yet")
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _verify_jodi(folder: Path, device: str) -> Iterator[CaseResult]:
    model = _load(load_transformer, folder / "model.safetensors", device)
    if isinstance(model, CaseResult):
        yield model
        return
    if (folder / "cases.safetensors").exists():
        cases = _read_cases(folder / "cases.safetensors", device)
        if isinstance(cases, CaseResult):
            yield cases
        else:
            for name, case in cases[0].items():
                yield _check(f"jodi/{name}", EVALUATION_BOUND, lambda c=case: _evaluate(model, c))
    if (folder / "sampling.safetensors").exists():
        runs = _read_cases(folder / "sampling.safetensors", device)
        if isinstance(runs, CaseResult):
            yield runs
        else:
            for name, run in runs[0].items():
                yield _check(
                    f"jodi/{name}",
                    SAMPLING_BOUND,
                    lambda n=name, r=run: _sample(model, r, _settings(n, runs[1])),
                )


def _evaluate(model, case: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    # A row that generates nothing has no meaningful slot, and is no job for our network.
    rows = (case["role"] == Role.GENERATE).any(1)
    case = {name: part[rows] if len(part) == len(rows) else part for name, part in case.items()}
    names = ("x", "timestep", "caption", "caption_mask", "role", "clean_x")
    ours = model(*(case[name] for name in names))
    generated = case["role"] == Role.GENERATE
    return ours[generated], case["output"][generated]


def _settings(name: str, metadata: dict[str, str]) -> dict:
    """Steps, guidance and shift of one run, from the `runs` of the file's metadata."""
    for run in json.loads(metadata.get("runs", "[]")):
        if f"run{run['run']}" == name:
            return run
    raise JodiError(f"the file's metadata has no entry for {name} under `runs`; write one")


def _sample(model, run: dict[str, Tensor], settings: dict) -> tuple[Tensor, Tensor]:
    noise, role = run["noise"], run["role"]
    clean = run["clean_x"].expand_as(noise)
    role = role.expand(len(noise), -1)
    sigmas = flow_sigmas(settings["steps"], settings["flow_shift"])
    mask = run["caption_mask"]
    negative = run.get("negative_caption", run["caption"])
    # The published code masks both halves with the prompt's mask; this one is not read.
    unread = torch.ones(negative.shape[::2], device=negative.device)
    denoise = prepare_denoiser(
        model,
        role,
        clean,
        TextFeatures(run["caption"], mask),
        TextFeatures(negative, unread),
        sigmas=sigmas,
        guidance=settings["guidance"],
    )
    ours = sample_dpmpp_2m(denoise, noise, sigmas)
    given = (role == Role.CONDITION)[:, :, None, None, None]
    ours = torch.where(given, clean, ours)
    meaningful = role != Role.IGNORE
    return ours[meaningful], run["sample"][meaningful]


def _verify_dcae(folder: Path, device: str) -> Iterator[CaseResult]:
    for path in sorted(folder.glob("*_cases.safetensors")):
        weights = path.with_name(path.name.replace("_cases", ""))
        model = _load(load_autoencoder, weights, device)
        if isinstance(model, CaseResult):
            yield model
            continue
        scale = model.config.scaling_factor  # the vectors are unscaled
        cases = _read_cases(path, device)
        if isinstance(cases, CaseResult):
            yield cases
            continue
        for name, case in cases[0].items():
            title = f"dcae/{weights.stem}/{name}"
            yield _check(
                f"{title} encode",
                EVALUATION_BOUND,
                lambda c=case, m=model, s=scale: (m.encode(c["image"]) / s, c["encoded"]),
            )
            yield _check(
                f"{title} decode",
                EVALUATION_BOUND,
                lambda c=case, m=model, s=scale: (m.decode(c["latent"] * s), c["decoded"]),
            )


_SUITES = {"jodi": _verify_jodi, "dcae": _verify_dcae}


def relative_rms(ours: Tensor, reference: Tensor) -> float:
    """rms(ours - reference) / rms(reference), in float64.

    Raises: ShapeError when the shapes differ: they must not be stretched to fit.
    """
    if ours.shape != reference.shape:
        raise ShapeError(f"ours is {tuple(ours.shape)}, the reference {tuple(reference.shape)}")
    difference = (ours.double() - reference.double()).square().mean().sqrt()
    return float(difference / reference.double().square().mean().sqrt())


def _check(name: str, bound: float, run: Callable[[], tuple[Tensor, Tensor]]) -> CaseResult:
    try:
        with torch.inference_mode():
            ours, reference = run()
        error = relative_rms(ours, reference)
    except (ValueError, LookupError, TypeError, RuntimeError) as problem:
        return CaseResult(name, "FAIL", note=f"{type(problem).__name__}: {problem}")
    return CaseResult(name, "PASS" if error <= bound else "FAIL", error, bound)


def _load(loader, path: Path, device: str):
    try:
        model, _ = loader(path, device=device, dtype=torch.float32)
    except JodiError as problem:
        return CaseResult(f"{path.parent.name}/{path.stem}", "FAIL", note=str(problem))
    return model.eval()


def _read_cases(path: Path, device: str):
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
