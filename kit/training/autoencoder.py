"""Train a small DC-AE on rendered pictures of every kind."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..autoencoder.config import AutoencoderConfig
from ..autoencoder.dcae import DCAE
from ..scenes.store import SceneStore
from .loop import LoopSettings, Losses, Report, run_training
from .muon import Muon
from .state import parameters_as

NANO_AUTOENCODER = AutoencoderConfig(
    widths=(16, 64, 128, 128),
    encoder_depths=(1, 1, 1, 1),
    decoder_depths=(1, 1, 2, 2),
    block_types=("ResBlock", "ResBlock", "ResBlock", "EViTS5_GLU"),
    latent_channels=32,
    scaling_factor=1.0,
)
# Decoders meet latents that a diffusion model made; a little noise in training readies them.
LATENT_NOISE = 0.05
SPREAD_WEIGHT = 0.01  # of the pull towards latents of unit variance


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Absolute plus squared error, and absolute error of neighbour differences, per picture.

    (B, 3, H, W) -> (B,). The squared part is what draws thin lines at all: under an absolute error
    alone an empty map is a local optimum of line drawings, whose median is the background.
    """
    error = output - target
    loss = 0.5 * error.abs().mean((1, 2, 3)) + error.square().mean((1, 2, 3))
    loss = loss + 0.5 * error.diff(dim=-1).abs().mean((1, 2, 3))
    return loss + 0.5 * error.diff(dim=-2).abs().mean((1, 2, 3))


def train_autoencoder(
    store: SceneStore,
    folder: Path,
    shares: Mapping[str, float],
    *,
    steps: int,
    config: AutoencoderConfig = NANO_AUTOENCODER,
    batch: int = 16,
    lr: float = 7e-4,
    muon_lr: float = 0.003,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    start_from: DCAE | None = None,
    device: str = "cpu",
    save_every: int = 250,
    seconds: float | None = None,
    report: Report | None = None,
) -> DCAE:
    """Train, resuming from `folder` if it holds a state, and return the averaged model.

    The returned model's scaling_factor makes latents of the store have unit variance. `steps` may
    differ from an earlier call's: the learning rate then decays towards the new end.
    shares: how often each kind of picture is drawn, by name, in the order of the store. muon_lr:
    learning rate of the dense convolutions; lr: of everything else. dtype: of the arithmetic;
    weights are kept in float32. report: called with a dict at every log line.
    """
    torch.manual_seed(seed)
    model = (DCAE(config) if start_from is None else start_from).to(device)
    task = RoundTripTask(model, store, shares, batch, dtype, (muon_lr, lr))
    settings = LoopSettings(steps=steps, seed=seed, save_every=save_every, seconds=seconds)
    try:
        run_training(task, folder, settings, report)
    finally:
        del model.forward
    return _with_unit_latents(model.cpu(), store)


class RoundTripTask:
    """The task of a DC-AE: give every picture back, through latents with a little noise."""

    def __init__(self, model: DCAE, store: SceneStore, shares, batch: int, dtype, rates):
        self.model, self.store, self.batch, self.dtype = model, store, batch, dtype
        self.optimizers, self.rates = _optimizers(model, *rates), rates
        self.names = list(shares)
        self.shares = np.array(list(shares.values())) / sum(shares.values())
        # The training pass. `encode` and `decode` stay as they are.
        model.forward = _noisy_round_trip.__get__(model)

    def losses(self, rng: np.random.Generator, progress: float) -> Losses:
        config = self.model.config
        scenes = rng.integers(len(self.store), size=self.batch)
        kinds = rng.choice(len(self.names), size=self.batch, p=self.shares)
        device = next(self.model.parameters()).device
        x = self.store.batch(scenes, kinds).to(device)
        cells = self.store.size // config.factor
        shape = (self.batch, config.latent_channels, cells, cells)
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
        output, latent = functional_call(
            self.model, parameters_as(self.model, self.dtype), (x.to(self.dtype), noise)
        )
        losses = reconstruction_loss(output.float(), x)
        spread = latent.float().square().mean() - 1
        rows = [(self.names[k], v, 1) for k, v in zip(kinds, losses.tolist(), strict=True)]
        rows += [("loss", v, 1) for v in losses.tolist()]
        return Losses(losses.mean() + SPREAD_WEIGHT * spread.square(), self.batch, rows)


def _noisy_round_trip(self: DCAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    latent = self.encoder(x)
    return self.decoder(latent + LATENT_NOISE * noise.to(latent)), latent


def _optimizers(model: DCAE, muon_lr: float, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the kernels of dense convolutions, AdamW for depthwise ones, biases and norms."""
    dense, rest = [], []
    for name, p in model.named_parameters():
        (dense if p.dim() == 4 and p.shape[1] > 1 else rest).append((name, p))
    return [
        Muon(dense, lr=muon_lr),
        torch.optim.AdamW([p for _, p in rest], lr=lr, betas=(0.9, 0.98), weight_decay=1e-3),
    ]


def _with_unit_latents(model: DCAE, store: SceneStore) -> DCAE:
    """The same weights, with the scale that gives latents of the store unit variance."""
    chosen = np.random.default_rng(0).integers(len(store), size=min(256, len(store)))
    kinds = range(store.pictures.shape[1])
    with torch.no_grad():
        z = torch.cat([model.encoder(store.batch(chosen, np.full(len(chosen), k))) for k in kinds])
    scale = round(1 / float(z.std()), 5)
    result = DCAE(AutoencoderConfig(**{**vars(model.config), "scaling_factor": scale}))
    result.load_state_dict(model.state_dict())
    return result


def measure_round_trip(
    model: DCAE, store: SceneStore, names: list[str], scenes: int = 64
) -> dict[str, float]:
    """PSNR in dB of the round trip by kind of picture, over the store's last scenes; range [0, 1].

    names: of the kinds, in the order of the store.
    """
    chosen = np.arange(len(store) - scenes, len(store))
    result = {}
    with torch.inference_mode():
        for index, name in enumerate(names):
            x = store.batch(chosen, np.full(scenes, index))
            y = model.decode(model.encode(x)).clamp(-1, 1)
            error = F.mse_loss(y, x, reduction="none").mean((1, 2, 3)) / 4
            result[name] = round(float(-10 * error.clamp(min=1e-8).log10().mean()), 2)
    return result
