"""`jodi info`: what a weight file is, and what this machine offers."""

import json
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from ..jodi_core.embedded import AUTOENCODER, TEXT_ENCODER, TRANSFORMER
from ..jodi_core.model.checkpoint import checked_transformer
from ..jodi_core.model.config import TransformerConfig
from ..kit.autoencoder.checkpoint import checked_autoencoder
from ..kit.autoencoder.config import AutoencoderConfig
from ..kit.errors import CheckpointError, JodiError
from ..kit.pictures.palettes import SEGMENTATION_CLASSES, SEGMENTATION_PALETTE
from ..kit.pictures.png import without_large_chunks
from ..kit.weights import kinds as file_kind
from ..kit.weights.kinds import identify
from ..kit.weights.read import StateFile, read_state_dict
from .inputs import Problem
from .jobs import report_problems
from .options import add_command
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
        "files", nargs="*", type=Path, metavar="FILE", help="weights, or pictures made by jodi"
    )


def run(args, console: Console) -> int:
    files = args.files or [TRANSFORMER, AUTOENCODER, TEXT_ENCODER]
    problems: list[Problem] = []
    for path in files:
        console.result(str(path))
        try:
            for title, value in describe(path):
                console.result(f"  {title + ':':<16}{value}")
        except JodiError as error:
            problems.append((str(path), str(error)))
            console.result("  not usable; see below")
    if not args.files:
        for title, value in environment():
            console.result(f"{title + ':':<18}{value}")
    return report_problems(problems, console)


def describe(path: Path) -> Lines:
    """Title and value of what is known about a file. Raises: JodiError for what is no use here."""
    if path.suffix.lower() == ".png" and path.is_file():
        yield from _picture(path)
        return
    content = read_state_dict(path)
    kind = identify(content.tensors)
    if kind == file_kind.JODI:
        _, config = checked_transformer(content.tensors, content.metadata, source=str(path))
        yield from _transformer(content, config)
    elif kind in (file_kind.DCAE, file_kind.DCAE_DIFFUSERS):
        _, config = checked_autoencoder(content.tensors, content.metadata, source=str(path))
        yield from _autoencoder(content, config, kind.title)
    elif "table" in content.tensors and "vocabulary" in content.metadata:
        words = json.loads(content.metadata["vocabulary"])
        yield "what", "a text encoder of a closed vocabulary"
        yield "words", f"{len(words)}: {', '.join(words)}"
    else:
        yield "what", kind.title
        if kind.advice:
            yield "advice", kind.advice
    yield from _weights(path, content)


def _transformer(content: StateFile, config: TransformerConfig) -> Lines:
    meta = content.metadata
    yield "what", f"a Jodi transformer, whole ({meta.get('title', 'no title inside')})"
    yield "domains", f"{config.num_domains}: {', '.join(_names(meta)) or 'not named inside'}"
    yield (
        "sizes",
        f"width {config.hidden_size}, {config.depth} blocks, latents of "
        f"{config.latent_channels} channels, patch {config.patch_size}",
    )
    yield "text", f"{config.caption_length} tokens of {config.caption_channels} channels"
    roles = meta.get("trained_roles", "published")
    mixes = {"published": "the published mixes", "any": "any mix"}.get(roles, roles)
    yield "trained roles", f"{roles} ({mixes} of given and generated domains)"
    for key in ("native_size", "guidance", "training"):
        if key in meta:
            yield key.replace("_", " "), meta[key]


def _names(metadata) -> list[str]:
    try:
        return [str(name) for name in json.loads(metadata.get("domains", "[]"))]
    except (ValueError, TypeError):
        return []


def _autoencoder(content: StateFile, config: AutoencoderConfig, title: str) -> Lines:
    yield "what", f"{title}, whole"
    yield (
        "sizes",
        f"{config.factor} pixels a latent cell, {config.latent_channels} channels, widths "
        f"{', '.join(map(str, config.widths))}, latent scale {config.scaling_factor:g}",
    )
    if "training" in content.metadata:
        yield "training", content.metadata["training"]


def _weights(path: Path, content: StateFile) -> Lines:
    tensors = content.tensors.values()
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors})
    yield "weights", f"{sum(t.numel() for t in tensors):,} in {len(tensors)} tensors"
    yield "dtype", ", ".join(dtypes)
    yield "file", f"{path.stat().st_size:,} bytes"
    if "source" in content.metadata:
        sha = content.metadata.get("source_sha256", "unknown")
        yield "converted from", f"{content.metadata['source']} (sha256 {sha})"


def _picture(path: Path) -> Lines:
    try:
        with open(path, "rb") as file:
            # other programs may have added texts that Pillow takes for damage
            image = Image.open(without_large_chunks(file)[0], formats=["PNG"])
            image.load()
            text, size = dict(getattr(image, "text", {})), image.size
        settings = json.loads(text["jodi"])
    except KeyError:
        raise JodiError(
            f"{path} is a picture without settings inside: jodi did not make it"
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise CheckpointError(f"{path} cannot be read as a PNG ({error})") from None
    yield "what", f"a picture made by jodi, {size[0]}x{size[1]}"
    for key, value in settings.items():
        if value not in ("", [], {}, None):
            yield key, value


def environment() -> Lines:
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
