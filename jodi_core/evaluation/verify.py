"""Compare this implementation with vectors computed by the published code.

A folder of vectors has sub-folders `jodi` and `dcae`; sizes are read from the files. Arithmetic is
float32 with TF32 off, and time is not rounded.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...kit import vectors
from ...kit.autoencoder.checkpoint import load_autoencoder
from ...kit.errors import JodiError
from ...kit.sampling import make_flow_sigmas, sample_dpmpp_2m
from ...kit.vectors import EVALUATION_BOUND, SAMPLING_BOUND, CaseResult
from ..model.checkpoint import load_transformer
from ..model.denoiser import prepare_denoiser
from ..roles import Role
from ..text import TextFeatures


def _verify_jodi(folder: Path, device: str) -> Iterator[CaseResult]:
    model = vectors.load_network(load_transformer, folder / "model.safetensors", device)
    if isinstance(model, CaseResult):
        yield model
        return
    if (folder / "cases.safetensors").exists():
        cases = vectors.read_cases(folder / "cases.safetensors", device)
        if isinstance(cases, CaseResult):
            yield cases
        else:
            for name, case in cases[0].items():
                yield vectors.check_case(
                    f"jodi/{name}", EVALUATION_BOUND, lambda c=case: _evaluate(model, c)
                )
    if (folder / "sampling.safetensors").exists():
        runs = vectors.read_cases(folder / "sampling.safetensors", device)
        if isinstance(runs, CaseResult):
            yield runs
        else:
            for name, run in runs[0].items():
                yield vectors.check_case(
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
    sigmas = make_flow_sigmas(settings["steps"], settings["flow_shift"])
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
        model = vectors.load_network(load_autoencoder, weights, device)
        if isinstance(model, CaseResult):
            yield model
            continue
        scale = model.config.scaling_factor  # the vectors are unscaled
        cases = vectors.read_cases(path, device)
        if isinstance(cases, CaseResult):
            yield cases
            continue
        for name, case in cases[0].items():
            title = f"dcae/{weights.stem}/{name}"
            yield vectors.check_case(
                f"{title} encode",
                EVALUATION_BOUND,
                lambda c=case, m=model, s=scale: (m.encode(c["image"]) / s, c["encoded"]),
            )
            yield vectors.check_case(
                f"{title} decode",
                EVALUATION_BOUND,
                lambda c=case, m=model, s=scale: (m.decode(c["latent"] * s), c["decoded"]),
            )


SUITES = {"jodi": _verify_jodi, "dcae": _verify_dcae}


def verify(folder: Path, device: str = "cpu") -> Iterator[CaseResult]:
    """The cases of Jodi and of its autoencoder below `folder`: see `vectors.verify_folder`."""
    return vectors.verify_folder(folder, SUITES, device)
