"""What half precision costs: the error of bfloat16 against float32 truth, ours and the baseline's.

Two correct bfloat16 versions differ from one another by more than either errs, so neither is the
other's yardstick: truth is the same function of the same weights and inputs, all of which bfloat16
holds exactly, computed in float32.
"""

import copy

import torch
from torch import Tensor

from ..kit.vectors import relative_rms
from .cases import TASKS, Case
from .subjects import SIDES, Inputs, Subject

DEPTH, SIZE = 6, 256  # full width, fewer blocks and tokens: errors per block are what they are
SIGMA = 0.5  # 1000 times this is a time that bfloat16 holds exactly
NETWORK_TASKS = ("perceive1", "control1", "joint")


def bfloat16_errors(device: str, model: str = "1600m") -> dict[str, float]:
    """Relative RMS errors: `error_ours.bf16.step.joint`, `error_baseline...`, `error_ratio...`."""
    errors: dict[str, float] = {}
    subject = Subject(model, "bf16", device, depth=DEPTH)
    truth = copy.deepcopy(subject.baseline.transformer).float()
    for task in NETWORK_TASKS:
        case = Case("step", task, model, SIZE, "bf16", device)
        inputs = _exact(subject.inputs(case, 0))
        role = TASKS[task].as_tensor(1).to(device)
        time = torch.full((1,), 1000 * SIGMA, device=device)
        text = inputs.text
        with torch.inference_mode():
            exact = truth(inputs.x, time, text.caption, text.mask, role, inputs.clean)
        generated = list(TASKS[task].generated)
        errors |= _compare(subject, case, inputs, exact[:, generated], generated)
    truth = copy.deepcopy(subject.baseline.autoencoder).float()
    for kind in ("decode", "encode"):
        case = Case(kind, "", model, SIZE, "bf16", device)
        inputs = subject.inputs(case, 0)
        picture = inputs.pictures["image"]
        picture = picture.mul(2).sub(1).bfloat16().add(1).div(2)  # what bfloat16 holds
        inputs.pictures["image"] = picture.float()
        with torch.inference_mode():
            if kind == "decode":
                exact = truth.decode(inputs.clean[:, 0].float())
            else:
                exact = truth.encode((2 * picture.float() - 1).to(device))
        errors |= _compare(subject, case, inputs, exact)
    return errors


def _exact(inputs: Inputs) -> Inputs:
    return Inputs(**{**vars(inputs), "sigma": SIGMA})


def _compare(subject, case: Case, inputs: Inputs, exact: Tensor, slots=None) -> dict[str, float]:
    found = {}
    for side in SIDES:
        with torch.inference_mode():
            out = subject.work(case, side)(inputs)()
        out = out if slots is None else out[:, slots]
        found[side] = relative_rms(out.cpu(), exact.cpu())
    return {
        **{f"error_{side}.bf16.{case.name}": float(f"{found[side]:.4g}") for side in SIDES},
        f"error_ratio.bf16.{case.name}": round(found["ours"] / found["baseline"], 4),
    }
