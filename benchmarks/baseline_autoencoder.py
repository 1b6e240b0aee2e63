"""DC-AE in the published code's structure: NCHW, convolutions throughout, a norm of eight passes.

Written from the formulas, to be read beside `jodi_core.autoencoder`. Module names are the keys of
the released file (mit-han-lab/dc-ae-f32c32-sana-1.0).
Source: arXiv 2410.10733; github mit-han-lab/efficientvit (Apache-2.0), for structure only.

Shapes: B batch, C channels, H W cells of the stage, z latent channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kit.autoencoder.config import AutoencoderConfig
from .holder import Holder

ATTENTION_EPS = 1e-15
NORM_EPS = 1e-5


class BaselineAutoencoder(nn.Module):
    """Picture (B, 3, H, W) in [-1, 1] <-> scaled latent (B, z, h, w)."""

    def __init__(self, config: AutoencoderConfig, *, device=None, dtype=None):
        super().__init__()
        self.config = config
        made = {"device": device, "dtype": dtype}
        self.encoder = Encoder(config, made)
        self.decoder = Decoder(config, made)

    def encode(self, picture: Tensor) -> Tensor:
        return self.encoder(picture) * self.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent / self.config.scaling_factor)


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, made: dict):
        super().__init__()
        widths = config.widths
        self.project_in = ConvLayer(config.in_channels, widths[0], 3, made)
        self.stages = nn.ModuleList()
        for i, depth in enumerate(config.encoder_depths):
            blocks: list[nn.Module] = [_block(config, i, made) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.append(Down(widths[i], widths[i + 1], made))
            self.stages.append(OpList(blocks))
        out = ConvLayer(widths[-1], config.latent_channels, 3, made)
        self.project_out = Holder(main=OpList([out]))
        self.channels = config.latent_channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in(x)
        for stage in self.stages:
            x = stage(x)
        return self.project_out.main(x) + _average(x, self.channels)


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig, made: dict):
        super().__init__()
        widths = config.widths
        self.width = widths[-1]
        self.project_in = Holder(main=ConvLayer(config.latent_channels, self.width, 3, made))
        self.stages = nn.ModuleList()
        for i, depth in enumerate(config.decoder_depths):
            blocks: list[nn.Module] = [_block(config, i, made) for _ in range(depth)]
            if i + 1 < len(widths):
                blocks.insert(0, Up(widths[i + 1], widths[i], made))
            self.stages.append(OpList(blocks))
        self.project_out = OpList(
            [RMSNorm2d(widths[0], made), nn.ReLU(), ConvLayer(widths[0], 3, 3, made)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.project_in.main(x) + _repeat(x, self.width)
        for stage in reversed(list(self.stages)):
            x = stage(x)
        return self.project_out(x)


class ResBlock(nn.Module):
    def __init__(self, width: int, made: dict):
        super().__init__()
        self.main = Holder(
            conv1=ConvLayer(width, width, 3, made),
            conv2=ConvLayer(width, width, 3, made, bias=False, norm=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main.conv2(F.silu(self.main.conv1(x))) + x


class EfficientViTBlock(nn.Module):
    def __init__(self, width: int, head_dim: int, made: dict):
        super().__init__()
        self.context_module = Holder(main=MultiScaleAttention(width, head_dim, made))
        self.local_module = Holder(main=GatedConv(width, made))

    def forward(self, x: Tensor) -> Tensor:
        x = self.context_module.main(x) + x
        return self.local_module.main(x) + x


class MultiScaleAttention(nn.Module):
    """ReLU linear attention over two scales; heads interleave q, k and v in runs of head_dim."""

    def __init__(self, width: int, head_dim: int, made: dict):
        super().__init__()
        self.head_dim = head_dim
        three, heads = 3 * width, width // head_dim
        self.qkv = ConvLayer(width, three, 1, made, bias=False)
        self.aggreg = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(three, three, 5, padding=2, groups=three, bias=False, **made),
                    nn.Conv2d(three, three, 1, groups=3 * heads, bias=False, **made),
                )
            ]
        )
        self.proj = ConvLayer(2 * width, width, 1, made, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        rows, _, height, width = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, self.aggreg[0](qkv)], dim=1)
        if qkv.dtype == torch.float16:
            qkv = qkv.float()
        heads = qkv.reshape(rows, -1, 3 * self.head_dim, height * width)
        q, k, v = heads.split(self.head_dim, dim=2)
        q, k = F.relu(q), F.relu(k)
        if height * width > self.head_dim:
            v = F.pad(v, (0, 0, 0, 1), value=1.0)
            out = (v @ k.transpose(-1, -2)) @ q
            out = out.to(torch.promote_types(out.dtype, torch.float32))
            out = out[:, :, :-1] / (out[:, :, -1:] + ATTENTION_EPS)
        else:
            scores = k.transpose(-1, -2) @ q
            wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
            weights = wide / (wide.sum(dim=2, keepdim=True) + ATTENTION_EPS)
            out = v @ weights.to(v.dtype)
        return self.proj(out.to(x.dtype).reshape(rows, -1, height, width))


class GatedConv(nn.Module):
    def __init__(self, width: int, made: dict):
        super().__init__()
        both = 8 * width
        self.inverted_conv = ConvLayer(width, both, 1, made)
        self.depth_conv = Holder(conv=nn.Conv2d(both, both, 3, padding=1, groups=both, **made))
        self.point_conv = ConvLayer(both // 2, width, 1, made, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth_conv.conv(F.silu(self.inverted_conv(x)))
        value, gate = x.chunk(2, dim=1)
        return self.point_conv(value * F.silu(gate))


class Down(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, made: dict):
        super().__init__()
        self.main = ConvLayer(in_channels, out_channels, 3, made, stride=2)
        self.channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + _average(F.pixel_unshuffle(x, 2), self.channels)


class Up(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, made: dict):
        super().__init__()
        self.main = Holder(conv=ConvLayer(in_channels, out_channels, 3, made))
        self.channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pixel_shuffle(_repeat(x, 4 * self.channels), 2)
        return self.main.conv(F.interpolate(x, scale_factor=2, mode="nearest")) + shortcut


class RMSNorm2d(nn.Module):
    """RMSNorm over channels: float32 copy, square, mean, root, quotient; back; weight; bias."""

    def __init__(self, channels: int, made: dict):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, **made))
        self.bias = nn.Parameter(torch.empty(channels, **made))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide / torch.sqrt(torch.square(wide).mean(dim=1, keepdim=True) + NORM_EPS)
        return wide.to(x.dtype) * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ConvLayer(nn.Module):
    def __init__(self, in_channels, out_channels, kernel, made, *, stride=1, bias=True, norm=False):
        super().__init__()
        padding = kernel // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias, **made)
        self.norm = RMSNorm2d(out_channels, made) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)


class OpList(nn.Module):
    def __init__(self, modules: list[nn.Module]):
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.op_list:
            x = op(x)
        return x


def _block(config: AutoencoderConfig, stage: int, made: dict) -> nn.Module:
    width = config.widths[stage]
    if config.block_types[stage] == "ResBlock":
        return ResBlock(width, made)
    return EfficientViTBlock(width, config.attention_head_dim, made)


def _average(x: Tensor, channels: int) -> Tensor:
    """Mean over runs of consecutive channels."""
    return x.unflatten(1, (channels, -1)).mean(dim=2)


def _repeat(x: Tensor, channels: int) -> Tensor:
    """Each channel repeated in place."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)
