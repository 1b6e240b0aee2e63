"""Compare this implementation with vectors computed by the published code.

Cases at time 0 are checked twice: by the plain network, and by the two ways that leave out what a
task does not read. The run from noise to a picture uses our own noise levels, which are compared
with the stored ones as well.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...kit import vectors
from ...kit.errors import JodiError
from ...kit.sampling import sample_euler
from ...kit.vectors import EVALUATION_BOUND, SAMPLING_BOUND, CaseResult
from ..model.checkpoint import load_transformer
from ..model.denoiser import make_published_sigmas, prepare_denoiser


def verify_ddit(folder: Path, device: str) -> Iterator[CaseResult]:
    """One result for each head of each case of `folder`, and for the sampling run."""
    model = vectors.load_network(load_transformer, folder / "transformer.safetensors", device)
    if isinstance(model, CaseResult):
        yield model
        return
    cases = vectors.read_cases(folder / "cases.safetensors", device)
    if isinstance(cases, CaseResult):
        yield cases
        return
    for name, case in cases[0].items():
        if "velocity" in case or "text_logits" in case:
            yield from _verify_case(f"ddit/{name}", model, case)
        else:
            yield from _verify_run(name, model, case, cases[1])


def _verify_case(name: str, model, case: dict[str, Tensor]) -> Iterator[CaseResult]:
    def check(head: str, run):
        return vectors.check_case(f"{name} {head}", EVALUATION_BOUND, run)

    if "timestep" not in case and "latent" in case and "velocity" not in case:
        # Words are of time 0, stated or not.
        case = {**case, "timestep": case["latent"].new_zeros(len(case["latent"]))}

    def both():
        return model(case["latent"], case["timestep"], case["text_features"])

    if "velocity" in case:
        yield check("velocity", lambda: (both()[0], case["velocity"]))
        yield check("velocity alone", lambda: (_velocity(model, case), case["velocity"]))
    if "text_logits" in case:
        yield check("text_logits", lambda: (both()[1], case["text_logits"]))
        if "timestep" in case and not case["timestep"].any():
            yield check("text_logits alone", lambda: (_logits(model, case), case["text_logits"]))


def _velocity(model, case: dict[str, Tensor]) -> Tensor:
    context = model.prepare_text(case["text_features"], rows=len(case["latent"]))
    return model.velocity(case["latent"], case["timestep"].double() / 1000, context)


def _logits(model, case: dict[str, Tensor]) -> Tensor:
    text = case["text_features"]
    positions = torch.arange(text.shape[1], device=text.device).expand(len(text), -1)
    return model.logits(text, model.prepare_picture(case["latent"]), positions)


def _verify_run(name: str, model, run: dict[str, Tensor], metadata) -> Iterator[CaseResult]:
    def levels():
        settings = _settings(name, metadata)
        return make_published_sigmas(settings["steps"], settings["shift"])

    def sigmas():
        stored = run["sigmas"].double()
        return torch.tensor(levels(), dtype=torch.float64, device=stored.device), stored

    def sample():
        denoise = prepare_denoiser(
            model,
            run["text_features"],
            run.get("negative_features"),
            rows=len(run["noise"]),
            sigmas=levels(),
            guidance=_settings(name, metadata)["guidance"],
        )
        return sample_euler(denoise, run["noise"], levels()), run["sample"]

    if "sigmas" in run:
        yield vectors.check_case(f"ddit/{name} sigmas", EVALUATION_BOUND, sigmas)
    yield vectors.check_case(f"ddit/{name}", SAMPLING_BOUND, sample)


def _settings(name: str, metadata: dict[str, str]) -> dict:
    """Steps, guidance and shift of a run, from the entry of its name in the file's metadata."""
    if name not in metadata:
        raise JodiError(f"the file's metadata has no entry {name!r}; write one with steps, shift")
    return json.loads(metadata[name])


SUITES = {"ddit": verify_ddit}
