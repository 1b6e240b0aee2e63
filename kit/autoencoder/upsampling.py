"""Nearest doubling, a 3x3 convolution and a shortcut, as one step; and bands of rows.

A 3x3 convolution of a map whose cells were doubled sees every cell once or twice in a row. Summing
the weights that fall on one cell leaves, for each of the four places inside a doubled cell, a 2x2
convolution of the small map: the same numbers for 4/9 of the products. The sums are made anew at
each call, so replaced or patched weights are never missed.

Shapes: B batch, C in and C' out channels, h w cells before doubling.
"""

import functools
import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BAND = 16 << 20  # bytes of a map that a CPU works on at a time: below the 32 MB of fresh pages
FEWEST_CELLS = 1024  # with fewer cells, summing weights costs more than the products it saves


def make_doubling_conv(operations):
    """A 3x3 Conv2d class that doubles its input first: (B, C, h, w) -> (B, C', 2h, 2w).

    Adds the input as shortcut: its channels repeated to 4C', then every four spread over 2x2.
    """
    return _make_doubling_conv(operations.Conv2d)


@functools.lru_cache(maxsize=16)
def _make_doubling_conv(conv2d: type):
    class DoublingConv2d(conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            cells = len(x) * x.shape[2] * x.shape[3]
            if may_overwrite(x) and cells >= FEWEST_CELLS:
                return convolve_by_phases(x, weight, bias)
            shortcut = F.pixel_shuffle(repeat_channels(x, 4 * len(weight)), 2)
            doubled = F.interpolate(x, scale_factor=2, mode="nearest")
            return F.conv2d(doubled, weight, bias, padding=1) + shortcut

    return DoublingConv2d


def convolve_by_phases(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Doubling, convolution and shortcut from four 2x2 convolutions, in bands of rows.

    x (B, C, h, w), weight (C', C, 3, 3), bias (C') or None -> (B, C', 2h, 2w), channels-last.
    """
    batch, _, height, width = x.shape
    channels = len(weight)
    kernels = sum_phase_kernels(weight)
    biases = None if bias is None else bias.repeat(4)
    out = x.new_empty(batch, 2 * height, 2 * width, channels)
    sources = _collect_shortcuts(x, channels)
    for start, stop in split_rows(x, bytes_per_row=4 * channels * width * x.element_size()):
        whole = start == 0 or stop == height  # padding by zeros is right at the edges only
        near = F.conv2d(
            x[:, :, max(start - 1, 0) : stop + 1], kernels, biases, padding=(int(whole), 1)
        )
        # Row 0 of `near` sees rows start - 1 and start.
        near = near[:, :, int(whole and start > 0) :].permute(0, 2, 3, 1)
        rows = stop - start
        for phase in range(4):
            r, c = divmod(phase, 2)
            torch.add(
                near[:, r : r + rows, c : c + width, phase * channels : (phase + 1) * channels],
                sources[phase][:, start:stop],
                out=out[:, 2 * start + r : 2 * stop : 2, c::2],
            )
    return out.permute(0, 3, 1, 2)


def sum_phase_kernels(weight: Tensor) -> Tensor:
    """Weight (C', C, 3, 3) -> (4C', C, 2, 2), phases first: (top, left), (top, right), ...

    In the top phase the rows above, here, here meet weights 0, 1, 2; in the bottom phase the rows
    here, here, below. Summed in float32 or wider, rounded once.
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    a, b, c = wide.unbind(2)
    rows = (torch.stack([a, b + c], 2), torch.stack([a + b, c], 2))
    phases = []
    for half in rows:
        a, b, c = half.unbind(3)
        phases += [torch.stack([a, b + c], 3), torch.stack([a + b, c], 3)]
    kernels = torch.cat(phases).to(weight.dtype)
    return kernels.contiguous(memory_format=torch.channels_last)


def _collect_shortcuts(x: Tensor, channels: int) -> list[Tensor]:
    """What each phase adds: four (B, h, w, C'). Output channel c, phase p take repeat 4c + p."""
    repeats = 4 * channels // x.shape[1]
    if 4 % repeats:
        x, repeats = repeat_channels(x, 4 * channels), 1
    groups = x.permute(0, 2, 3, 1).unflatten(-1, (channels, 4 // repeats))
    kept = [groups[..., i].contiguous() for i in range(4 // repeats)]
    return [kept[phase // repeats] for phase in range(4)]


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Each channel repeated in place, so that there are `channels`."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def may_overwrite(x: Tensor) -> bool:
    """Whether blocks walk bands and write over maps that they own: a CPU, without gradients."""
    return (
        x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    )


def split_rows(x: Tensor, bytes_per_row: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, stop) of bands of rows of x (B, C, H, W), of about BAND bytes, two rows at least."""
    height = x.shape[2]
    if bytes_per_row is None:
        bytes_per_row = x[:, :, :1].nbytes
    count = max(1, min(-(-height * bytes_per_row // BAND), height // 2))
    edges = [height * i // count for i in range(count + 1)]
    return itertools.pairwise(edges)
