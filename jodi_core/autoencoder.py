"""DC-AE, the deep-compression autoencoder. The scale factor lives inside encode and decode.

Attribute names are the keys of the released file (mit-han-lab/dc-ae-f32c32-sana-1.0).
Source: arXiv 2410.10733; github mit-han-lab/efficientvit (Apache-2.0),
models/efficientvit/dc_ae.py.
Shapes: B batch, C channels, H W pixels or cells of the stage, h w latent grid, z latent channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import dispatch
from .config import AutoencoderConfig
from .errors import ShapeError
from .layers import RMSNorm2d, depthwise_glu_conv, pointwise_conv
from .tiling import map_tiles

ATTENTION_EPS = 1e-15


class DCAE(nn.Module):
    """Picture <-> latent. Deterministic: there is no posterior to sample."""

    def __init__(self, config: AutoencoderConfig, *, operations=nn, device=None, dtype=None):
        super().__init__()
        self.config = config
        ops = _Ops(operations, device, dtype)
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
        if tile is None or max(picture.shape[-2:]) <= tile:
            latent = self.encoder(picture)
        else:
            latent = map_tiles(
                self.encoder, picture, tile=max(tile // f, 2) * f, step=f, scale=1 / f
            )
        return latent * self.config.scaling_factor

    def decode(self, latent: Tensor, *, tile: int | None = None) -> Tensor:
        """Scaled latent (B, z, h, w) -> picture (B, 3, h*f, w*f), about [-1, 1], not clamped.

        tile: pixels per side of a tile, as for `encode`.
        """
        latent = latent / self.config.scaling_factor
        f = self.config.factor
        if tile is None or max(latent.shape[-2:]) * f <= tile:
            return self.decoder(latent)
        return map_tiles(self.decoder, latent, tile=max(tile // f, 2), step=1, scale=f)

    def forward(self, picture: Tensor) -> Tensor:
        """The round trip decode(encode(picture))."""
        return self.decode(self.encode(picture))


class Encoder(nn.Module):
    """Picture (B, 3, H, W) -> unscaled latent (B, z, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig, ops: "_Ops"):
        super().__init__()
        widths = config.widths
        self.project_in = ops.conv(config.in_channels, widths[0], 3)
        stages = []
        for i, (width, depth) in enumerate(zip(widths, config.encoder_depths, strict=True)):
            blocks = [_block(config, i, ops) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.append(Downsample(width, widths[i + 1], ops))
            stages.append(_OpList(blocks))
        self.stages = nn.ModuleList(stages)
        self.project_out = _Main(_OpList([ops.conv(widths[-1], config.latent_channels, 3)]))
        self.latent_channels = config.latent_channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
        return self.project_out.main(x) + _average_groups(x, self.latent_channels)


class Decoder(nn.Module):
    """Unscaled latent (B, z, h, w) -> picture (B, 3, h*f, w*f)."""

    def __init__(self, config: AutoencoderConfig, ops: "_Ops"):
        super().__init__()
        widths = config.widths
        self.project_in = _Main(ops.conv(config.latent_channels, widths[-1], 3))
        self.width = widths[-1]
        stages = []
        for i, depth in enumerate(config.decoder_depths):
            blocks = [_block(config, i, ops) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.insert(0, Upsample(widths[i + 1], widths[i], ops))
            stages.append(_OpList(blocks))
        self.stages = nn.ModuleList(stages)
        self.project_out = _OpList(
            [ops.rms_norm(widths[0]), nn.ReLU(), ops.conv(widths[0], config.in_channels, 3)]
        )

    def forward(self, z: Tensor) -> Tensor:
        z = z.contiguous(memory_format=torch.channels_last)
        x = self.project_in.main(z) + _repeat_channels(z, self.width)
        for stage in reversed(self.stages):
            x = stage(x)
        return self.project_out(x)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a SiLU, RMS-normed, added to the input."""

    def __init__(self, width: int, ops: "_Ops"):
        super().__init__()
        self.main = _TwoConvs()
        self.main.conv1 = ops.conv(width, width, 3)
        self.main.conv2 = ops.conv(width, width, 3, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main.conv2(F.silu(self.main.conv1(x)))


class EfficientViTBlock(nn.Module):
    """Multi-scale linear attention, then a gated convolution, each added to its input."""

    def __init__(self, width: int, head_dim: int, ops: "_Ops"):
        super().__init__()
        self.context_module = _Main(MultiScaleLinearAttention(width, head_dim, ops))
        self.local_module = _Main(GatedConv(width, ops))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.context_module.main(x)
        return x + self.local_module.main(x)


class MultiScaleLinearAttention(nn.Module):
    """ReLU linear attention over two scales of one query-key-value map.

    Channels of the map are interleaved per head: each run of 3 * head_dim is one head's q, k, v.
    The published code switches to a quadratic form for grids of at most head_dim cells; the two
    are the same function, so one form serves here.
    """

    def __init__(self, width: int, head_dim: int, ops: "_Ops"):
        super().__init__()
        heads = width // head_dim
        self.head_dim = head_dim
        self.qkv = ops.conv(width, 3 * width, 1, bias=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    ops.bare_conv(3 * width, 3 * width, 5, groups=3 * width),
                    ops.bare_conv(3 * width, 3 * width, 1, groups=3 * heads),
                )
            ]
        )
        self.proj = ops.conv(2 * width, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        qkv = self.qkv(x)
        scales = torch.cat([qkv, self.aggreg[0](qkv)], dim=1)
        tokens = scales.permute(0, 2, 3, 1).reshape(batch, height * width, -1, 3 * self.head_dim)
        q, k, v = tokens.chunk(3, dim=-1)
        out = dispatch.relu_linear_attention(q, k, v, ATTENTION_EPS)
        return self.proj(out.reshape(batch, height, width, -1).permute(0, 3, 1, 2))


class GatedConv(nn.Module):
    """Expand by 8, depthwise 3x3, gate, contract: the local half of an EfficientViT block."""

    def __init__(self, width: int, ops: "_Ops"):
        super().__init__()
        hidden = 4 * width
        self.inverted_conv = ops.conv(width, 2 * hidden, 1)
        self.depth_conv = _ConvHolder(
            depthwise_glu_conv(ops.operations)(
                2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **ops.kwargs
            )
        )
        self.point_conv = ops.conv(hidden, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.point_conv(self.depth_conv.conv(F.silu(self.inverted_conv(x))))


class Downsample(nn.Module):
    """Strided 3x3 convolution plus a channel-averaged space-to-depth shortcut."""

    def __init__(self, in_channels: int, out_channels: int, ops: "_Ops"):
        super().__init__()
        self.main = ops.conv(in_channels, out_channels, 3, stride=2)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + _average_groups(F.pixel_unshuffle(x, 2), self.out_channels)


class Upsample(nn.Module):
    """Nearest x2 and a 3x3 convolution plus a channel-repeated depth-to-space shortcut."""

    def __init__(self, in_channels: int, out_channels: int, ops: "_Ops"):
        super().__init__()
        self.main = _ConvHolder(ops.conv(in_channels, out_channels, 3))
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pixel_shuffle(_repeat_channels(x, 4 * self.out_channels), 2)
        return self.main.conv(F.interpolate(x, scale_factor=2, mode="nearest")) + shortcut


class ConvLayer(nn.Module):
    """A convolution, optionally RMS-normed."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None):
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class _Ops:
    """Builds layers from the injected operations."""

    def __init__(self, operations, device, dtype):
        self.operations = operations
        self.kwargs = {"device": device, "dtype": dtype}

    def conv(self, in_channels, out_channels, kernel, *, stride=1, bias=True, norm=False):
        conv = self.bare_conv(in_channels, out_channels, kernel, stride=stride, bias=bias)
        return ConvLayer(conv, self.rms_norm(out_channels) if norm else None)

    def bare_conv(self, in_channels, out_channels, kernel, *, stride=1, bias=False, groups=1):
        cls = self.operations.Conv2d
        if kernel == 1 and groups == 1:
            cls = pointwise_conv(self.operations)
        return cls(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=bias,
            **self.kwargs,
        )

    def rms_norm(self, channels):
        return RMSNorm2d(channels, **self.kwargs)


class _OpList(nn.Module):
    """A sequence under the released name `op_list`."""

    def __init__(self, modules):
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.op_list:
            x = op(x)
        return x


class _Main(nn.Module):
    """Puts a module under the released name `main`."""

    def __init__(self, main: nn.Module):
        super().__init__()
        self.main = main


class _TwoConvs(nn.Module):
    """Holds a residual block's convolutions under their released names."""

    conv1: ConvLayer
    conv2: ConvLayer


class _ConvHolder(nn.Module):
    """Puts a layer under the released name `conv`."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv


def _block(config: AutoencoderConfig, stage: int, ops: _Ops) -> nn.Module:
    width = config.widths[stage]
    if config.block_types[stage] == "ResBlock":
        return ResBlock(width, ops)
    return EfficientViTBlock(width, config.attention_head_dim, ops)


def _average_groups(x: Tensor, channels: int) -> Tensor:
    """Mean over runs of consecutive channels, so that `channels` remain."""
    return x.unflatten(1, (channels, -1)).mean(2)


def _repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Each channel repeated in place, so that there are `channels`."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)
