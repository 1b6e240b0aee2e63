"""Sizes of a DC-AE."""

from dataclasses import dataclass

from ..config import JsonConfig, require_below, require_positive
from ..errors import JodiError

BLOCK_TYPES = ("ResBlock", "EViTS5_GLU")


@dataclass(frozen=True)
class AutoencoderConfig(JsonConfig):
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
        if not stages:
            raise JodiError("widths is empty; give one width per stage, at least one")
        for name in ("encoder_depths", "decoder_depths", "block_types"):
            if len(getattr(self, name)) != stages:
                raise JodiError(
                    f"{name} has {len(getattr(self, name))} entries, widths has {stages}; "
                    "give one entry per stage"
                )
        for block in self.block_types:
            if block not in BLOCK_TYPES:
                raise JodiError(f"block type {block!r} is unknown; use {' or '.join(BLOCK_TYPES)}")
        require_positive(self, "latent_channels", "scaling_factor", "in_channels")
        require_positive(self, "attention_head_dim")
        require_below(self, 1e6, "scaling_factor")
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


DC_AE_F32C32 = AutoencoderConfig(
    widths=(128, 256, 512, 512, 1024, 1024),
    encoder_depths=(2, 2, 2, 3, 3, 3),
    decoder_depths=(3, 3, 3, 3, 3, 3),
    block_types=("ResBlock",) * 3 + ("EViTS5_GLU",) * 3,
    latent_channels=32,
    scaling_factor=0.41407,
)
