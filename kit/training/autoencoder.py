"""Train a small DC-AE on pictures of all domains alike."""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ...jodi_core.domains import DOMAIN_NAMES
from ..autoencoder.config import AutoencoderConfig
from ..autoencoder.dcae import DCAE
from ..scenes.store import SceneStore
from .state import Ema, RunFolder, learning_rate_factor, parameters_as

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
    *,
    steps: int,
    config: AutoencoderConfig = NANO_AUTOENCODER,
    batch: int = 16,
    lr: float = 1.5e-3,
    seed: int = 0,
    start_from: DCAE | None = None,
    compile: bool = True,
    save_every: int = 250,
    report=None,
) -> DCAE:
    """Train, resuming from `folder` if it holds a state, and return the averaged model.

    The returned model's scaling_factor makes latents of the store have unit variance. `steps` may
    differ from an earlier call's: the learning rate then decays towards the new end.
    report: called with a dict at every log line.
    """
    torch.manual_seed(seed)
    model = DCAE(config) if start_from is None else start_from
    # The stubs know this keyword for tensors only.
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)
    ema, run, first = Ema(model, 0.999), RunFolder(folder), 0
    if state := run.load():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.weights, first = state["ema"], state["step"]

    def round_trip(parameters, x, noise):
        return functional_call(model, parameters, (x, noise), {})

    model.forward = _noisy_round_trip.__get__(model)  # the training pass; encode/decode untouched
    if compile:
        round_trip = torch.compile(round_trip)
    sums, started = np.zeros((8, 2)), time.time()
    for step in range(first, steps):
        rng = np.random.default_rng((seed, step))
        scenes, domains = rng.integers(len(store), size=batch), rng.integers(8, size=batch)
        x = store.batch(scenes, domains)
        cells = store.size // config.factor
        noise = torch.from_numpy(
            rng.standard_normal((batch, config.latent_channels, cells, cells), dtype=np.float32)
        )
        output, latent = round_trip(
            parameters_as(model, torch.bfloat16), x.bfloat16(), noise.bfloat16()
        )
        losses = reconstruction_loss(output.float(), x)
        spread = latent.float().square().mean() - 1
        (losses.mean() + 0.01 * spread.square()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * learning_rate_factor(step, steps, 100)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, step)
        np.add.at(sums, domains, np.stack([losses.detach().numpy(), np.ones(batch)], 1))
        if (step + 1) % 50 == 0:
            means = sums[:, 0] / np.maximum(sums[:, 1], 1)
            row = dict(zip(DOMAIN_NAMES, means.round(4).tolist(), strict=True))
            row.update(step=step + 1, loss=round(float(means.mean()), 4))
            row["pictures_per_s"] = round(50 * batch / (time.time() - started), 1)
            run.log(**row)
            if report:
                report(row)
            sums[:], started = 0, time.time()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            run.save(
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "ema": ema.weights,
                }
            )
    return _finished(model, ema, store)


def _noisy_round_trip(self: DCAE, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    latent = self.encoder(x)
    return self.decoder(latent + LATENT_NOISE * noise), latent


def _finished(model: DCAE, ema: Ema, store: SceneStore) -> DCAE:
    """The averaged weights, with the scale that gives latents of the store unit variance."""
    del model.forward
    ema.copy_to(model)
    chosen = np.random.default_rng(0).integers(len(store), size=256)
    with torch.no_grad():
        z = torch.cat([model.encoder(store.batch(chosen, np.full(256, d))) for d in range(8)])
    scale = round(1 / float(z.std()), 5)
    result = DCAE(AutoencoderConfig(**{**vars(model.config), "scaling_factor": scale}))
    result.load_state_dict(model.state_dict())
    return result


def round_trip_psnr(model: DCAE, store: SceneStore, scenes: int = 64) -> dict[str, float]:
    """PSNR in dB of the round trip per domain over the last scenes; range [0, 1]."""
    chosen = np.arange(len(store) - scenes, len(store))
    result = {}
    with torch.inference_mode():
        for index, name in enumerate(DOMAIN_NAMES):
            x = store.batch(chosen, np.full(scenes, index))
            y = model.decode(model.encode(x)).clamp(-1, 1)
            error = F.mse_loss(y, x, reduction="none").mean((1, 2, 3)) / 4
            result[name] = round(float(-10 * error.clamp(min=1e-8).log10().mean()), 2)
    return result
