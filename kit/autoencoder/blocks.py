"""The blocks of the DC-AE, and how each walks a map on a CPU.

On a CPU, without gradients, blocks work on bands of rows and write over their input: a large map is
then held once, and what is made in between stays in cache. (A C library gives blocks over 32 MB
back to the system, so that each new one is faulted in page by page, which costs more than most
layers.) Elsewhere a map is one band. Both give the same numbers up to rounding.

Attribute names are the keys of the released file (mit-han-lab/dc-ae-f32c32-sana-1.0).
Source: arXiv 2410.10733; github mit-han-lab/efficientvit (Apache-2.0),
models/efficientvit/dc_ae.py.
Shapes: B batch, C channels, H W cells of the stage.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import dispatch
from ..layers import RMSNorm2d, make_depthwise_glu_conv, make_pointwise_conv
from .config import AutoencoderConfig
from .upsampling import make_doubling_conv, may_overwrite, split_rows

ATTENTION_EPS = 1e-15


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a SiLU, RMS-normed, added to the input."""

    def __init__(self, width: int, ops: "Ops"):
        super().__init__()
        self.main = _TwoConvs()
        self.main.conv1 = ops.conv(width, width, 3)
        self.main.conv2 = ops.conv(width, width, 3, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        if not may_overwrite(x):
            return self.main.conv2(F.silu(self.main.conv1(x)), residual=x)
        conv1, conv2, norm = self.main.conv1.conv, self.main.conv2.conv, self.main.conv2.norm
        assert norm is not None
        height = x.shape[2]
        above = None  # the last two hidden rows of the band before
        for start, stop in split_rows(x):
            # The convolutions pad every band with zeros, which is right at the map's edges only:
            # so a band brings one more row, and the rows next to the cuts are left out.
            first = max(start - 1, 0)
            hidden = F.silu(conv1(x[:, :, first : stop + 1]), inplace=True)
            hidden = hidden[:, :, start - first : stop - first]
            if above is not None:
                hidden = torch.cat([above, hidden], dim=2)
            top = stop - hidden.shape[2]
            above = hidden[:, :, -2:].clone()
            # One row behind: the next band still reads the input of this band's last row.
            done = start - 1 if start else 0
            ready = stop if stop == height else stop - 1
            out = conv2(hidden)[:, :, done - top : ready - top]
            x[:, :, done:ready] = norm(out, residual=x[:, :, done:ready])
        return x


class EfficientViTBlock(nn.Module):
    """Multi-scale linear attention, then a gated convolution, each added to its input."""

    def __init__(self, width: int, head_dim: int, ops: "Ops"):
        super().__init__()
        self.context_module = Main(MultiScaleLinearAttention(width, head_dim, ops))
        self.local_module = Main(GatedConv(width, ops))

    def forward(self, x: Tensor) -> Tensor:
        return self.local_module.main(self.context_module.main(x))


class MultiScaleLinearAttention(nn.Module):
    """ReLU linear attention over two scales of one query-key-value map, added to its input.

    Channels of the map are interleaved per head: each run of 3 * head_dim is one head's q, k, v.
    The published code switches to a quadratic form for grids of at most head_dim cells; the two
    are the same function, so one form serves here.
    """

    def __init__(self, width: int, head_dim: int, ops: "Ops"):
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
        heads = [self._attend(scale) for scale in (qkv, self.aggreg[0](qkv))]
        out = torch.cat(heads, dim=2).view(batch, height, width, -1)
        return self.proj(out.permute(0, 3, 1, 2), residual=x)

    def _attend(self, qkv: Tensor) -> Tensor:
        """(B, 3C, H, W) -> (B, H * W, C): every head on its own."""
        tokens = qkv.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (-1, 3 * self.head_dim))
        q, k, v = tokens.chunk(3, dim=-1)
        return dispatch.relu_linear_attention(q, k, v, ATTENTION_EPS).flatten(2)


class GatedConv(nn.Module):
    """Expand by 8, depthwise 3x3, gate, contract, added to its input."""

    def __init__(self, width: int, ops: "Ops"):
        super().__init__()
        hidden = 4 * width
        self.inverted_conv = ops.conv(width, 2 * hidden, 1)
        self.depth_conv = _ConvHolder(
            make_depthwise_glu_conv(ops.operations)(
                2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, **ops.kwargs
            )
        )
        self.point_conv = ops.conv(hidden, width, 1, bias=False, norm=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inverted_conv(x)
        hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
        return self.point_conv(self.depth_conv.conv(hidden), residual=x)


class Downsample(nn.Module):
    """Strided 3x3 convolution plus a channel-averaged space-to-depth shortcut."""

    def __init__(self, in_channels: int, out_channels: int, ops: "Ops"):
        super().__init__()
        self.main = ops.conv(in_channels, out_channels, 3, stride=2)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.main(x)
        if not may_overwrite(x):
            return out + average_groups(F.pixel_unshuffle(x, 2), self.out_channels)
        for start, stop in split_rows(out, bytes_per_row=x[:, :, :2].nbytes):
            cells = F.pixel_unshuffle(x[:, :, 2 * start : 2 * stop], 2)
            out[:, :, start:stop] += average_groups(cells, self.out_channels)
        return out


class Upsample(nn.Module):
    """Nearest x2 and a 3x3 convolution plus a channel-repeated depth-to-space shortcut."""

    def __init__(self, in_channels: int, out_channels: int, ops: "Ops"):
        super().__init__()
        conv = make_doubling_conv(ops.operations)
        self.main = _ConvHolder(
            ConvLayer(conv(in_channels, out_channels, 3, padding=1, **ops.kwargs), None)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main.conv(x)


class OutputHead(nn.Module):
    """RMSNorm, ReLU and a 3x3 convolution to colours, in the dtype of its norm if that is wider."""

    def __init__(self, width: int, channels: int, ops: "Ops"):
        super().__init__()
        layers = nn.ModuleList([ops.rms_norm(width), nn.ReLU(), ops.conv(width, channels, 3)])
        self.op_list = cast(tuple[RMSNorm2d, nn.ReLU, ConvLayer], layers)

    def forward(self, x: Tensor) -> Tensor:
        norm, _, conv = self.op_list
        dtype = torch.promote_types(x.dtype, norm.weight.dtype)
        if not may_overwrite(x):
            return conv(norm(x.to(dtype), activation="relu"))
        height, parts = x.shape[2], []
        for start, stop in split_rows(x):
            first, last = max(start - 1, 0), min(stop + 1, height)
            band = norm(x[:, :, first:last].to(dtype), activation="relu")
            parts.append(conv(band)[:, :, start - first : stop - first])
        return torch.cat(parts, dim=2)


class ConvLayer(nn.Module):
    """A convolution, optionally RMS-normed (and then, optionally, added to something)."""

    def __init__(self, conv: nn.Module, norm: RMSNorm2d | None):
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        return x if self.norm is None else self.norm(x, residual=residual)


class Ops:
    """Builds layers from the injected operations."""

    def __init__(self, operations, device, dtype):
        self.operations = operations
        self.kwargs = {"device": device, "dtype": dtype}

    def conv(self, in_channels, out_channels, kernel, *, stride=1, bias=True, norm=False):
        conv = self.bare_conv(in_channels, out_channels, kernel, stride=stride, bias=bias)
        return ConvLayer(conv, self.rms_norm(out_channels) if norm else None)

    def bare_conv(self, in_channels, out_channels, kernel, *, stride=1, bias=False, groups=1):
        cls = make_pointwise_conv(self.operations) if kernel == 1 else self.operations.Conv2d
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


class OpList(nn.Module):
    """A sequence under the released name `op_list`."""

    def __init__(self, modules):
        super().__init__()
        self.op_list = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for op in self.op_list:
            x = op(x)
        return x


class Main(nn.Module):
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


def block(config: AutoencoderConfig, stage: int, ops: Ops) -> nn.Module:
    """One block of a stage, of the type that the stage has."""
    width = config.widths[stage]
    if config.block_types[stage] == "ResBlock":
        return ResBlock(width, ops)
    return EfficientViTBlock(width, config.attention_head_dim, ops)


def average_groups(x: Tensor, channels: int) -> Tensor:
    """Mean over runs of consecutive channels, so that `channels` remain."""
    return x.unflatten(1, (channels, -1)).mean(2)
