"""A whole training from a config: its data, its features, its updates, its files.

FOLDER/config.json      what was trained, to compare with when a run goes on
FOLDER/faults.jsonl     every picture or line that was left out, and why
FOLDER/features/        latents and text features
FOLDER/saves/           the newest states
FOLDER/log.jsonl        losses by domain, task and noise level
FOLDER/samples/         pictures made on the way
FOLDER/model.safetensors, lora.safetensors
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...kit.errors import JodiError
from ...kit.files import write_text
from ...kit.precision import choose_training_dtype
from ...kit.training import distributed
from ...kit.training.loop import LoopSettings, Report, run_training
from ...kit.training.lora import add_adapters
from ...kit.training.saves import Saves, list_saves
from ...kit.training.shards import Shards
from ...kit.training.state import RunFolder
from .config import TrainConfig
from .features import Entry, FeatureStore, Progress
from .network import TrainedJodi
from .reading import Bins
from .records import Fault, Record, scan
from .result import set_trained_roles, write_result
from .role_sampling import DrawRoles, draw_any, draw_published
from .showing import Showing
from .start import Start, load_start, make_encoder
from .task import FeatureTask
from .texts import TextReader

# What may differ between a run and its continuation: nothing that the data's order or the model
# depends on.
_FREE = {
    "training": ("updates", "save_every", "keep", "log_every", "device", "recompute"),
    "samples": None,
}


@dataclass(frozen=True)
class Prepared:
    """A training that is ready to begin."""

    config: TrainConfig
    start: Start
    store: FeatureStore
    entries: list[Entry]
    faults: list[Fault]

    @property
    def folder(self) -> Path:
        return Path(self.config.folder)


def prepare_training(
    config: TrainConfig,
    text: TextReader,
    device: str,
    progress: Progress | None = None,
    *,
    start: Start | None = None,
    about: Mapping | None = None,
) -> Prepared:
    """Everything before the first update: the model, the pictures, their features.

    start: in place of what the config names. about: what else must be the same when a run goes on.
    Raises: JodiError when nothing is left to train on, or something was left out and the config
    says `refuse`.
    """
    folder = Path(config.folder)
    start = start or load_start(config, text, device)
    names, (side, _) = start.facts.names, start.facts.native_size
    records, faults = _scan_all(config, names)
    encode = make_encoder(start.autoencoder, device)
    store = FeatureStore(
        folder / "features",
        names,
        Bins(start.facts.factor, side),
        encode,
        start.vae_sha256,
        text,
        empty_pose=config.data.empty_pose,
    )
    _check_same(json.loads(config.to_json()) | {"about": dict(about or {})}, folder)
    entries, more = store.prepare(records, progress)
    faults += more
    if distributed.is_first():
        lines = (json.dumps({"place": f.place, "reason": f.reason}) for f in faults)
        write_text(folder / "faults.jsonl", "".join(f"{line}\n" for line in lines))
    if faults and config.data.on_fault == "refuse":
        raise JodiError(
            f"{len(faults)} pictures or lines cannot be trained on, the first is {faults[0]}; all "
            f"stand in {folder / 'faults.jsonl'}. Mend them, or set data.on_fault to skip"
        )
    if not entries:
        first = f"the first thing left out is {faults[0]}; " if faults else ""
        raise JodiError(
            f"nothing is left to train on: {first}all of it stands in {folder / 'faults.jsonl'}"
        )
    return Prepared(config, start, store, entries, faults)


def train(
    prepared: Prepared,
    device: str,
    report: Report | None = None,
    *,
    model: TrainedJodi | None = None,
    draw_roles: DrawRoles | None = None,
    finish: Callable[[], None] | None = None,
    record: Mapping | None = None,
) -> dict[str, Path]:
    """Train, going on from the newest save if there is one; the paths of the files it left.

    model: what is trained, where it is not all of the start. draw_roles: in place of the config's.
    finish: changes the gradients of an update before the step.
    record: more that the files should say of their training.
    """
    config, t, folder = prepared.config, prepared.config.training, prepared.folder
    dtype = choose_training_dtype(device) if t.dtype == "auto" else getattr(torch, t.dtype)
    if model is None:
        model = TrainedJodi.of(prepared.start.model)
        if config.lora.rank:
            add_adapters(
                model, config.lora.targets, config.lora.rank, config.lora.scale, config.seed
            )
    model = model.to(device, torch.promote_types(dtype, torch.float32))
    draw = draw_roles or {"published": draw_published, "any": draw_any}[t.roles]
    task = FeatureTask(
        model, prepared.store, prepared.entries, draw, t, seed=config.seed, dtype=dtype
    )
    side = prepared.start.facts.native_size[0] // prepared.start.facts.vae_factor
    showing = Showing(
        folder / "samples", task, prepared.start.autoencoder, config.samples, (side, side)
    )
    mode = Shards(Saves(folder / "saves", t.keep), finish)
    run_training(task, folder, make_loop_settings(config), report, mode=mode, watch=showing)
    facts = set_trained_roles(prepared.start.facts, t.roles)
    about = {"updates": t.updates, "seed": config.seed, "pictures": len(prepared.entries)}
    about |= {"from": config.model.start, "rows": t.rows * t.micro_batches, **(record or {})}
    return write_result(model, facts, folder, about)


def make_loop_settings(config: TrainConfig) -> LoopSettings:
    """What the training loop needs of a config."""
    t = config.training
    return LoopSettings(
        steps=t.updates,
        micro_batches=t.micro_batches,
        seed=config.seed,
        warmup=t.warmup,
        clip=t.clip,
        ema=t.ema,
        save_every=t.save_every,
        log_every=t.log_every,
    )


def _scan_all(config: TrainConfig, names) -> tuple[list[tuple[Record, Mapping]], list[Fault]]:
    records: list[tuple[Record, Mapping]] = []
    faults: list[Fault] = []
    for source in config.sources:
        found, left = scan(
            Path(source.folder),
            names,
            split=source.split,
            need_captions=config.data.need_captions,
        )
        records += [(record, source.captioners) for record in found] * source.repeat
        faults += left
    return records, faults


def _check_same(now: Mapping, folder: Path) -> None:
    """Note what is trained, or check that a run to go on with is the same one."""
    path = folder / "config.json"
    if path.is_file() and any((folder / "saves").glob("step-*")):
        before = json.loads(path.read_text())
        changed = [
            f"{section}.{key}" if key else section
            for section, key in _differences(before, now)
            if not _is_free(section, key)
        ]
        if changed:
            raise JodiError(
                f"{folder} was begun with another {', '.join(changed)}; set it back to go on, or "
                "use another folder"
            )
    if distributed.is_first():
        write_text(path, json.dumps(now, indent=1) + "\n")
    distributed.wait()


def _differences(before: Mapping, now: Mapping):
    for section in sorted(set(before) | set(now)):
        old, new = before.get(section), now.get(section)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from (
                (section, k) for k in sorted(set(old) | set(new)) if old.get(k) != new.get(k)
            )
        elif old != new:
            yield section, ""


def _is_free(section: str, key: str) -> bool:
    return section in _FREE and (_FREE[section] is None or key in _FREE[section])


def find_newest_update(folder: Path) -> int:
    """The update that a run would go on from; 0 where there is no save."""
    steps = list_saves(folder / "saves")
    return steps[-1] if steps else 0


def read_losses(folder: Path) -> list[dict]:
    """What a run has logged."""
    return RunFolder(folder).read_log()
