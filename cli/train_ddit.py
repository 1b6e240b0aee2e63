"""`jodi train ddit`: a small D-DiT on rendered scenes, or on a folder of annotated pictures."""

import dataclasses

import torch

from ..ddit_core.embedded import TRANSFORMER
from ..ddit_core.model.checkpoint import load_transformer
from ..ddit_core.model.transformer import DDiTTransformer
from ..ddit_core.training.examples import join_examples, read_folder
from ..ddit_core.training.run import export_ddit, keep_word_encoder, prepare_folder, prepare_scenes
from ..ddit_core.training.task import DualSettings, train_ddit
from ..jodi_core.embedded import AUTOENCODER
from ..jodi_core.training.run import TrainingRun
from ..kit.autoencoder.checkpoint import load_autoencoder
from ..kit.errors import JodiError
from .model import choose_device
from .options import EMBEDDED
from .progress import Console
from .train_progress import train_with_progress

SIZE = 64


def ddit(args, console: Console) -> int:
    """Train a small D-DiT: captions and answers from pictures, pictures from captions."""
    run, device = TrainingRun(args.run_folder), str(choose_device(args.device))
    folder = run.root / "ddit"
    vae = run.vae if args.vae is None and run.vae.exists() else args.vae or EMBEDDED
    vae, _ = load_autoencoder(AUTOENCODER if vae == EMBEDDED else vae, dtype=torch.float32)
    parts = []
    if (run.scenes / "scenes.json").exists():
        with console.bar("reading scenes", "scene") as update:
            parts.append(prepare_scenes(run.store(), vae, folder, update))
    if args.pictures:
        with console.bar("reading pictures", "picture") as update:
            parts.append(prepare_folder(read_folder(args.pictures), vae, SIZE, update))
    if not parts:
        raise JodiError(
            f"there are no scenes in {run.scenes}, and no --pictures; render scenes first: "
            "`jodi train scenes`"
        )
    settings = DualSettings(
        steps=args.steps,
        pictures=args.image_rows,
        captions=args.caption_rows,
        answers=args.answer_rows,
        text_weight=args.text_weight,
        muon_lr=args.muon_lr,
        adam_lr=args.adam_lr,
        ema=args.ema,
        seed=args.seed,
        save_every=args.save_every,
        seconds=None if args.minutes is None else 60 * args.minutes,
    )
    examples, text = join_examples(parts), keep_word_encoder(folder)

    def work(report) -> DDiTTransformer:
        start = None
        if args.continue_from:
            path = TRANSFORMER if args.continue_from == EMBEDDED else args.continue_from
            start, _ = load_transformer(path, dtype=torch.float32)
        return train_ddit(
            examples, text, folder, settings, start_from=start, device=device, report=report
        )

    model = train_with_progress(run, folder, args.steps, work, console)
    record = {**dataclasses.asdict(settings), "pictures in all": len(examples.latents)}
    paths = export_ddit(
        model.cpu(),
        text.cpu(),
        vae,
        args.to or folder,
        native_size=SIZE,
        record=record,
        force=args.force or args.to is None,
    )
    for path in paths.values():
        console.result(f"{path}  {path.stat().st_size:,} bytes")
    return 0
