"""The config of `jodi train --config`: every choice of a training, with its default.

A file has one table for each class below, and a list of `sources`:

    folder = "runs/mine"
    [[sources]]
    folder = "data/pexels"
    [training]
    updates = 20000
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...kit.config import JsonConfig, parse_json, require_positive
from ...kit.errors import JodiError
from ...kit.files import read_text

NOTHING, EMBEDDED, GEMMA = "nothing", "embedded", "gemma"
SIZES = ("nano", "1600M")
ON_FAULT = ("skip", "refuse")
OPTIMIZERS = ("adamw", "muon")
ROLES = ("published", "any")


@dataclass(frozen=True)
class SourceConfig(JsonConfig):
    """A folder of pictures.

    split: reads `metadata.<split>.jsonl` in place of `metadata.jsonl`. captioners: how often each
    captioner's text is taken, by name or its beginning; none means all alike. repeat: how often the
    folder counts in an epoch.
    """

    folder: str
    split: str = ""
    captioners: Mapping[str, float] = field(default_factory=dict)
    repeat: int = 1

    @classmethod
    def from_dict(cls, values: dict) -> "SourceConfig":
        values = dict(values)
        captioners = values.pop("captioners", {})
        numbers = isinstance(captioners, dict) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v < 1e9
            for v in captioners.values()
        )
        if not numbers or (captioners and not sum(captioners.values()) > 0):
            raise JodiError("captioners is no table of a weight for each captioner's name")
        return dataclasses.replace(super().from_dict(values), captioners=captioners)


@dataclass(frozen=True)
class DataConfig(JsonConfig):
    """side: pixels of the square picture; 0 is the model's own. on_fault: `skip` leaves out what
    cannot be trained on and says so, `refuse` stops before training. need_captions: a picture
    without a caption is a fault. empty_pose: a missing pose is black, which says nobody is there.
    """

    side: int = 0
    on_fault: str = "skip"
    need_captions: bool = True
    empty_pose: bool = True


@dataclass(frozen=True)
class ModelConfig(JsonConfig):
    """start: `embedded`, a file of Jodi or of Sana, or `nothing`. size: of a start from Sana or
    nothing. vae: `embedded` or a file. text: `embedded`, a file of words, or `gemma`, with
    `text_model` the folder or name that transformers loads it from.
    """

    start: str = EMBEDDED
    size: str = "nano"
    vae: str = EMBEDDED
    text: str = EMBEDDED
    text_model: str = "google/gemma-2-2b-it"


@dataclass(frozen=True)
class UpdateConfig(JsonConfig):
    """How it is trained.

    rows: of a micro-batch, over all processes. micro_batches: of an update; each has one pattern of
    roles. optimizer: `adamw`, or `muon` for the blocks' matrices in one process. lr and muon_lr:
    highest rates. dtype: of the arithmetic; `auto` is bfloat16 where the machine is faster with it.
    recompute: keep each block's input alone for the backward pass. roles: `published`, or `any`,
    which trains free patterns too. full_noise: share of rows with something given and no picture
    made that train at full noise, where one evaluation reads the whole answer. keep: newest saves
    that stay. device: `auto`, `cpu`, `cuda`.
    """

    updates: int = 10000
    rows: int = 8
    micro_batches: int = 4
    optimizer: str = "adamw"
    lr: float = 1e-4
    muon_lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    warmup: int = 500
    clip: float = 1.0
    ema: float = 0.9995
    dtype: str = "auto"
    recompute: bool = False
    roles: str = "published"
    text_dropout: float = 0.1
    full_noise: float = 0.0
    save_every: int = 500
    keep: int = 3
    log_every: int = 50
    device: str = "auto"


@dataclass(frozen=True)
class SampleConfig(JsonConfig):
    """Pictures made every so many updates (0: none): of each prompt with seeds 0, 1, ..., and the
    labels of the first `read` training pictures.
    """

    every: int = 0
    prompts: tuple[str, ...] = ()
    read: int = 0
    steps: int = 20
    guidance: float = 4.5


@dataclass(frozen=True)
class LoraConfig(JsonConfig):
    """rank: of the adapters; 0 trains the whole model. alpha: they are scaled by alpha / rank; 0 is
    the rank. targets: ends of the names of the layers that get one.
    """

    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = (
        *("attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear"),
        *("cross_attn.proj", "mlp.inverted_conv.conv", "mlp.point_conv.conv"),
    )

    @property
    def scale(self) -> float:
        return self.alpha or float(self.rank)


@dataclass(frozen=True)
class TrainConfig:
    """A whole training. folder: of the run; it is made."""

    folder: str
    sources: tuple[SourceConfig, ...]
    seed: int = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: UpdateConfig = UpdateConfig()
    samples: SampleConfig = SampleConfig()
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        t = self.training
        require_positive(t, "updates", "rows", "micro_batches", "lr", "muon_lr", "clip")
        require_positive(t, "save_every", "keep", "log_every")
        if not self.sources:
            raise JodiError("the config names no `sources`; give at least one folder of pictures")
        _one_of("data.on_fault", self.data.on_fault, ON_FAULT)
        _one_of("model.size", self.model.size, SIZES)
        _one_of("training.optimizer", t.optimizer, OPTIMIZERS)
        _one_of("training.roles", t.roles, ROLES)
        _one_of("training.dtype", t.dtype, ("auto", "float32", "bfloat16", "float64"))
        for name in ("text_dropout", "full_noise", "ema", "beta1", "beta2"):
            if not 0 <= getattr(t, name) <= 1:
                raise JodiError(f"training.{name} must be from 0 to 1, got {getattr(t, name)}")
        for name, value in (
            ("lora.rank", self.lora.rank),
            ("samples.every", self.samples.every),
            ("data.side", self.data.side),
        ):
            if value < 0:
                raise JodiError(f"{name} must be 0 or more, got {value}")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)


SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "training": UpdateConfig,
    "samples": SampleConfig,
    "lora": LoraConfig,
}


def read_train_config(values: dict) -> TrainConfig:
    """The config in plain values, such as a TOML or JSON file gives.

    Raises: JodiError that names the table and the key.
    """
    known = ("folder", "sources", "seed", *SECTIONS)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise JodiError(f"the config has no {', '.join(unknown)[:200]}; it has {', '.join(known)}")
    folder, seed = values.get("folder"), values.get("seed", 0)
    if not isinstance(folder, str) or not folder:
        raise JodiError("the config needs `folder`, the folder of the run")
    if type(seed) is not int or seed < 0:
        raise JodiError(f"seed is {seed!r}; expected a whole number of at least 0")
    sources = values.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise JodiError("sources is no list of tables; write [[sources]] in TOML")
    read = [_section(f"sources[{i}]", SourceConfig, s) for i, s in enumerate(sources)]
    rest = {name: _section(name, kind, values.get(name, {})) for name, kind in SECTIONS.items()}
    return TrainConfig(folder, tuple(read), seed, **rest)


def load_train_config(path: Path) -> TrainConfig:
    """The config in a TOML file (Python 3.11 and newer) or a JSON file.

    Raises: JodiError naming the file.
    """
    try:
        text = read_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise JodiError(f"{path} cannot be read: {error}") from None
    try:
        values = _parse_toml(text) if path.suffix.lower() == ".toml" else parse_json(text, "it")
        if not isinstance(values, dict):
            raise JodiError("it holds no table")
        return read_train_config(values)
    except JodiError as error:
        raise JodiError(f"{path}: {error}") from None


def _parse_toml(text: str) -> dict:
    try:
        import tomllib
    except ImportError:
        raise JodiError(
            "TOML needs Python 3.11 or newer; write the same keys in a .json file"
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JodiError(f"it is not TOML ({error})") from None


def _section(name: str, kind, values):
    if not isinstance(values, dict):
        raise JodiError(f"{name} is no table")
    try:
        return kind.from_dict(values)
    except JodiError as error:
        raise JodiError(f"{name}: {error}") from None


def _one_of(name: str, value: str, choices) -> None:
    if value not in choices:
        raise JodiError(f"{name} is {value!r}; use one of {', '.join(choices)}")
