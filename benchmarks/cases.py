"""What is measured: the cases, their names, and the standard set.

A case's key is flat: `step.perceive1.1600m.512.bf16.cpu`. Kinds:
  step            one network evaluation, unguided; what is prepared once per request is left out
  step_guided     the same with guidance 4.5
  request         pictures and text features in, finished pictures out, unguided
  request_guided  the same with guidance 4.5
  decode, encode  one picture through the autoencoder
Sizes are sides in pixels. `f32c32` is the released autoencoder alone.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..jodi_core.domains import DOMAIN_NAMES
from ..jodi_core.model.config import JODI_1600M, TransformerConfig
from ..jodi_core.model.facts import RELEASED_GUIDANCE
from ..jodi_core.roles import RolePlan
from ..kit.autoencoder.config import DC_AE_F32C32, AutoencoderConfig
from ..kit.errors import JodiError

TASKS = {
    "perceive1": RolePlan.from_names(["depth"], ["image"]),
    "perceive7": RolePlan.from_names(DOMAIN_NAMES[1:], ["image"]),
    "control1": RolePlan.from_names(["image"], ["depth"]),
    "joint": RolePlan.from_names(DOMAIN_NAMES),
}
TASK_STEPS = {"perceive1": 10, "perceive7": 10, "control1": 20, "joint": 20}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

NETWORK_KINDS = ("step", "step_guided", "request", "request_guided")
AUTOENCODER_KINDS = ("decode", "encode")
KINDS = (*NETWORK_KINDS, *AUTOENCODER_KINDS)

TINY = TransformerConfig(
    hidden_size=224,
    depth=6,
    cross_attention_heads=7,
    caption_channels=162,
    caption_length=32,
    linear_head_dim=112,
)
TINY_VAE = AutoencoderConfig(
    widths=(16, 64, 128, 128),
    encoder_depths=(1, 1, 1, 1),
    decoder_depths=(1, 1, 2, 2),
    block_types=("ResBlock", "ResBlock", "ResBlock", "EViTS5_GLU"),
    latent_channels=32,
    scaling_factor=1.0,
)
MODELS = {
    "tiny": (TINY, TINY_VAE),
    "1600m": (JODI_1600M, DC_AE_F32C32),
    "f32c32": (TINY, DC_AE_F32C32),  # the autoencoder alone is measured
}
SIZES = {"tiny": (64,), "1600m": (512, 1024), "f32c32": (512, 1024)}


@dataclass(frozen=True)
class Case:
    """One figure to measure. task is empty for the autoencoder's kinds."""

    kind: str
    task: str
    model: str
    size: int
    dtype: str
    device: str

    @property
    def key(self) -> str:
        parts = (self.kind, self.task, self.model, str(self.size), self.dtype, self.device)
        return ".".join(part for part in parts if part)

    @property
    def name(self) -> str:
        """What a pattern is matched with: `step.perceive1`, `decode`."""
        return f"{self.kind}.{self.task}" if self.task else self.kind

    @property
    def guidance(self) -> float:
        return RELEASED_GUIDANCE if self.kind.endswith("_guided") else 1.0

    @classmethod
    def parse(cls, key: str) -> "Case":
        """The case of a key. Raises: JodiError for a key that names none."""
        parts = key.split(".")
        if len(parts) == 5:
            parts.insert(1, "")
        if len(parts) != 6 or not parts[3].isdigit():
            raise JodiError(f"{key!r} is no case; expected one like step.joint.1600m.512.bf16.cpu")
        kind, task, model, size, dtype, device = parts
        case = cls(kind, task, model, int(size), dtype, device)
        known = case.model in MODELS and case.kind in KINDS and case.dtype in DTYPES
        if not known or case.task not in ("", *TASKS):
            raise JodiError(f"{key!r} names an unknown kind, task, model or dtype")
        return case


def standard_cases(device: str) -> list[Case]:
    """What `make bench` measures, in an order that leaves the least telling for the end.

    On a CPU the network's cases at 1.6 billion weights are few: one evaluation of the baseline
    takes the better part of a minute or more.
    """

    def cases(model: str, size: int, dtype: str, names: Iterable[str]) -> list[Case]:
        split = (name.partition(".") for name in names)
        return [Case(kind, task, model, size, dtype, device) for kind, _, task in split]

    steps, requests = ([f"{kind}.{task}" for task in TASKS] for kind in ("step", "request"))
    guided = [f"{kind}_guided.{task}" for kind in ("step", "request") for task in TASKS]
    chosen = [
        *cases("tiny", 64, "fp32", (*steps, *requests)),
        *cases("tiny", 64, "bf16", (*steps, *requests)),
        *cases("f32c32", 512, "bf16", AUTOENCODER_KINDS),
        *cases("f32c32", 512, "fp32", AUTOENCODER_KINDS),
    ]
    if device != "cpu":
        for size in SIZES["1600m"]:
            chosen += cases("1600m", size, "bf16", (*steps, *requests, *guided))
        return [*chosen, *cases("f32c32", 1024, "bf16", AUTOENCODER_KINDS)]
    return [
        *chosen,
        *cases("1600m", 512, "bf16", steps),
        *cases("1600m", 1024, "bf16", ["step.joint"]),
        *cases("1600m", 512, "fp32", ["step.perceive1"]),
        *cases("1600m", 512, "bf16", ["request.perceive1"]),
        *cases("1600m", 1024, "bf16", ["step.perceive1"]),
        *cases("1600m", 512, "bf16", ["step_guided.control1", "step_guided.perceive1"]),
    ]


def choose_cases(
    patterns: Sequence[str], sizes: Iterable[str], dtypes: Iterable[str], device: str
) -> list[Case]:
    """All cases of the catalogue whose name matches one of the patterns.

    sizes: of "tiny", "512", "1024". Raises: JodiError when nothing matches.
    """
    names = [f"{kind}.{task}" for kind in NETWORK_KINDS for task in TASKS]
    wanted = []
    for dtype in dtypes:
        for size in sizes:
            for name in (*names, *AUTOENCODER_KINDS):
                if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    continue
                kind, _, task = name.partition(".")
                model = "tiny" if size == "tiny" else "1600m" if task else "f32c32"
                pixels = SIZES["tiny"][0] if size == "tiny" else int(size)
                wanted.append(Case(kind, task, model, pixels, dtype, device))
    if not wanted:
        raise JodiError(
            f"no case is named {' or '.join(patterns)}; there are {', '.join(names)} and "
            f"{', '.join(AUTOENCODER_KINDS)} (* stands for anything)"
        )
    return wanted
