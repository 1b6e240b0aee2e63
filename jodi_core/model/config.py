"""Every size of the transformer, and the sizes of the released model."""

from dataclasses import dataclass

from ...kit.config import JsonConfig, require_below, require_positive
from ...kit.errors import JodiError


@dataclass(frozen=True)
class TransformerConfig(JsonConfig):
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
        require_positive(
            self,
            *("hidden_size", "depth", "cross_attention_heads", "caption_channels"),
            *("caption_length", "linear_head_dim", "mlp_ratio", "num_labels", "patch_size"),
            *("latent_channels", "pe_base_size", "pe_interpolation", "frequency_size"),
            *("norm_eps_blocks", "caption_norm_eps"),
        )
        require_below(self, 1, "norm_eps_blocks", "caption_norm_eps")
        require_below(self, 2**16, "pe_base_size", "pe_interpolation", "mlp_ratio")
        if self.frequency_size % 2:
            raise JodiError(
                f"frequency_size {self.frequency_size} must be even: half cosines, half sines"
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
    def mlp_size(self) -> int:
        """Width behind the gate of the mix-FFN."""
        return int(self.hidden_size * self.mlp_ratio)


JODI_1600M = TransformerConfig(
    hidden_size=2240, depth=20, cross_attention_heads=20, caption_channels=2304, caption_length=300
)
