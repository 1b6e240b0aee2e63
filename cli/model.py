"""The model and the texts that options name."""

import contextlib
from pathlib import Path

import torch

from ..jodi_core.embedded import load_text_encoder
from ..jodi_core.pipeline import JodiPipeline
from ..jodi_core.text import TextFeatures
from ..kit.errors import CheckpointError, TextError
from ..kit.weights.convert import parse_dtype
from ..kit.weights.kinds import WrongKindError
from ..kit.weights.read import read_state_dict
from .options import EMBEDDED, UsageError


def choose_device(name: str) -> torch.device:
    """A device that is there. Raises: UsageError for any other."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # "meta" and the like hold no values
        if torch.ones(1, device=device).cpu().item() != 1:
            raise RuntimeError("it does not compute")
    except Exception as error:  # backends that are not there raise anything, ImportError too
        reason = str(error).split("\n")[0][:200]
        raise UsageError(
            f"device {name!r} cannot be used here ({reason}); try --device cpu"
        ) from None
    return device


def load_pipeline(args) -> JodiPipeline:
    """The model that the options name. Raises: UsageError, CheckpointError."""
    for option in ("model", "vae", "text_encoder"):
        value = getattr(args, option)
        if value is not None and (not str(value).strip() or value == Path()):
            name = option.replace("_", "-")
            raise UsageError(
                f"--{name} is empty (an unset variable of the shell?); name a file, or leave it out"
            )
    if (args.model is None) != (args.vae is None):
        # both releases may have latents of one shape, and a picture of a wrong one is noise
        given, other = ("--model", "--vae") if args.vae is None else ("--vae", "--model")
        raise UsageError(
            f"{given} needs {other} too: they must be of one release (`{other} embedded` takes the "
            "built-in one)"
        )
    device, dtype = choose_device(args.device), parse_dtype(args.dtype)
    model, vae = (None if part == EMBEDDED else part for part in (args.model, args.vae))
    with say_where_it_belongs():
        pipeline = JodiPipeline.from_files(model, vae, device=str(device), dtype=dtype)
    if args.compile:
        pipeline.compile()
    if args.text_encoder is None:
        return pipeline
    with say_where_it_belongs():
        encoder = load_text_encoder(args.text_encoder)
    config = pipeline.transformer.config
    if encoder.channels != config.caption_channels:
        raise CheckpointError(
            f"{args.text_encoder} makes text of {encoder.channels} channels, the model reads "
            f"{config.caption_channels}; give the encoder that was exported with it"
        )
    pipeline.text_encoder = encoder.to(device)
    return pipeline


_BELONGS = {
    "jodi": "It belongs to --model.",
    "dcae": "It belongs to --vae.",
    "dcae-diffusers": "It belongs to --vae.",
    "words": "It belongs to --text-encoder.",
    "gemma": "The command line reads stored features (--text-features) in place of Gemma 2.",
    "bundle": "Take the parts out into files of their own, for --model and --vae.",
}


@contextlib.contextmanager
def say_where_it_belongs():
    """Adds to the error of a file in the wrong place which option it belongs to."""
    try:
        yield
    except WrongKindError as error:
        where = _BELONGS.get(error.kind.name, f"Give {error.wanted.title} here.")
        raise CheckpointError(f"{error} {where}") from None


def require_text(pipeline: JodiPipeline, prompts, text: TextFeatures | None, args) -> None:
    """Raises: UsageError for words that the model has no encoder to read."""
    if pipeline.text_encoder is not None:
        return
    if (text is None and any(prompts)) or (args.negative and args.negative_features is None):
        raise UsageError(
            "these weights bring no text encoder, so words cannot be read; give stored features "
            "(--text-features, --negative-features), or leave the words out"
        )


def read_text_features(path: Path | None, channels: int) -> TextFeatures | None:
    """Stored text features; None stays None.

    channels: what the model reads. Raises: CheckpointError, TextError naming the file.
    """
    if path is None:
        return None
    tensors = read_state_dict(path).tensors
    missing = [name for name in ("caption", "mask") if name not in tensors]
    if missing:
        raise TextError(
            f"{path} has no {' and no '.join(missing)}; expected `caption` (B, 1, S, {channels}) "
            f"and `mask` (B, S), found {', '.join(list(tensors)[:5])}"
        )
    caption, mask = tensors["caption"], tensors["mask"]
    if caption.ndim == 3:
        caption = caption[:, None]
    fits = caption.ndim == 4 and caption.shape[-1] == channels and caption.is_floating_point()
    if not fits or mask.shape != caption.shape[::2][:2] or not len(caption):
        raise TextError(
            f"{path}: expected floating-point caption (B, 1, S, {channels}) and mask (B, S), got "
            f"{tuple(caption.shape)} and {tuple(mask.shape)}"
        )
    if not torch.isfinite(caption.float()).all():
        raise TextError(f"{path}: caption holds NaN or infinity; encode the text again in float32")
    return TextFeatures(caption.float(), (mask != 0).long())


def take_text(features: TextFeatures | None, row: int, rows: int, what: str) -> TextFeatures | None:
    """The features of one of `rows` results: its own row, or the only one there is.

    Raises: UsageError when there are neither one nor `rows`.
    """
    if features is None:
        return None
    count = len(features.mask)
    if count not in (1, rows):
        raise UsageError(
            f"the text features hold {count} rows for {rows} {what}; give one row, or one for each"
        )
    row = 0 if count == 1 else row
    return TextFeatures(features.caption[row : row + 1], features.mask[row : row + 1])
