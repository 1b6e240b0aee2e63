"""The folder of a D-DiT training: what scenes are read as, and the files that come out.

DIR/scenes                    rendered pictures and captions
DIR/ddit/latents.npy          latents of the pictures, then of the mirrored pictures
DIR/ddit/things.json          what each picture shows
DIR/ddit/text.safetensors     the text encoder
DIR/ddit                      state and log of the training
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...kit.autoencoder.dcae import DCAE
from ...kit.errors import JodiError
from ...kit.files import write_text
from ...kit.pictures.files import load_image
from ...kit.scenes.questions import WORDS
from ...kit.scenes.render import list_scene_things
from ...kit.scenes.store import SceneStore
from ...kit.scenes.things import Thing, mirror_things
from ...kit.training.state import RunFolder
from ...kit.weights.convert import FORMAT_VERSION
from ...kit.weights.loading import cast
from ...kit.weights.write import write_state_dict
from ..embedded import load_word_encoder, save_word_encoder
from ..model.facts import DDiTFacts
from ..model.transformer import DDiTTransformer
from ..picture import fit_picture
from ..text.words import WordEncoder
from .examples import Annotated, Examples, make_folder_examples, make_scene_examples
from .task import NANO_LENGTH

BATCH = 32
TITLE = "ddit-nano"
NANO_GUIDANCE = 5.0
NAMES = {"transformer": f"{TITLE}.safetensors", "text": f"{TITLE}-text.safetensors"}
Progress = Callable[[int, int], None]


def prepare_scenes(
    store: SceneStore, autoencoder: DCAE, folder: Path, progress: Progress | None = None
) -> Examples:
    """Examples of rendered scenes, each also mirrored, which costs no rendering.

    Latents and facts are kept in `folder`, and used again if they are of as many scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latents = _scene_latents(store, autoencoder, folder / "latents.npy", progress)
    things = _scene_facts(store, folder / "things.json", progress)
    return make_scene_examples(
        latents, [*store.captions] * 2, [*things, *(mirror_things(t) for t in things)]
    )


def _scene_latents(store: SceneStore, autoencoder: DCAE, path: Path, progress) -> Tensor:
    if path.exists() and len(kept := np.load(path)) == 2 * len(store):
        return torch.from_numpy(kept)
    made: list[list[Tensor]] = [[], []]
    for start in range(0, len(store), BATCH):
        pictures = torch.from_numpy(np.array(store.pictures[start : start + BATCH, 0]))
        x = pictures.float() / 127.5 - 1
        with torch.inference_mode():
            for part, given in zip(made, (x, x.flip(-1)), strict=True):
                part.append(autoencoder.encode(given).half())
        if progress:
            progress(min(start + BATCH, len(store)), len(store))
    latents = torch.cat([*made[0], *made[1]])
    np.save(path, latents.numpy())
    return latents


def _scene_facts(store: SceneStore, path: Path, progress) -> list[list[Thing]]:
    if path.exists() and len(kept := json.loads(path.read_text())) == len(store):
        return [[Thing(*values) for values in things] for things in kept]
    found = []
    for index in range(len(store)):
        found.append(list_scene_things(store.first_seed + index, store.size)[1])
        if progress and index % BATCH == BATCH - 1:
            progress(index + 1, len(store))
    write_text(path, json.dumps([[astuple(thing) for thing in things] for things in found]))
    return found


def prepare_folder(
    pictures: list[Annotated], autoencoder: DCAE, size: int, progress: Progress | None = None
) -> Examples:
    """Examples of a folder's pictures, each fitted to a square of `size` pixels."""
    latents = []
    for index, picture in enumerate(pictures):
        fitted = fit_picture(load_image(picture.path)[0], size)
        with torch.inference_mode():
            latents.append(autoencoder.encode(fitted * 2 - 1).half())
        if progress:
            progress(index + 1, len(pictures))
    return make_folder_examples(pictures, torch.cat(latents))


def keep_word_encoder(folder: Path) -> WordEncoder:
    """The training's text encoder, made and kept at the first call.

    Kept, because its vectors come from a matrix factorisation, which another machine may give with
    other signs.
    """
    path = folder / "text.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_word_encoder(WordEncoder(WORDS, NANO_LENGTH), path)
    return load_word_encoder(path)


def load_averaged(folder: Path, model: DDiTTransformer) -> tuple[DDiTTransformer, int]:
    """The averaged weights of the last save in `model`, and how many steps they saw.

    Raises: JodiError when there is no save.
    """
    state = RunFolder(folder).load() if folder.is_dir() else None
    if state is None:
        raise JodiError(f"there is no training state in {folder}; train first")
    model.load_state_dict(state["model"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state["ema"][name])
    return model.eval(), int(state["step"])


def export_ddit(
    model: DDiTTransformer,
    text: WordEncoder,
    autoencoder: DCAE,
    folder: Path,
    *,
    native_size: int,
    record: Mapping | None = None,
    guidance: float = NANO_GUIDANCE,
    force: bool = False,
) -> dict[str, Path]:
    """Write `ddit-nano.safetensors` and its `-text` into `folder`; the paths by part.

    native_size: side in pixels of the training pictures. record: how it was trained.
    Raises: CheckpointError when a file exists and `force` is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = DDiTFacts(
        title=TITLE,
        native_size=native_size,
        vae_factor=autoencoder.config.factor,
        latent_scale=autoencoder.config.scaling_factor,
        latent_shift=0.0,
        text_length=text.length,
        picture_length=text.length,
        guidance=guidance,
    )
    metadata = {
        "format": "pt",
        "jodi_format": FORMAT_VERSION,
        "kind": "ddit",
        "dtype": "float16",
        "config": model.config.to_json(),
        "text_encoder": NAMES["text"],
        "training": json.dumps(dict(record or {}), sort_keys=True),
        **facts.to_metadata(),
    }
    paths = {part: folder / name for part, name in NAMES.items()}
    half = torch.float16
    write_state_dict(
        paths["transformer"], model.state_dict(), metadata, dtype=half, convert=cast, force=force
    )
    save_word_encoder(text, paths["text"], force=force)
    return paths
