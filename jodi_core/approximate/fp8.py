"""APPROXIMATE, off by default: the large matrix products of the blocks in eight-bit floats.

Weights become float8_e4m3fn once, with one scale for each output channel; activations at every
call, with one scale for each row. Sums are float32. Results differ from the exact ones;
docs/approximate.md says by how much.

Shapes: N rows, I inputs, O outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kit.errors import JodiError
from ..model.transformer import JodiTransformer

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max  # 448
CAPABILITY = (8, 9)  # Ada and Hopper: the first cards that multiply this type
MULTIPLE = 16  # what the card's product asks of both sides of a weight


def approximate_fp8(transformer: JodiTransformer, *, emulate: bool = False) -> int:
    """Replace the large linear layers of every block by eight-bit ones, for good; how many.

    These are qkv, proj and the two 1x1 convolutions of the mix-FFN, and of the cross-attention
    the queries and proj. Everything else stays as it is. To go back, load the model again.
    emulate: round to eight bits, multiply in float32. Runs anywhere, and is slower than the exact
    product: for measuring what is lost.
    Raises: JodiError where it cannot run: without emulate, on anything but a bfloat16 model on a
    CUDA card of compute capability 8.9 and above; for a model that is eight-bit already.
    """
    if any(isinstance(m, Fp8Linear) for m in transformer.modules()):
        raise JodiError("this model's products are approximate (fp8) already; load it anew first")
    places = _large_layers(transformer)
    if not emulate:
        _require_card(transformer, places)
    for owner, name in places:
        setattr(owner, name, Fp8Linear(getattr(owner, name), emulate=emulate))
    return len(places)


class Fp8Linear(nn.Module):
    """A linear layer, or a 1x1 convolution on tokens, multiplied in eight-bit floats."""

    weight: Tensor  # (O, I) float8_e4m3fn
    scale: Tensor  # (O, 1) float32
    bias: Tensor | None  # (O,)

    def __init__(self, layer: nn.Linear | nn.Conv2d, *, emulate: bool):
        super().__init__()
        weight = layer.weight.detach().flatten(1)
        self.out_features, self.in_features = weight.shape
        self.emulate = emulate
        quantised, scale = quantise_rows(weight)
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale)
        bias = layer.bias
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O) in x's dtype."""
        rows, scale = quantise_rows(x.reshape(-1, self.in_features))
        if self.emulate:
            out = F.linear(rows.float(), self.weight.float()) * scale * self.scale.T
            out = (out if self.bias is None else out + self.bias.float()).to(x.dtype)
        else:
            # torch imports its product of eight-bit floats from its core without exporting it.
            multiply = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
            out = multiply(
                rows,
                self.weight.T,
                scale_a=scale,
                scale_b=self.scale.T,
                bias=self.bias,
                out_dtype=x.dtype,
            )
        return out.view(*x.shape[:-1], self.out_features)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, I) -> float8_e4m3fn (N, I) and float32 scales (N, 1): x is about one times the other.

    The largest value of a row becomes 448. A row of zeros stays one.
    """
    wide = x.float()
    scale = wide.abs().amax(dim=1, keepdim=True) / LARGEST
    scale = torch.where(scale > 0, scale, 1.0)
    # Division may round past the largest value, which would become NaN.
    return (wide / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


def _large_layers(transformer: JodiTransformer) -> list[tuple[nn.Module, str]]:
    places: list[tuple[nn.Module, str]] = []
    for block in transformer.blocks:
        places += [(block.attn, "qkv"), (block.attn, "proj")]
        places += [(block.cross_attn, "q_linear"), (block.cross_attn, "proj")]
        places += [(block.mlp.inverted_conv, "conv"), (block.mlp.point_conv, "conv")]
    return places


def _require_card(transformer: JodiTransformer, places: list[tuple[nn.Module, str]]) -> None:
    device, dtype = transformer.domain_embedding.device, transformer.domain_embedding.dtype
    advice = "leave approximate fp8 off, or use emulate=True to measure its loss"
    if device.type != "cuda":
        raise JodiError(
            f"approximate fp8 needs a CUDA card of compute capability 8.9 or above (Ada, Hopper or "
            f"newer), the model is on {device}; {advice}"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        raise JodiError(
            f"approximate fp8 needs compute capability 8.9 or above, {device} has "
            f"{capability[0]}.{capability[1]}; {advice}"
        )
    if dtype != torch.bfloat16:
        raise JodiError(
            f"approximate fp8 gives bfloat16 results, the model is {dtype}; load it in bfloat16, "
            f"or {advice}"
        )
    for owner, name in places:
        shape = tuple(getattr(owner, name).weight.flatten(1).shape)
        if shape[0] % MULTIPLE or shape[1] % MULTIPLE:
            raise JodiError(
                f"approximate fp8 needs layers with sides of a multiple of {MULTIPLE}, got "
                f"{shape}; {advice}"
            )
    try:  # older builds of torch know the card but not scales by row
        probe = Fp8Linear(nn.Linear(MULTIPLE, MULTIPLE, device=device, dtype=dtype), emulate=False)
        probe(torch.ones(MULTIPLE, MULTIPLE, device=device, dtype=dtype))
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise JodiError(
            f"this torch ({torch.__version__}) cannot multiply fp8 with scales by row on {device} "
            f"({reason}); update torch, or {advice}"
        ) from None
