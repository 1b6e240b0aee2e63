"""The honest specialist: a small convolutional network that is told picture and labels, no noise.

It is trained on the same rendered scenes as jodi-nano, once, and kept beside this file:

    python docs/competitors/regressor.py --scenes DIR --minutes 30
    jodi evaluate --competitor docs/competitors/regressor.py --scenes 64

DIR is the folder of `jodi train scenes`: pictures.npy holds (N, 8, 3, H, W) bytes, the image first,
then the seven labels in Jodi's order.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

TITLE = "convolutional regressor"
LABELS = ("lineart", "edge", "depth", "normal", "albedo", "segmentation", "openpose")
WEIGHTS = Path(__file__).with_suffix(".safetensors")
WIDTHS = (48, 96, 192)

_network: nn.Module | None = None


class Regressor(nn.Module):
    """A U-shaped network: picture (B, 3, H, W) -> labels (B, 7 * 3, H, W), sides multiples of 4."""

    def __init__(self):
        super().__init__()
        channels = (3, *WIDTHS)
        self.down = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise(channels))
        self.up = nn.ModuleList(
            _block(a + b, b) for a, b in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.out = nn.Conv2d(WIDTHS[0], 3 * len(LABELS), 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.avg_pool2d(x, 2))
            kept.append(x)
        for block, beside in zip(self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), beside], 1))
        return torch.sigmoid(self.out(x))


def load() -> None:
    """Read the weights. Raises: FileNotFoundError when it was not trained yet."""
    global _network
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS}; train it first, as the head of {__file__} says")
    _network = Regressor().eval()
    _network.load_state_dict(load_file(WEIGHTS))


@torch.inference_mode()
def infer(image: np.ndarray) -> dict[str, np.ndarray]:
    """Picture (H, W, 3) float32 in [0, 1] -> all seven maps in [0, 1]."""
    assert _network is not None
    height, width = image.shape[:2]
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    x = F.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
    maps = _network(x)[0, :, :height, :width].unflatten(0, (len(LABELS), 3))
    return {name: maps[i].permute(1, 2, 0).numpy() for i, name in enumerate(LABELS)}


def train(scenes: Path, minutes: float, seed: int = 0) -> int:
    """Train for so long and write the weights; the number of updates."""
    pictures = np.load(scenes / "pictures.npy", mmap_mode="r")
    torch.manual_seed(seed)
    rng, network = np.random.default_rng(seed), Regressor().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    begun, updates = time.monotonic(), 0
    while (spent := (time.monotonic() - begun) / (60 * minutes)) < 1:
        rows = np.sort(rng.choice(len(pictures), 32, replace=False))
        batch = torch.from_numpy(pictures[rows]).float() / 255
        made = network(batch[:, 0]).unflatten(1, (len(LABELS), 3))
        loss = (made - batch[:, 1:]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (updates + 1) / 100, (1 - spent) / 0.3)
        optimizer.step()
        updates += 1
        if updates % 100 == 0:
            print(f"{updates} updates, {spent:.0%} of the time, loss {float(loss):.4f}", flush=True)
    save_file(network.state_dict(), WEIGHTS)
    return updates


def _block(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.GroupNorm(8, after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, padding=1),
        nn.GroupNorm(8, after),
        nn.SiLU(),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30)
    arguments = parser.parse_args()
    print(f"{train(arguments.scenes, arguments.minutes)} updates; weights in {WEIGHTS}")
