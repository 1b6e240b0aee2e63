"""`jodi convert`: a weight file as safetensors that says what it is."""

from ..ddit_core.model.checkpoint import TRANSFORMER as DDIT
from ..jodi_core.model.checkpoint import TRANSFORMER as JODI
from ..kit.autoencoder.checkpoint import AUTOENCODER
from ..kit.autoencoder.keys import DIFFUSERS, MIT_HAN_LAB
from ..kit.weights.convert import DTYPES, convert
from .options import add_command, parse_path
from .progress import Console

EXAMPLES = """
jodi convert Jodi.pth Jodi.safetensors --dtype bfloat16
jodi convert dc-ae/model.safetensors dc-ae-diffusers.safetensors --naming diffusers
"""


def add(commands) -> None:
    parser = add_command(
        commands,
        "convert",
        run,
        "Rewrite Jodi, DC-AE or D-DiT weights as safetensors, checked tensor by tensor.",
        "Sizes, the source's hash and the trained roles are written inside. The new file is whole "
        "or not there at all, and an existing one is left alone without --force.",
        EXAMPLES,
    )
    parser.add_argument(
        "source", type=parse_path, metavar="SRC", help="a .safetensors, .pth or .ckpt file"
    )
    parser.add_argument(
        "destination", type=parse_path, metavar="DST", help="the .safetensors to write"
    )
    parser.add_argument(
        "--dtype",
        choices=sorted(DTYPES),
        metavar="DTYPE",
        help="float32, bfloat16 or float16 (default: as in the source)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument(
        "--naming",
        choices=(MIT_HAN_LAB, DIFFUSERS),
        default=MIT_HAN_LAB,
        help=f"tensor names of an autoencoder (default: {MIT_HAN_LAB})",
    )


def run(args, console: Console) -> int:
    with console.bar(f"writing {args.destination.name}", "byte") as update:
        made = convert(
            args.source,
            args.destination,
            (JODI, AUTOENCODER, DDIT),
            dtype=args.dtype,
            force=args.force,
            naming=args.naming,
            progress=update,
        )
    console.note(
        f"{made.kind}: {made.tensors} tensors, {made.parameters:,} parameters, {made.dtype}, "
        f"{made.bytes:,} bytes; source sha256 {made.source_sha256}"
    )
    console.result(str(made.destination))
    return 0
