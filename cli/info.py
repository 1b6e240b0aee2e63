"""`jodi info`: what a weight file is, and what this machine offers."""

import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from ..ddit_core.model.checkpoint import TRANSFORMER as DDIT
from ..jodi_core import embedded
from ..jodi_core.model.checkpoint import TRANSFORMER
from ..jodi_core.model.config import TransformerConfig
from ..jodi_core.model.facts import ModelFacts
from ..kit.autoencoder.checkpoint import AUTOENCODER
from ..kit.autoencoder.config import AutoencoderConfig
from ..kit.config import parse_json
from ..kit.errors import CheckpointError, JodiError, make_plain, shorten
from ..kit.pictures.palettes import SEGMENTATION_CLASSES, SEGMENTATION_PALETTE
from ..kit.pictures.png import drop_large_chunks
from ..kit.weights.kinds import WORDS, FileKind, identify
from ..kit.weights.loading import FLOATS, FP8, Checked, Format, check, check_values, name_dtype
from ..kit.weights.read import StateFile, read_state_dict
from .inputs import Problem
from .jobs import report_problems
from .options import add_command, parse_path
from .progress import Console

EXAMPLES = """
jodi info Jodi.safetensors          what it is, its sizes, and whether it is whole
jodi info output/perceive/*.png     the settings a picture was made with
jodi info                           the built-in model and this machine
"""
Lines = Iterator[tuple[str, object]]


def add(commands) -> None:
    parser = add_command(
        commands,
        "info",
        run,
        "Say what weight files are, how pictures were made, or what runs here.",
        "A Jodi or DC-AE file is checked completely: every tensor there, with its shape. Without a "
        "file: the built-in model, the class colours, and this machine.",
        EXAMPLES,
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=parse_path,
        metavar="FILE",
        help="weights, or pictures made by jodi",
    )


def run(args, console: Console) -> int:
    files = args.files or [embedded.TRANSFORMER, embedded.AUTOENCODER, embedded.TEXT_ENCODER]
    problems: list[Problem] = []
    for path in files:
        console.result(str(path))
        try:
            for title, value in describe(path):
                console.result(f"  {title + ':':<16}{make_plain(str(value))}")
        except JodiError as error:
            problems.append((str(path), str(error)))
            console.result("  not usable; see below")
    if not args.files:
        for title, value in describe_environment():
            console.result(f"{title + ':':<18}{value}")
    return report_problems(problems, console)


def describe(path: Path) -> Lines:
    """Lines (title, value) about a file. Raises: JodiError for a file that jodi cannot use."""
    if path.suffix.lower() == ".png" and path.is_file():
        yield from _picture(path)
        return
    content = read_state_dict(path)
    kind = identify(content.tensors)
    if kind in TRANSFORMER.fits:
        checked = _check(path, content, kind, TRANSFORMER)
        yield from _transformer(checked)
    elif kind in AUTOENCODER.fits:
        checked = _check(path, content, kind, AUTOENCODER)
        yield from _autoencoder(checked)
    elif kind in DDIT.fits:
        checked = _check(path, content, kind, DDIT)
        yield "what", f"{kind.title}, whole"
        yield "sizes", DDIT.describe(checked.config)
    elif kind is WORDS:
        words = embedded.read_text_encoder(content, str(path)).vocabulary
        yield "what", kind.title
        yield "words", f"{len(words)}: {shorten(words, 100)}"
    else:
        yield "what", kind.title
        if kind.name in _NOTES:
            yield "note", _NOTES[kind.name]
    yield from _weights(path, content)


_NOTES = {
    "sana": "Jodi grew out of Sana but has eight domains, each with its own input and output "
    "layer, so Sana's weights alone do not make a Jodi.",
    "kl-vae": "Jodi's latents come from another autoencoder, the DC-AE.",
    "gemma": "In ComfyUI, load it with Load Jodi Text Encoder; commands take stored features "
    "(--text-features) in its place.",
    "controlnet": "Jodi needs none: its label maps are conditions of the model.",
    "lora": "Apply it in ComfyUI, on top of a model (LoRA loader).",
    "bundle": "Take the transformer's tensors out into a file of their own.",
}


def _check(path: Path, content: StateFile, kind: FileKind, format: Format) -> Checked:
    """Every tensor there, with its shape, all numbers finite, and every fact possible."""
    checked = check(content, format, kind=kind, dtypes=(*FLOATS, *FP8), source=str(path))
    check_values(checked)
    return checked


def _transformer(checked: Checked[TransformerConfig, ModelFacts]) -> Lines:
    config, facts, meta = checked.config, checked.facts, checked.metadata
    yield "what", f"a Jodi transformer, whole ({meta.get('title', 'no title inside')[:200]})"
    names = ", ".join(facts.names) if "domains" in meta else "not named inside"
    yield "domains", f"{config.num_domains}: {names}"
    yield (
        "sizes",
        f"width {config.hidden_size}, {config.depth} blocks, latents of "
        f"{config.latent_channels} channels, patch {config.patch_size}",
    )
    yield "text", f"{config.caption_length} tokens of {config.caption_channels} channels"
    mixes = {"published": "the published mixes", "any": "any mix"}[facts.trained_roles]
    yield "trained roles", f"{facts.trained_roles} ({mixes} of given and generated domains)"
    yield "latents", f"of a VAE with {facts.vae}"
    for key in ("native_size", "guidance", "perception_steps", "training"):
        if key in meta:
            yield key.replace("_", " "), meta[key]


def _autoencoder(checked: Checked[AutoencoderConfig, AutoencoderConfig]) -> Lines:
    config = checked.config
    yield "what", f"{checked.kind.title}, whole"
    yield (
        "sizes",
        f"{config.factor} pixels a latent cell, {config.latent_channels} channels, widths "
        f"{', '.join(map(str, config.widths))}, latent scale {config.scaling_factor:g}",
    )
    if "training" in checked.metadata:
        yield "training", checked.metadata["training"]


def _weights(path: Path, content: StateFile) -> Lines:
    tensors = content.tensors.values()
    dtypes = sorted({name_dtype(t.dtype) for t in tensors})
    yield "weights", f"{sum(t.numel() for t in tensors):,} in {len(tensors)} tensors"
    yield "dtype", ", ".join(dtypes)
    if any(t.dtype in FP8 for t in tensors):
        yield "use", "eight-bit weights: ComfyUI's nodes take them, jodi's commands do not"
    yield "file", f"{path.stat().st_size:,} bytes"
    if "source" in content.metadata:
        sha = content.metadata.get("source_sha256", "unknown")
        yield "converted from", f"{content.metadata['source']} (sha256 {sha})"


def _picture(path: Path) -> Lines:
    try:
        with open(path, "rb") as file:
            # other programs may have added texts that Pillow takes for damage
            image = Image.open(drop_large_chunks(file)[0], formats=["PNG"])
            image.load()
            text, size = dict(getattr(image, "text", {})), image.size
        settings = parse_json(text["jodi"], "what stands in it")
        if not isinstance(settings, dict):
            raise JodiError("what stands in it are no settings")
    except KeyError:
        raise JodiError(
            f"{path} is a picture without settings inside: jodi did not make it"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CheckpointError(f"{path} cannot be read as a PNG ({error})") from None
    yield "what", f"a picture made by jodi, {size[0]}x{size[1]}"
    for key, value in settings.items():
        if value not in ("", [], {}, None):
            yield key, value


def describe_environment() -> Lines:
    """What the machine offers, and the colours of the classes."""
    yield "python", platform.python_version()
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    devices = ["cpu"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        devices.append(f"cuda:{index} ({properties.name}, {memory:.0f} GiB)")
    if torch.backends.mps.is_available():
        devices.append("mps")
    yield "devices", ", ".join(devices)
    colors = zip(SEGMENTATION_CLASSES, SEGMENTATION_PALETTE, strict=True)
    for number, (name, color) in enumerate(colors):
        yield f"class {number}", f"{name}, colour {', '.join(map(str, color))}"
