"""How a training shows itself: its progress while it runs, its curves however it ends."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..jodi_core.training.run import TrainingRun
from ..kit.pictures.files import save_png
from ..kit.training.curves import plot_curves
from ..kit.training.loop import Report
from ..kit.training.state import RunFolder
from .progress import Console

Model = TypeVar("Model")


def train_with_progress(
    run: TrainingRun, stage: Path, steps: int, work: Callable[[Report], Model], console: Console
) -> Model:
    """Train with progress; however it ends, the curves are drawn."""
    state = RunFolder(stage).load()
    if state:
        console.note(f"going on from step {state['step']:,}")
    del state
    try:
        with console.bar(stage.name) as update:

            def report(row: dict) -> None:
                if console.terminal:
                    update(row["step"], steps)
                else:
                    console.note(f"step {row['step']:,}/{steps:,}: {_losses(row)}")

            return work(report)
    except KeyboardInterrupt:
        console.say(f"the last save is in {stage}; the same command goes on from it")
        raise
    finally:
        if path := draw_curves(run, stage):
            console.note(f"curves: {path}")


def _losses(row: dict) -> str:
    shown = {k: v for k, v in row.items() if k not in ("step", "time")}
    return ", ".join(f"{name} {value:g}" for name, value in shown.items())


def draw_curves(run: TrainingRun, stage: Path) -> Path | None:
    """Draw the losses of a stage beside it; None without any."""
    rows = RunFolder(stage).read_log() if (stage / "log.jsonl").exists() else []
    if not rows:
        return None
    path = run.root / f"curves_{stage.name}.png"
    save_png(path, plot_curves(rows, f"{stage.name} of {run.root}: loss over steps"))
    return path
