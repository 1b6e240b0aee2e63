"""The state of a training run: averaged weights, a resumable state on disk, the log."""

import contextlib
import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ..weights.write import replace_weights_file


class Ema:
    """Exponential moving average of parameters, short at first and longer as training goes on."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {k: p.detach().clone() for k, p in model.named_parameters()}

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            targets, sources = [], []
            for name, p in model.named_parameters():
                targets.append(self.weights[name])
                sources.append(p)
            # torch imports its `_foreach` functions from its core without exporting them.
            lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
            lerp(targets, sources, 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self.weights[name])


class RunFolder:
    """One training run on disk: `state.pt` to resume from, `log.jsonl` with one line a report."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict) -> None:
        """Replace the saved state in one step: a kill leaves the old one or the new one."""
        with replace_weights_file(self.path / "state.pt", force=True) as file:
            torch.save(state, file)

    def load(self) -> dict | None:
        """The saved state on the CPU, whatever device it was saved from; None for a fresh run."""
        path = self.path / "state.pt"
        if not path.exists():
            return None
        return torch.load(path, map_location="cpu", weights_only=True)

    def log(self, **values) -> None:
        with (self.path / "log.jsonl").open("a") as f:
            f.write(json.dumps({"time": round(time.time(), 1), **values}) + "\n")

    def read_log(self, up_to: int | None = None) -> list[dict]:
        """Every report, without those that a resumed run made again or a kill cut short."""
        path = self.path / "log.jsonl"
        rows: dict[int, dict] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
                rows[row["step"]] = row
        return [rows[k] for k in sorted(rows) if up_to is None or k <= up_to]


def learning_rate_factor(
    step: int, progress: float, warmup: int, decay_share: float = 0.3
) -> float:
    """Linear warm-up over the first updates, then constant, then linear decay to zero over the
    last share of the run.

    progress: share of the run that is done, from 0 up to 1.
    """
    return min(1.0, (step + 1) / max(1, warmup), max(0.0, (1 - progress) / decay_share))


def parameters_as(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters cast for one forward pass; gradients flow back to the float32 originals."""
    if dtype == torch.float32:
        return dict(model.named_parameters())
    return {name: p.to(dtype) for name, p in model.named_parameters()}
