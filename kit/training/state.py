"""The state of a training run: averaged weights, a resumable state on disk, the log."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..weights.write import replace_weights_file


class Ema:
    """Exponential moving average of what is trained, short at first and longer as training goes on.

    Frozen parameters are left out.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {k: p.detach().clone() for k, p in _trained(model)}

    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            targets, sources = [], []
            for name, p in _trained(model):
                targets.append(self.weights[name])
                sources.append(p)
            # torch imports its `_foreach` functions from its core without exporting them.
            lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage]
            lerp(targets, sources, 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, p in _trained(model):
                p.copy_(self.weights[name])

    @contextlib.contextmanager
    def shown(self, model: nn.Module) -> Iterator[None]:
        """The model has the averages in this block, and its own weights again after it."""
        own = {name: p.detach().clone() for name, p in _trained(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in _trained(model):
                    p.copy_(own[name])


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


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
        """The saved state on the CPU, whatever device it was saved from; None for a fresh run.

        Raises: CheckpointError for a file that is empty, damaged or no such state.
        """
        path = self.path / "state.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not isinstance(state.get("step"), int):
                raise ValueError("it holds no step")
        except Exception as error:  # damage raises anything
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise CheckpointError(
                f"{path} is no state to go on from ({reason}); put back a copy of it, or remove it "
                "and train from the start"
            ) from None
        return state

    def clear(self) -> None:
        """Remove what a kill in the middle of a save left; nobody else may be saving here."""
        for path in self.path.glob(".*.part"):
            with contextlib.suppress(OSError):
                path.unlink()

    def log(self, **values) -> None:
        with (self.path / "log.jsonl").open("a") as f:
            f.write(json.dumps({"time": round(time.time(), 1), **values}) + "\n")

    def read_log(self, up_to: int | None = None) -> list[dict]:
        """Every report, without those that a resumed run made again and lines that are damaged."""
        path = self.path / "log.jsonl"
        rows: dict[int, dict] = {}
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            with contextlib.suppress(
                AttributeError, KeyError, RecursionError, TypeError, ValueError
            ):
                row = json.loads(line)
                rows[int(row["step"])] = {
                    k: v for k, v in row.items() if isinstance(v, int | float)
                }
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
