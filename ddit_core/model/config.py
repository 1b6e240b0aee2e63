"""Every size of the network, and the sizes of the released model."""

import json
from dataclasses import dataclass

from ...kit.config import JsonConfig, require_below, require_positive
from ...kit.errors import JodiError


@dataclass(frozen=True)
class DDiTConfig(JsonConfig):
    """Sizes of the two-stream diffusion transformer with an image head and a text head.

    hidden_size: width of both streams. context_channels: of the text encoder's features.
    position_size: side of the square table of positions. mlp_size: inside a block's MLP.
    frequency_size: of the sinusoid of time. null_tokens: of `null_image_embd`, which is in the
    file and used by nothing here.
    Source: arXiv 2501.00289; github zijieli-Jlee/Dual-Diffusion @ bbf06bf, sd3_model.py.
    """

    hidden_size: int
    depth: int
    num_heads: int
    context_channels: int
    vocab_size: int
    mlp_size: int
    latent_channels: int = 16
    patch_size: int = 2
    position_size: int = 192
    frequency_size: int = 256
    null_tokens: int = 8

    def __post_init__(self):
        require_positive(self, *vars(self))
        require_below(self, 1 << 20, *vars(self))
        if self.hidden_size % self.num_heads:
            raise JodiError(
                f"a width of {self.hidden_size} cannot be divided among {self.num_heads} heads"
            )
        if self.frequency_size % 2:
            raise JodiError(
                f"the sinusoid of time has {self.frequency_size} parts, which must be an even "
                "number: half cosines, half sines"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def to_json(self) -> str:
        """The sizes under the names of the released config.json, for a weight file's metadata."""
        return json.dumps(
            {
                "num_layers": self.depth,
                "num_attention_heads": self.num_heads,
                "attention_head_dim": self.head_dim,
                "joint_attention_dim": self.context_channels,
                "caption_projection_dim": self.hidden_size,
                "vocab_size": self.vocab_size,
                "in_channels": self.latent_channels,
                "out_channels": self.latent_channels,
                "patch_size": self.patch_size,
                "pos_embed_max_size": self.position_size,
            },
            sort_keys=True,
        )


# The released checkpoints: dual_diff_sd3_512_base and dual_diff_sd3_512_sft.
DDIT_SD3 = DDiTConfig(
    hidden_size=1536,
    depth=24,
    num_heads=24,
    context_channels=4096,
    vocab_size=32100,
    mlp_size=4 * 1536,
)
