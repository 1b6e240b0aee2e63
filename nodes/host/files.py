"""Read weight files, and say where a wrong one belongs."""

from ...kit.errors import CheckpointError
from ...kit.weights.kinds import identify
from ...kit.weights.read import StateFile, read_state_dict

# What each loader takes, and which node and folder each kind of file belongs to.
_WANTED = {
    "jodi": ("a Jodi transformer", ("jodi",)),
    "dcae": ("the DC-AE autoencoder", ("dcae", "dcae-diffusers")),
    "gemma": ("a Gemma 2 2B text encoder", ("gemma",)),
}


_BELONGS = {
    "jodi": "Put it into models/diffusion_models and load it with Load Jodi Model.",
    "dcae": "Put it into models/vae and load it with Load Jodi VAE.",
    "dcae-diffusers": "Put it into models/vae and load it with Load Jodi VAE.",
    "gemma": "Put it into models/text_encoders and load it with Load Jodi Text Encoder.",
    "lora": "Apply it with the node LoraLoaderModelOnly, behind the model's loader.",
    "bundle": "Take the transformer's tensors out into a file of their own: `jodi convert`.",
}


def read_file(path, wanted: str) -> StateFile:
    """A weight file of the wanted kind: "jodi", "dcae" or "gemma".

    Raises: CheckpointError for a file that cannot be read, or that says what it is instead and
    which node loads it.
    """
    content = read_state_dict(path)
    kind = identify(content.tensors)
    title, names = _WANTED[wanted]
    if kind.name not in names:
        what_to_do = _BELONGS.get(kind.name, "Jodi has no use for it; choose another file.")
        raise CheckpointError(f"expected {title}, but {path} is {kind.title}. {what_to_do}")
    return content
