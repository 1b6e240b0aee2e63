"""`jodi extend`: teach a model one domain more."""

from dataclasses import asdict
from pathlib import Path

from ..jodi_core.training.config import (
    EMBEDDED,
    DataConfig,
    LoraConfig,
    ModelConfig,
    SourceConfig,
    TrainConfig,
    UpdateConfig,
)
from ..jodi_core.training.extend import FORMS, LIKE, RANK, TARGETS
from ..jodi_core.training.from_config import prepare_training
from ..jodi_core.training.teach_domain import Extension, load_extended, teach
from .model import choose_device
from .options import add_command, add_device_choice, parse_finite, parse_positive, parse_share
from .progress import Console
from .train_config import draw_losses, load_text_reader, tell_faults

EXAMPLES = """
jodi extend --domain shading --data my_pictures --to runs/shading
jodi extend --domain shading --data my_pictures --to runs/shading --form full --updates 2000
jodi perceive photo.jpg --labels shading --model runs/shading/model.safetensors --vae embedded
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "extend",
        run,
        "Teach a model one domain more, from pictures and their maps.",
        "DATA holds pictures, and in a folder named for the domain a map of each, under the same "
        "name and of the same size; or it is laid out as Joint-1.6M, as `jodi label` writes it. "
        "Maps of the domains that the model knows, in folders of theirs, keep it from forgetting "
        "them. Ctrl-C or a kill lose little: the same command goes on from the last save.",
        EXAMPLES,
    )
    parser.add_argument("--domain", required=True, metavar="NAME", help="of the new domain")
    parser.add_argument(
        "--data", required=True, type=Path, nargs="+", metavar="DIR", help="pictures and maps"
    )
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--model", default=EMBEDDED, metavar="FILE", help="default: jodi-nano")
    parser.add_argument("--vae", default=EMBEDDED, metavar="FILE", help="default: the built-in one")
    parser.add_argument(
        "--text",
        default=EMBEDDED,
        metavar="WHICH",
        help="text encoder of the captions: a file, or `gemma` (default: the built-in one)",
    )
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="lora",
        help="what is trained: head (the new layers alone: the old domains stay bit for bit), lora "
        "(adapters too, the default), full (everything)",
    )
    parser.add_argument(
        "--like", default=LIKE, metavar="NAME", help=f"whose layers it starts from ({LIKE})"
    )
    _training(parser)
    add_device_choice(parser)
    parser.add_argument("--quiet", action="store_true", help="only results and errors")


def _training(parser) -> None:
    for name, default, what in (
        ("updates", 1000, "of training"),
        ("rows", 4, "pictures of a micro-batch"),
        ("micro-batches", 2, "of an update"),
        ("rank", RANK, "of the adapters"),
        ("save-every", 100, "updates that a kill can lose at most"),
    ):
        parser.add_argument(
            f"--{name}", type=parse_positive, default=default, metavar="N",
            help=f"{what} (default: {default})",
        )  # fmt: skip
    parser.add_argument(
        "--lr", type=parse_finite, default=4e-3, help="learning rate (default: 0.004)"
    )
    parser.add_argument(
        "--replay",
        type=parse_share,
        default=0.5,
        help="share of the training spent on the domains it knows (default: 0.5)",
    )
    parser.add_argument(
        "--full-noise",
        type=parse_share,
        default=0.6,
        metavar="SHARE",
        help="of the rows that make labels, trained to be read in one evaluation (default: 0.6)",
    )
    parser.add_argument("--side", type=parse_positive, default=0, metavar="PIXELS",
                        help="of the square picture (default: the model's own)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="default: 0")


def run(args, console: Console) -> int:
    extension = Extension(args.domain.strip(), args.like, args.form, args.replay)
    config, device = make_config(args), str(choose_device(args.device))
    text = load_text_reader(config.model, device)
    start = load_extended(config, text, device, extension)
    with console.bar("reading pictures", "picture") as update:
        about = asdict(extension)
        prepared = prepare_training(config, text, device, update, start=start, about=about)
    tell_faults(prepared, console)
    total = config.training.updates
    try:
        with console.bar("training") as update:
            paths, added = teach(
                prepared, extension, device, lambda row: update(row["step"], total)
            )
    finally:
        draw_losses(prepared.folder, console)
    console.note(
        f"{added.trained:,} parameters were trained: {added.embedder:,} of the input layer, "
        f"{added.head:,} of the head, {added.vector:,} of the vector, {added.adapters:,} of "
        f"adapters ({added.adapter_share:.2%} of the model)"
    )
    for path in paths.values():
        console.result(str(path))
    return 0


def make_config(args) -> TrainConfig:
    """The config of an extension, as the options say."""
    return TrainConfig(
        folder=str(args.to),
        sources=tuple(SourceConfig(str(folder)) for folder in args.data),
        seed=args.seed,
        data=DataConfig(side=args.side, need_captions=False),
        model=ModelConfig(start=args.model, vae=args.vae, text=args.text),
        training=UpdateConfig(
            updates=args.updates,
            rows=args.rows,
            micro_batches=args.micro_batches,
            lr=args.lr,
            warmup=min(50, args.updates // 8 + 1),
            ema=0.99,
            full_noise=args.full_noise,
            save_every=args.save_every,
            log_every=max(1, min(50, args.updates)),
            roles="any",
            device=args.device,
        ),
        lora=LoraConfig(rank=args.rank if args.form == "lora" else 0, targets=TARGETS),
    )
