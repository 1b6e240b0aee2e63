"""Every size of the two networks. A size exists here and nowhere else."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar

from .errors import JodiError

BLOCK_TYPES = ("ResBlock", "EViTS5_GLU")


def _require_positive(config, *names):
    for name in names:
        value = getattr(config, name)
        if value <= 0:
            raise JodiError(f"{type(config).__name__}.{name} must be positive, got {value}")


class _Json:
    """JSON in and out, for checkpoint metadata. A base of dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict):
        """Build from plain values; lists become tuples.

        Raises: JodiError for a missing or an unknown field, naming it.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise JodiError(
                f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}"
            )
        missing = [
            name
            for name, f in fields.items()
            if name not in values and f.default is dataclasses.MISSING
        ]
        if missing:
            raise JodiError(f"{cls.__name__} needs {', '.join(missing)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@dataclass(frozen=True)
class TransformerConfig(_Json):
    """Sizes of the linear diffusion transformer.

    Source: arXiv 2505.19084 and github VIPL-GENUN/Jodi @ c21bdcb, model/nets/jodi.py.
    """

    hidden_size: int
    depth: int
    cross_attention_heads: int
    caption_channels: int
    caption_length: int
    linear_head_dim: int = 32
    mlp_ratio: float = 2.5
    num_labels: int = 7
    patch_size: int = 1
    latent_channels: int = 32
    pe_base_size: int = 32
    pe_interpolation: float = 1.0
    norm_eps_blocks: float = 1e-6
    caption_norm_eps: float = 1e-5
    frequency_size: int = 256

    def __post_init__(self):
        _require_positive(
            self,
            *("hidden_size", "depth", "cross_attention_heads", "caption_channels"),
            *("caption_length", "linear_head_dim", "mlp_ratio", "num_labels", "patch_size"),
            *("latent_channels", "pe_base_size", "pe_interpolation", "frequency_size"),
        )
        for name in ("cross_attention_heads", "linear_head_dim"):
            if self.hidden_size % getattr(self, name):
                raise JodiError(
                    f"hidden_size {self.hidden_size} must be divisible by {name} "
                    f"{getattr(self, name)}"
                )
        if self.hidden_size % 4:
            raise JodiError(
                f"hidden_size {self.hidden_size} must be divisible by 4: the positional table has "
                "a sine and a cosine quarter for each axis"
            )

    @property
    def num_domains(self) -> int:
        return 1 + self.num_labels

    @property
    def linear_heads(self) -> int:
        return self.hidden_size // self.linear_head_dim

    @property
    def mlp_size(self) -> int:
        """Width behind the gate of the mix-FFN."""
        return int(self.hidden_size * self.mlp_ratio)


@dataclass(frozen=True)
class AutoencoderConfig(_Json):
    """Sizes of the deep-compression autoencoder (DC-AE).

    Source: arXiv 2410.10733 and the release mit-han-lab/dc-ae-f32c32-sana-1.0.
    """

    widths: tuple[int, ...]
    encoder_depths: tuple[int, ...]
    decoder_depths: tuple[int, ...]
    block_types: tuple[str, ...]
    latent_channels: int
    scaling_factor: float
    in_channels: int = 3
    attention_head_dim: int = 32

    def __post_init__(self):
        stages = len(self.widths)
        for name in ("encoder_depths", "decoder_depths", "block_types"):
            if len(getattr(self, name)) != stages:
                raise JodiError(
                    f"{name} has {len(getattr(self, name))} entries, widths has {stages}; "
                    "give one entry per stage"
                )
        for block in self.block_types:
            if block not in BLOCK_TYPES:
                raise JodiError(f"block type {block!r} is unknown; use {' or '.join(BLOCK_TYPES)}")
        _require_positive(self, "latent_channels", "scaling_factor", "in_channels")
        if min(*self.widths, *self.encoder_depths, *self.decoder_depths) < 1:
            raise JodiError("widths and depths of the autoencoder must be at least 1")
        for width, block in zip(self.widths, self.block_types, strict=True):
            if block == "EViTS5_GLU" and width % self.attention_head_dim:
                raise JodiError(
                    f"width {width} must be divisible by attention_head_dim "
                    f"{self.attention_head_dim}"
                )

    @property
    def factor(self) -> int:
        """Pixels per latent cell along each axis."""
        return 2 ** (len(self.widths) - 1)


JODI_1600M = TransformerConfig(
    hidden_size=2240, depth=20, cross_attention_heads=20, caption_channels=2304, caption_length=300
)
DC_AE_F32C32 = AutoencoderConfig(
    widths=(128, 256, 512, 512, 1024, 1024),
    encoder_depths=(2, 2, 2, 3, 3, 3),
    decoder_depths=(3, 3, 3, 3, 3, 3),
    block_types=("ResBlock",) * 3 + ("EViTS5_GLU",) * 3,
    latent_channels=32,
    scaling_factor=0.41407,
)
