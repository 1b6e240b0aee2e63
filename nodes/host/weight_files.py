"""Read weight files, and say which node loads a file that was chosen in the wrong place."""

from typing import TypeVar

from ...kit.config import JsonConfig
from ...kit.errors import CheckpointError
from ...kit.weights.kinds import FileKind, WrongKindError, require_kind
from ...kit.weights.loading import FLOATS, FP8, Checked, Format, check
from ...kit.weights.read import StateFile, read_state_dict

Config = TypeVar("Config", bound=JsonConfig)
Facts = TypeVar("Facts")

_WEIGHTS = "Put it into models/diffusion_models and load it with Load Jodi Model."
_VAE = "Put it into models/vae and load it with Load Jodi VAE."
_TEXT = "Put it into models/text_encoders and load it with Load Jodi Text Encoder."
_BELONGS = {
    "jodi": _WEIGHTS,
    "dcae": _VAE,
    "dcae-diffusers": _VAE,
    "gemma": _TEXT,
    "words": _TEXT,
    "ddit": "Put it into models/diffusion_models and load it with Load D-DiT.",
    "t5": "Put it into models/text_encoders; Load D-DiT reads T5-v1.1-XXL.",
    "kl-vae": "Put it into models/vae; Load D-DiT reads that of Stable Diffusion 3.",
    "lora": "Apply it with the node LoraLoaderModelOnly, behind the model's loader.",
    "bundle": "Save its parts with ModelSave, CLIPSave and VAESave, and load these.",
}


def read_kind(path, wanted: tuple[FileKind, ...]) -> tuple[StateFile, FileKind]:
    """The content of a weight file, and its kind, which is one of those wanted.

    Raises: CheckpointError for a file that cannot be read, or that says what it is instead and
    which node loads it.
    """
    content = read_state_dict(path)
    try:
        return content, require_kind(content.tensors, wanted, str(path))
    except WrongKindError as error:
        where = _BELONGS.get(error.kind.name, "Jodi has no use for it; choose another file.")
        raise CheckpointError(f"{error} {where}") from None


def check_file(path, format: Format[Config, Facts]) -> Checked[Config, Facts]:
    """A weight file, proved to be exactly a network of this format; eight-bit weights pass.

    Raises: CheckpointError as `read_kind`, or for what keeps it from being one.
    """
    content, kind = read_kind(path, format.fits)
    return check(content, format, kind=kind, dtypes=(*FLOATS, *FP8), source=str(path))
