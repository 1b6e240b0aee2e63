"""The folder of a training run: where each stage finds what the one before it left.

DIR/scenes                       rendered pictures and captions
DIR/autoencoder                  state, log, vae.safetensors
DIR/latents.npy, latents.json    the scenes' latents, and what made them
DIR/transformer                  state, log, text.safetensors, run.json, model.safetensors
DIR/reader                       state, log, lessons.npz
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...kit.autoencoder.checkpoint import load_autoencoder
from ...kit.autoencoder.dcae import DCAE
from ...kit.config import parse_json
from ...kit.errors import CheckpointError, JodiError
from ...kit.files import read_json, write_text
from ...kit.scenes.captions import VOCABULARY
from ...kit.scenes.store import Progress, SceneStore, encode_store, read_array
from ...kit.training.state import RunFolder
from ...kit.weights.convert import hash_file
from ...kit.weights.read import read_state_dict
from ..embedded import load_text_encoder, save_text_encoder
from ..model.config import TransformerConfig
from ..model.transformer import JodiTransformer
from ..text import ClosedVocabularyEncoder
from .transformer import NANO_CAPTION_LENGTH, TrainingSettings

# How often an autoencoder in training draws each kind of picture: the more a picture holds, the
# more there is to learn of it.
PICTURE_SHARES = {
    "image": 0.24,
    "lineart": 0.06,
    "edge": 0.08,
    "depth": 0.10,
    "normal": 0.14,
    "albedo": 0.16,
    "segmentation": 0.08,
    "openpose": 0.14,
}


@dataclass(frozen=True)
class TrainingRun:
    """The places of one run."""

    root: Path

    @property
    def scenes(self) -> Path:
        return self.root / "scenes"

    @property
    def autoencoder(self) -> Path:
        return self.root / "autoencoder"

    @property
    def vae(self) -> Path:
        return self.autoencoder / "vae.safetensors"

    @property
    def latents(self) -> Path:
        return self.root / "latents.npy"

    @property
    def transformer(self) -> Path:
        return self.root / "transformer"

    @property
    def reader(self) -> Path:
        return self.root / "reader"

    @property
    def text(self) -> Path:
        return self.transformer / "text.safetensors"

    @property
    def model(self) -> Path:
        return self.transformer / "model.safetensors"

    def store(self) -> SceneStore:
        """The rendered scenes. Raises: JodiError when they are missing or unfinished."""
        if not (self.scenes / "scenes.json").is_file():
            raise JodiError(
                f"there are no scenes in {self.scenes}; render them first: `jodi train scenes`"
            )
        return SceneStore(self.scenes)

    def text_encoder(self, like: Path | None = None) -> ClosedVocabularyEncoder:
        """The run's text encoder, made and kept at the first call; `like` copies an existing one.

        Kept, because the word vectors come from a matrix factorisation, which another machine may
        give with other signs.
        """
        if not self.text.exists():
            encoder = (
                ClosedVocabularyEncoder(VOCABULARY, NANO_CAPTION_LENGTH)
                if like is None
                else load_text_encoder(like)
            )
            self.transformer.mkdir(parents=True, exist_ok=True)
            save_text_encoder(encoder, self.text)
        return load_text_encoder(self.text)

    def encode(
        self,
        store: SceneStore,
        vae: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> Tensor:
        """Latents (N, 8, z, h, w) float16 of the scenes under the autoencoder in `vae`.

        Latents that are there already are used again, if the same autoencoder made them.
        Raises: JodiError when another one did.
        """
        made_by = {"scenes": len(store), "size": store.size, "vae_sha256": hash_file(vae)}
        note = self.latents.with_suffix(".json")
        if not self.latents.exists():
            model, _ = load_autoencoder(vae, device=device, dtype=dtype)
            write_json(note, made_by)
            encode_store(store, _Encoder(model, dtype, device), self.latents, progress=progress)
        elif read_json(note, made_by) != made_by:
            raise JodiError(
                f"{self.latents} was made by another autoencoder or from other scenes; remove it, "
                "or use another run folder"
            )
        return torch.from_numpy(read_array(self.latents, np.float16, (len(store), 8, 0, 0, 0)))

    def begin_transformer(
        self, config: TransformerConfig, settings: TrainingSettings, origin: str
    ) -> None:
        """Write down what is trained, or check that the run to resume trains the same.

        origin: what training starts from. Raises: JodiError when the run was begun otherwise.
        """
        path = self.transformer / "run.json"
        now = {
            "config": json.loads(config.to_json()),
            "seed": settings.seed,
            "origin": origin,
            "settings": {k: str(v) for k, v in dataclasses.asdict(settings).items()},
        }
        before = read_json(path) if path.exists() else now
        changed = [k for k in ("config", "seed", "origin") if before.get(k) != now[k]]
        if changed and (self.transformer / "state.pt").exists():
            was = ", ".join(f"{k} {before.get(k)}" for k in changed if k != "config")
            raise JodiError(
                f"{self.transformer} was begun with another {' and '.join(changed)}"
                f"{' (' + was + ')' if was else ''}; give the same to go on, or another run folder"
            )
        write_json(path, now)

    def transformer_record(self) -> dict:
        """How the transformer was trained, as `begin_transformer` noted it, without its sizes."""
        note = read_json(self.transformer / "run.json")
        return {key: value for key, value in note.items() if key != "config"}

    def autoencoder_record(self) -> dict:
        """How the autoencoder was trained, as its file says."""
        note = read_state_dict(self.vae).metadata.get("training", "")
        return parse_json(note, f"what {self.vae} says of its training")

    def scene_record(self) -> dict:
        """Count, size and first seed of the scenes."""
        keys = ("count", "size", "first_seed")
        facts = read_json(self.scenes / "scenes.json", keys)
        return {key: facts[key] for key in keys}

    def averaged_transformer(self) -> tuple[JodiTransformer, int]:
        """The averaged weights of the last save, and how many steps they saw.

        Raises: JodiError when there is no save.
        """
        state = RunFolder(self.transformer).load() if self.transformer.is_dir() else None
        note = self.transformer / "run.json"
        if state is None or not note.exists():
            raise JodiError(f"there is no training state in {self.transformer}; train first")
        config = read_json(note, ["config"])["config"]
        try:
            model = JodiTransformer(TransformerConfig.from_dict(config))
            model.load_state_dict(state["model"])
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(state["ema"][name])
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{self.transformer}: its run.json and state.pt do not make one model "
                f"({' '.join(str(error).split())[:200]}); give both of one run, or train again"
            ) from None
        return model.eval(), state["step"]


@dataclass
class _Encoder:
    """An autoencoder in another dtype or on another device, with float32 in and out on the CPU."""

    model: DCAE
    dtype: torch.dtype
    device: str

    @property
    def config(self):
        return self.model.config

    def encode(self, pictures: Tensor) -> Tensor:
        return self.model.encode(pictures.to(self.device, self.dtype)).float().cpu()


def write_json(path: Path, values: Mapping) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(values, indent=1))
