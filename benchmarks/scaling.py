"""What more domains, larger pictures and more rows cost: memory and time, on random weights.

python -m comfyui_jodi.benchmarks.scaling --json scaling.json
python -m comfyui_jodi.benchmarks.scaling --growth --json growth.json --plot growth.png

Memory is that of all tensors alive at once beside the weights, counted as they are made, so it does
not depend on the machine. Time is the processor's own, on one thread, so that other programs
change it little; with `--growth` it is the least of some rounds over all cases, as what disturbs a
run only ever adds to it. `nano` is the whole embedded model; `block1600m` one block of the released
one.
"""

import argparse
import json
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from ..jodi_core.model.blocks import JodiBlock
from ..jodi_core.model.config import JODI_1600M
from ..jodi_core.roles import Role
from ..jodi_core.training.network import TrainedJodi, recompute_blocks
from .cases import TINY

DOMAINS = (1, 2, 4, 8, 16, 32)
SIDES = (4, 8, 16)
ROWS = (1, 4)
BLOCK_CASES = ((2, 16, 1), (8, 16, 1))
"""Domains, latent cells a side and rows of the block of the released model."""

GROWTH = tuple((domains, side, 1) for side in (16, 32, 64) for domains in (1, 2, 4, 8))
"""The same for --growth: 256 to 4096 tokens a domain, pictures of 512 to 2048 px."""


@dataclass(frozen=True)
class Measured:
    """One case. tokens: of all rows and domains. peak: bytes beside weights, gradients included.

    flops: of products and convolutions in one run, two for each multiplication, counted by torch.
    """

    model: str
    work: str
    domains: int
    side: int
    rows: int
    tokens: int
    seconds: float
    peak: int
    flops: int


class PeakBytes(TorchDispatchMode):
    """The most bytes alive at once, of the storages made inside."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._known or key in given:
                continue
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key, size)
        return out

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _tensors(values) -> list[Tensor]:
    return [v for v in tree_iter(values) if isinstance(v, Tensor)]


def measure_nano(domains: int, side: int, rows: int, work: str) -> Measured:
    """An evaluation, or a training update without the optimizer's step, of the embedded sizes.

    Everything is generated, so every domain has tokens. work: `inference`, `update`, or
    `recompute`, an update that keeps the inputs of blocks alone.
    """
    config = replace(TINY, num_labels=max(1, domains - 1))
    model = TrainedJodi(config)
    _randomise(model)
    if work == "recompute":
        recompute_blocks(model)
    shape = (rows, config.num_domains, config.latent_channels, side, side)
    roles = [int(Role.GENERATE) if i < domains else int(Role.IGNORE)
             for i in range(config.num_domains)]  # fmt: skip
    args = (
        torch.randn(shape),
        torch.full((rows,), 500.0),
        torch.randn(rows, 1, 8, config.caption_channels),
        torch.ones(rows, 8),
        torch.tensor([roles] * rows),
    )

    def run() -> None:
        with torch.set_grad_enabled(work != "inference"):
            out = model(*args)
            if work != "inference":
                out.square().mean().backward()
        model.zero_grad(set_to_none=True)

    return _measured("nano", work, domains, side, rows, run)


def measure_block(domains: int, side: int, rows: int, work: str) -> Measured:
    """The same of one block of the released model."""
    run = _make_block_run(domains, side, rows, work)
    return _measured("block1600m", work, domains, side, rows, run)


def _make_block_run(domains: int, side: int, rows: int, work: str) -> Callable[[], None]:
    block = JodiBlock(JODI_1600M)
    _randomise(block)
    width = JODI_1600M.hidden_size
    x = torch.randn(rows, domains, side * side, width)
    modulation, text = torch.randn(rows, 6, width), torch.randn(rows, 300, width)

    def run() -> None:
        with torch.set_grad_enabled(work != "inference"):
            keys = block.cross_attn.prepare(text, None)
            args = (modulation, modulation[:1].expand(domains, -1, -1), (keys,), (side, side))
            given = x.clone().requires_grad_(work != "inference")
            out = block(given, *args)
            if work != "inference":
                out.square().mean().backward()
        block.zero_grad(set_to_none=True)

    return run


def _randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)


def _measured(model: str, work: str, domains: int, side: int, rows: int, run: Callable) -> Measured:
    with PeakBytes() as memory:  # the first run, which also prepares what later runs find
        run()
    with FlopCounterMode(display=False) as counted:  # by itself: it keeps tensors alive
        run()
    seconds, flops = _time(run), counted.get_total_flops()
    tokens = rows * domains * side * side
    return Measured(model, work, domains, side, rows, tokens, seconds, memory.peak, flops)


def _time(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


@dataclass(frozen=True)
class Law:
    """value = start + each * tokens; explained: the share of the variance that it explains."""

    start: float
    each: float
    explained: float


def fit_law(tokens: Sequence[float], values: Sequence[float]) -> Law:
    """The straight line nearest to the values, by least squares of relative errors."""
    x = torch.tensor(tokens, dtype=torch.float64)
    y = torch.tensor(values, dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], dim=1) / y[:, None]
    start, each = torch.linalg.lstsq(design, torch.ones_like(y)[:, None]).solution[:, 0].tolist()
    residual = (y - start - each * x).square().sum()
    return Law(start, each, 1 - float(residual / (y - y.mean()).square().sum()))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--works", default="inference,update,recompute")
    parser.add_argument("--block", action="store_true", help="the released block, too")
    parser.add_argument("--growth", action="store_true", help="the released block alone, 1 to 8")
    parser.add_argument("--rounds", type=int, default=2, help="with --growth; default: 2")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="with --growth; needs matplotlib")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.growth:
        return _growth(args.rounds, args.json, args.plot)
    cases = [(d, 8, 1) for d in DOMAINS] + [(8, s, 1) for s in SIDES if s != 8]
    cases += [(8, 8, r) for r in ROWS if r != 1]
    found = []
    for work in args.works.split(","):
        for case in cases:
            found.append(_told(measure_nano(*case, work)))
        for case in BLOCK_CASES if args.block and work != "recompute" else ():
            found.append(_told(measure_block(*case, work)))
    for model, work in dict.fromkeys((m.model, m.work) for m in found):
        own = [m for m in found if (m.model, m.work) == (model, work)]
        for name, unit in (("peak", "bytes"), ("seconds", "s")):
            law = fit_law([m.tokens for m in own], [getattr(m, name) for m in own])
            sys.stdout.write(
                f"{model} {work}: {law.start:.4g} + {law.each:.4g} {unit} a token "
                f"(explains {law.explained:.4f})\n"
            )
    _write(args.json, found)
    return 0


def _growth(rounds: int, json_file: Path | None, plot: Path | None) -> int:
    """An evaluation of the released block; how far each case is from the straight line of all."""
    found = [measure_block(*case, "inference") for case in GROWTH]
    for _ in range(rounds):
        for i, m in enumerate(found):
            run = _make_block_run(m.domains, m.side, m.rows, m.work)
            found[i] = replace(m, seconds=min(m.seconds, _time(run), _time(run)))
    for m in found:
        _told(m)
    _write(json_file, found)
    for name, unit in (("flops", "FLOP"), ("peak", "bytes"), ("seconds", "s")):
        law, off = fit_law([m.tokens for m in found], [getattr(m, name) for m in found]), []
        for m in found:
            off.append(getattr(m, name) / (law.start + law.each * m.tokens) - 1)
        sys.stdout.write(
            f"{law.start:.4g} + {law.each:.4g} {unit} a token; cases lie {min(off):+.1%} to "
            f"{max(off):+.1%} from it\n"
        )
    if plot:
        _draw(found, plot)
    return 0


def _draw(found: Sequence[Measured], file: Path) -> None:
    from matplotlib import pyplot  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    shown = {"seconds": (1.0, "processor seconds"), "peak": (2**20, "MiB beside the weights")}
    for axis, (name, (unit, label)) in zip(axes, shown.items(), strict=True):
        for side in dict.fromkeys(m.side for m in found):
            own = [m for m in found if m.side == side]
            values = [getattr(m, name) / unit for m in own]
            axis.loglog([m.domains for m in own], values, "o-", label=f"{side * side} tokens each")
        domains = sorted({m.domains for m in found})
        axis.set_xticks(domains, domains)
        axis.minorticks_off()
        axis.set(xlabel="active domains", ylabel=label)
        axis.legend()
    figure.savefig(file, dpi=100)


def _write(file: Path | None, found: Sequence[Measured]) -> None:
    if file:
        file.write_text(json.dumps([asdict(m) for m in found], indent=1) + "\n")


def _told(m: Measured) -> Measured:
    sys.stdout.write(
        f"{m.model} {m.work}: {m.domains} domains, {m.side} x {m.side} cells, {m.rows} rows: "
        f"{m.peak / 2**20:.1f} MiB, {m.seconds:.3f} s\n"
    )
    sys.stdout.flush()
    return m


if __name__ == "__main__":
    sys.exit(main())
