"""DC-AE, the deep-compression autoencoder. The scale factor lives inside encode and decode.

Attribute names are the keys of the released file (mit-han-lab/dc-ae-f32c32-sana-1.0).
Source: arXiv 2410.10733; github mit-han-lab/efficientvit (Apache-2.0),
models/efficientvit/dc_ae.py.
Shapes: B batch, C channels, H W pixels or cells of the stage, h w latent grid, z latent channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from .blocks import Downsample, Main, OpList, Ops, OutputHead, Upsample, average_groups
from .blocks import block as make_block
from .config import AutoencoderConfig
from .tiling import map_tiles
from .upsampling import BAND, may_overwrite, repeat_channels


class DCAE(nn.Module):
    """Picture <-> latent. Deterministic: there is no posterior to sample."""

    def __init__(self, config: AutoencoderConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.config = config
        ops = Ops(operations, device, dtype)
        self.encoder = Encoder(config, ops)
        self.decoder = Decoder(config, ops)

    def encode(self, picture: Tensor, *, tile: int | None = None) -> Tensor:
        """Picture (B, 3, H, W) in [-1, 1] -> scaled latent (B, z, H/f, W/f).

        tile: pixels per side of a tile, for pictures too large for memory; tiles overlap by a
        quarter and are blended. Tiling is close but not exact: attention sees one tile at a time.
        Raises: ShapeError when H or W is no multiple of the factor f.
        """
        f = self.config.factor
        if picture.shape[-2] % f or picture.shape[-1] % f:
            raise ShapeError(
                f"the autoencoder needs sides that are multiples of {f}, got "
                f"{picture.shape[-2]}x{picture.shape[-1]}; crop or pad the picture first"
            )

        def encode(part: Tensor) -> Tensor:
            return self._walk(self.encoder, part, part.shape[-2] * part.shape[-1])

        if tile is None or max(picture.shape[-2:]) <= tile:
            latent = encode(picture)
        else:
            latent = map_tiles(encode, picture, tile=max(tile // f, 2) * f, step=f, scale=1 / f)
        return latent * self.config.scaling_factor

    def decode(self, latent: Tensor, *, tile: int | None = None) -> Tensor:
        """Scaled latent (B, z, h, w) -> picture (B, 3, h*f, w*f), about [-1, 1], not clamped.

        tile: pixels per side of a tile, as for `encode`.
        """
        latent = latent / self.config.scaling_factor
        f = self.config.factor

        def decode(part: Tensor) -> Tensor:
            return self._walk(self.decoder, part, part.shape[-2] * part.shape[-1] * f**2)

        if tile is None or max(latent.shape[-2:]) * f <= tile:
            return decode(latent)
        return map_tiles(decode, latent, tile=max(tile // f, 2), step=1, scale=f)

    def forward(self, picture: Tensor) -> Tensor:
        """The round trip decode(encode(picture))."""
        return self.decode(self.encode(picture))

    def largest_map(self, pixels: int, itemsize: int) -> int:
        """Bytes of the largest map between blocks, for one picture of so many pixels."""
        return int(max(w / 4**i for i, w in enumerate(self.config.widths)) * pixels) * itemsize

    def peak_memory(self, pixels: int, itemsize: int) -> int:
        """Bytes that coding one picture of so many pixels, either way, takes at most on a GPU.

        Six of the largest maps: four in the network's dtype, two of a residual block and two on
        their way between blocks, and two copies in float32, which the norm works in.
        """
        return 4 * self.largest_map(pixels, itemsize) + 2 * self.largest_map(pixels, 4)

    def _walk(self, network: Callable[[Tensor], Tensor], x: Tensor, pixels: int) -> Tensor:
        """network(x); on a CPU only as many rows at once as fit a band, so that none is split."""
        rows = max(1, BAND // max(1, self.largest_map(pixels, x.element_size())))
        if not may_overwrite(x) or len(x) <= rows:
            return network(x)
        return torch.cat([network(part) for part in x.split(rows)])


class Encoder(nn.Module):
    """Picture (B, 3, H, W) -> unscaled latent (B, z, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig, ops: Ops):
        super().__init__()
        widths = config.widths
        self.project_in = ops.conv(config.in_channels, widths[0], 3)
        stages = []
        for i, (width, depth) in enumerate(zip(widths, config.encoder_depths, strict=True)):
            blocks = [make_block(config, i, ops) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.append(Downsample(width, widths[i + 1], ops))
            stages.append(OpList(blocks))
        self.stages = nn.ModuleList(stages)
        self.project_out = Main(OpList([ops.conv(widths[-1], config.latent_channels, 3)]))
        self.latent_channels = config.latent_channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return self.project_out.main(x) + average_groups(x, self.latent_channels)


class Decoder(nn.Module):
    """Unscaled latent (B, z, h, w) -> picture (B, 3, h*f, w*f)."""

    def __init__(self, config: AutoencoderConfig, ops: Ops):
        super().__init__()
        widths = config.widths
        self.project_in = Main(ops.conv(config.latent_channels, widths[-1], 3))
        self.width = widths[-1]
        stages = []
        for i, depth in enumerate(config.decoder_depths):
            blocks = [make_block(config, i, ops) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.insert(0, Upsample(widths[i + 1], widths[i], ops))
            stages.append(OpList(blocks))
        self.stages = nn.ModuleList(stages)
        self.project_out = OutputHead(widths[0], config.in_channels, ops)

    def forward(self, z: Tensor) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last)
        x = self.project_in.main(z) + repeat_channels(z, self.width)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.project_out(x)
