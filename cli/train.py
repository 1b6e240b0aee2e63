"""`jodi train`: from nothing to an embedded model, one stage at a time, each resumable."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ..ddit_core.model.transformer import DDiTTransformer
from ..jodi_core.domains import DOMAIN_NAMES, DOMAINS
from ..jodi_core.embedded import AUTOENCODER, TEXT_ENCODER, TRANSFORMER, read_samples
from ..jodi_core.model.checkpoint import load_transformer
from ..jodi_core.model.transformer import JodiTransformer
from ..jodi_core.training.export import Parts, export
from ..jodi_core.training.run import PICTURE_SHARES, TrainingRun
from ..jodi_core.training.samples import write_samples
from ..jodi_core.training.transformer import TrainingSettings, make_nano_config, train_transformer
from ..kit.autoencoder.checkpoint import load_autoencoder
from ..kit.autoencoder.dcae import DCAE
from ..kit.config import parse_json
from ..kit.errors import JodiError
from ..kit.pictures.contact_sheet import draw_contact_sheet
from ..kit.pictures.files import save_png
from ..kit.precision import choose_training_dtype
from ..kit.reader.reader import Reader
from ..kit.scenes.folder import EXTRA, write_folder
from ..kit.scenes.render import check_training_seeds
from ..kit.scenes.store import SceneStore
from ..kit.training.autoencoder import measure_round_trip, train_autoencoder
from ..kit.training.distributed import is_first, run_processes
from ..kit.training.loop import Report
from ..kit.training.reader import measure_reader, prepare_lessons, train_reader, write_reader
from ..kit.weights.convert import DTYPES
from ..kit.weights.loading import cast
from ..kit.weights.write import write_state_dict
from .model import choose_device
from .nano import nano
from .options import EMBEDDED, UsageError
from .places import check_file, check_folder
from .progress import Console
from .train_config import run_config
from .train_ddit import ddit
from .train_options import add_stages
from .train_progress import draw_curves, train_with_progress

Model = TypeVar("Model", DCAE, JodiTransformer, Reader, DDiTTransformer)


def add(commands) -> None:
    add_stages(commands, {name: _looked_up(stage) for name, stage in STAGES.items()}, run_config)


def scenes(args, console: Console) -> int:
    """Render the training scenes."""
    run = TrainingRun(args.run_folder)
    with console.bar("rendering", "scene") as update:
        store = SceneStore.build(
            run.scenes,
            args.count,
            args.size,
            first_seed=args.first_seed,
            workers=args.workers,
            progress=update,
        )
    console.note(f"{len(store)} scenes of {store.size} px in {run.scenes}")
    return 0


def autoencoder(args, console: Console) -> int:
    """Train the autoencoder on the pictures of all domains."""
    run, device = TrainingRun(args.run_folder), str(choose_device(args.device))
    store = run.store()
    start = None
    if args.continue_from:
        start, _ = load_autoencoder(_weights(args.continue_from, AUTOENCODER), dtype=torch.float32)
    train = {
        "steps": args.steps,
        "seed": args.seed,
        "batch": args.batch,
        "lr": args.lr,
        "muon_lr": args.muon_lr,
    }

    def work(report):
        return train_autoencoder(
            store,
            run.autoencoder,
            PICTURE_SHARES,
            start_from=start,
            device=device,
            dtype=_dtype_of(args.dtype, device),
            save_every=args.save_every,
            seconds=_seconds(args.minutes),
            report=report,
            **train,
        )

    model = train_with_progress(run, run.autoencoder, args.steps, work, console)
    record = {**train, "scenes": len(store), "size": store.size}
    _write(model, run.vae, {"kind": "dcae", "training": json.dumps(record, sort_keys=True)})
    psnr = measure_round_trip(model, store, list(PICTURE_SHARES), min(64, 1 + len(store) // 8))
    console.note(f"round trip, PSNR in dB: {psnr}")
    console.result(str(run.vae))
    return 0


def latents(args, console: Console) -> int:
    """Encode the scenes once, so that training reads latents."""
    run = TrainingRun(args.run_folder)
    store, vae = run.store(), _vae(run, args.vae)
    with console.bar("encoding", "scene") as update:
        z = run.encode(
            store,
            vae,
            dtype=DTYPES[args.dtype],
            device=str(choose_device(args.device)),
            progress=update,
        )
    spread = float(z[:512].float().std())
    console.note(f"latents {tuple(z.shape)}, standard deviation {spread:.3f} (1 is right)")
    console.result(str(run.latents))
    return 0


def transformer(args, console: Console) -> int:
    """Role-switch training of the diffusion transformer on the latents."""
    run = TrainingRun(args.run_folder)
    run.store()
    if not run.latents.exists():
        raise JodiError(f"there is no {run.latents}; encode the scenes first: `jodi train latents`")
    request = _Request(
        run=run,
        vae=_vae(run, args.vae),
        continue_from=args.continue_from,
        device=str(choose_device(args.device)),
        settings=TrainingSettings(
            steps=args.steps,
            tokens=args.tokens,
            micro_batches=args.micro_batches,
            muon_lr=args.muon_lr,
            adam_lr=args.adam_lr,
            ema=args.ema,
            seed=args.seed,
            save_every=args.save_every,
            dtype=_dtype_of(args.dtype, choose_device(args.device)),
            full_noise=args.full_noise,
            seconds=_seconds(args.minutes),
            # Weights to go on from can read already.
            reading_share=0.0 if args.continue_from else TrainingSettings.reading_share,
        ),
    )
    run.text_encoder(like=TEXT_ENCODER if args.continue_from == EMBEDDED else None)

    def work(report: Report) -> JodiTransformer:
        return run_processes(args.processes, functools.partial(_train, request), report)

    model = train_with_progress(run, run.transformer, args.steps, work, console)
    _write(model, run.model, {"kind": "jodi", "trained_roles": "any"})
    console.result(str(run.model))
    return 0


@dataclass(frozen=True)
class _Request:
    """What a transformer is trained from. Every process reads the files for itself."""

    run: TrainingRun
    vae: Path
    continue_from: str | None
    device: str
    settings: TrainingSettings


def _train(request: _Request, report: Report | None = None) -> JodiTransformer:
    run, store = request.run, request.run.store()
    z = run.encode(store, request.vae)
    start, origin = None, "fresh"
    if request.continue_from:
        path, origin = _weights(request.continue_from, TRANSFORMER), str(request.continue_from)
        start, _ = load_transformer(path, dtype=torch.float32)
    text = run.text_encoder()
    if start and start.config.caption_channels != text.channels:
        raise JodiError(
            f"{origin} reads text of {start.config.caption_channels} channels, the run's words "
            f"make {text.channels}; continue from a model of the same words"
        )
    config = start.config if start else make_nano_config(text, z.shape[2])
    if is_first():
        run.begin_transformer(config, request.settings, origin)
    return train_transformer(
        z,
        store.captions,
        text,
        run.transformer,
        request.settings,
        start_from=start,
        device=request.device,
        report=report,
    )


def export_model(args, console: Console) -> int:
    """Write the three files of an embedded model."""
    run = TrainingRun(args.run_folder)
    record: dict = {}
    if args.transformer:
        model, _ = load_transformer(args.transformer, dtype=torch.float32)
    else:
        model, steps = run.averaged_transformer()
        record["transformer"] = {**run.transformer_record(), "steps": steps}
    vae = _vae(run, args.vae)
    decoder, metadata = load_autoencoder(vae, dtype=torch.float32)
    if "training" in metadata:
        record["autoencoder"] = parse_json(metadata["training"], f"`training` in {vae}")
    if run.scenes.is_dir():
        record["scenes"] = run.scene_record()
    size = args.native_size or run.store().size
    paths = export(
        Parts(model, decoder, run.text_encoder()),
        args.to,
        native_size=size,
        record=record,
        title=args.title,
        guidance=args.guidance,
        dtype=DTYPES[args.dtype],
        force=args.force,
    )
    for path in paths.values():
        console.result(f"{path}  {path.stat().st_size:,} bytes")
    return 0


def curves(args, console: Console) -> int:
    """Draw the losses of a run."""
    run = TrainingRun(args.run_folder)
    drawn = [
        draw_curves(run, stage) for stage in (run.autoencoder, run.transformer, run.root / "ddit")
    ]
    for path in filter(None, drawn):
        console.result(str(path))
    if not any(drawn):
        raise JodiError(f"{run.root} holds no logs with losses; train first")
    return 0


def samples(args, console: Console) -> int:
    """Make the bundled sample pictures again."""
    paths = write_samples(args.to)
    made = read_samples(args.to)
    rows = [[(d.title, sample.pictures[d.name]) for d in DOMAINS] for sample in made]
    sheet = draw_contact_sheet(rows, headings=[sample.caption for sample in made])
    if args.sheet:
        save_png(args.sheet, sheet)
        console.result(str(args.sheet))
    total = sum(path.stat().st_size for path in paths)
    console.note(f"{len(made)} samples, {len(paths)} files, {total:,} bytes")
    console.result(str(args.to))
    return 0


def pictures(args, console: Console) -> int:
    """Render scenes as files: pictures, captions, and a folder for each map."""
    unknown = [name for name in args.extra if name not in EXTRA]
    if unknown:
        raise UsageError(f"there is no map {', '.join(unknown)}; use {', '.join(EXTRA)}")
    seeds = check_training_seeds(args.first_seed, args.count)
    with console.bar("rendering", "scene") as update:
        write_folder(args.to, seeds, args.size, DOMAIN_NAMES, extra=args.extra, progress=update)
    console.result(str(args.to))
    return 0


def reader(args, console: Console) -> int:
    """Train the independent network that reads what pictures of scenes show."""
    run = TrainingRun(args.run_folder)
    store, vae = run.store(), _vae(run, args.vae)
    decoder, _ = load_autoencoder(vae, dtype=torch.float32)
    with console.bar("looking", "scene") as update:
        path = run.reader / "lessons.npz"
        lessons = prepare_lessons(store, decoder, path, most=args.scenes, progress=update)

    def work(report):
        seconds = _seconds(args.minutes)
        return train_reader(
            lessons, run.reader, steps=args.steps, seconds=seconds, seed=args.seed, report=report
        )

    made = train_with_progress(run, run.reader, args.steps, work, console)
    errors = measure_reader(made, decoder, args.held_out)
    record = {"minutes": args.minutes, "steps": args.steps, "scenes": len(lessons)}
    metadata = {"errors": json.dumps(errors), "training": json.dumps(record, sort_keys=True)}
    args.to.parent.mkdir(parents=True, exist_ok=True)
    write_reader(made, args.to, metadata)
    for name in ("rendered", "round_trip"):
        console.note(f"{name}, precision and recall on {args.held_out} scenes: {errors[name]}")
    console.result(str(args.to))
    return 0


STAGES: dict[str, Callable] = {
    "nano": nano,
    "scenes": scenes,
    "pictures": pictures,
    "autoencoder": autoencoder,
    "latents": latents,
    "transformer": transformer,
    "export": export_model,
    "curves": curves,
    "samples": samples,
    "reader": reader,
    "ddit": ddit,
}


def _looked_up(stage: Callable) -> Callable:
    """The stage, once it is known that its folders can be written to."""

    @functools.wraps(stage)
    def run(args, console: Console) -> int:
        for name, option in (("run_folder", "--run"), ("to", "--to")):
            if getattr(args, name, None) is not None:
                check_folder(getattr(args, name), option)
        if getattr(args, "sheet", None) is not None:
            check_file(args.sheet, "--sheet")
        return stage(args, console)

    return run


def _write(model: DCAE | JodiTransformer, path: Path, metadata: dict[str, str]) -> None:
    metadata = {"format": "pt", "config": model.config.to_json(), **metadata}
    write_state_dict(path, model.state_dict(), metadata, convert=cast, force=True)


def _seconds(minutes: float | None) -> float | None:
    return None if minutes is None else 60 * minutes


def _dtype_of(given: str, device) -> torch.dtype:
    return choose_training_dtype(device) if given == "auto" else DTYPES[given]


def _vae(run: TrainingRun, given: Path | None) -> Path:
    path = _weights(given, AUTOENCODER) if given else run.vae
    if not path.exists():
        raise JodiError(
            f"there is no autoencoder at {path}; train it (`jodi train autoencoder`), or name one "
            "with --vae"
        )
    return path


def _weights(given: Path | str, embedded: Path) -> Path:
    return embedded if str(given) == EMBEDDED else Path(given)
