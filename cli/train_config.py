"""`jodi train --config FILE`: train on pictures of one's own, as one file says."""

from pathlib import Path

from ..jodi_core.embedded import TEXT_ENCODER
from ..jodi_core.training.config import EMBEDDED, GEMMA, ModelConfig, load_train_config
from ..jodi_core.training.from_config import (
    Prepared,
    find_newest_update,
    prepare_training,
    read_losses,
    train,
)
from ..jodi_core.training.memory import count_parameters, count_state_bytes
from ..jodi_core.training.texts import TextReader, WordReader
from ..kit.pictures.files import save_png
from ..kit.training import distributed
from ..kit.training.curves import plot_curves
from ..kit.training.shards import join_torchrun
from .gemma import GemmaReader
from .model import choose_device
from .progress import Console

SHOWN_FAULTS = 10


def run_config(args, console: Console) -> int:
    """Train as a config says; `--check` stops before the first update."""
    config = load_train_config(args.config)
    device = join_torchrun(str(choose_device(config.training.device)))
    console.quiet = console.quiet or not distributed.is_first()
    text = load_text_reader(config.model, device)
    with console.bar("reading pictures", "picture") as update:
        prepared = prepare_training(config, text, device, update)
    tell_faults(prepared, console)
    if args.check:
        tell_memory(prepared, console)
        return 0
    paths = run_training(prepared, device, console)
    for path in paths.values():
        console.result(str(path))
    distributed.leave()
    return 0


def run_training(prepared: Prepared, device: str, console: Console, **options) -> dict[str, Path]:
    """Train with progress; however it ends, the curves are drawn."""
    folder, total = prepared.folder, prepared.config.training.updates
    if begun := find_newest_update(folder):
        console.note(f"going on from update {begun:,}")
    try:
        with console.bar("training") as update:

            def report(row: dict) -> None:
                if console.terminal:
                    update(row["step"], total)
                else:
                    shown = {k: v for k, v in row.items() if k not in ("step", "time")}
                    losses = ", ".join(f"{name} {value:g}" for name, value in shown.items())
                    console.note(f"update {row['step']:,}/{total:,}: {losses}")

            return train(prepared, device, report, **options)
    except KeyboardInterrupt:
        console.say(f"the last save is in {folder}; the same command goes on from it")
        raise
    finally:
        draw_losses(folder, console)


def draw_losses(folder: Path, console: Console) -> None:
    """Write `curves.png` of what a run has logged."""
    rows = read_losses(folder) if distributed.is_first() else []
    if rows:
        path = folder / "curves.png"
        save_png(path, plot_curves(rows, f"{folder}: loss over updates"))
        console.note(f"curves: {path}")


def load_text_reader(config: ModelConfig, device: str) -> TextReader:
    """The text encoder that a config names."""
    if config.text == GEMMA:
        return GemmaReader(config.text_model, device)
    return WordReader(TEXT_ENCODER if config.text == EMBEDDED else Path(config.text))


def tell_faults(prepared: Prepared, console: Console) -> None:
    """What was left out, the first lines of it, and what is left."""
    faults = prepared.faults
    for fault in faults[:SHOWN_FAULTS]:
        console.say(f"left out: {fault}")
    if len(faults) > SHOWN_FAULTS:
        more = len(faults) - SHOWN_FAULTS
        console.say(f"and {more} more: see {prepared.folder / 'faults.jsonl'}")
    sizes = {(entry.grid, entry.names) for entry in prepared.entries}
    console.note(f"{len(prepared.entries)} pictures of {len(sizes)} shapes and sets of labels")


def tell_memory(prepared: Prepared, console: Console) -> None:
    """Parameters, and the bytes of what is kept of each over the updates, by process."""
    config, model = prepared.config, prepared.start.model
    counts = count_parameters(model.config, config.lora)
    console.result(f"{counts.all:,} parameters, {counts.trained:,} of them trained")
    for processes in (1, 2, 4, 8):
        size = count_state_bytes(
            counts, short=config.training.dtype != "float32", processes=processes
        )
        console.result(
            f"{processes} processes: {size / 2**30:.2f} GiB each of weights, gradients, optimizer "
            "and averages; activations come on top"
        )
