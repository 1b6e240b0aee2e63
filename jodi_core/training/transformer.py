"""Role-switch training of a small Jodi on stored latents.

Source: arXiv 2505.19084 section 3 and github VIPL-GENUN/Jodi @ c21bdcb, with its training faults
left out: the loss counts generated domains only, time is not truncated, weights are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from ...kit.training.loop import LoopSettings, Losses, Report, run_training
from ...kit.training.muon import Muon
from ...kit.training.state import parameters_as
from ..domains import name_domains
from ..model.config import TransformerConfig
from ..model.transformer import JodiTransformer, init_weights
from ..roles import Role
from ..text import ClosedVocabularyEncoder
from .fit_init import fit_init
from .optimizers import is_hidden_matrix
from .role_sampling import sample_roles

NANO_CAPTION_LENGTH = 32
TEXT_DROPOUT = 0.1
DrawTask = Callable[[np.random.Generator, int, bool], tuple[str, tuple[int, ...]]]
"""As `sample_roles`: a task and one role per domain."""
FLOW_SHIFT = 3.0
# The noise level of a sampler's first step: labels are nearly a function of what they are made
# from, so one evaluation there can answer.
FULL_NOISE = 0.9997


def make_nano_config(text: ClosedVocabularyEncoder, latent_channels: int) -> TransformerConfig:
    """The embedded model's sizes, for the text encoder and latents at hand."""
    return choose_nano_sizes(text.channels, text.caption_length, latent_channels)


def choose_nano_sizes(
    caption_channels: int, caption_length: int, latent_channels: int
) -> TransformerConfig:
    """The embedded model's sizes, for text and latents of these."""
    return TransformerConfig(
        hidden_size=224,
        depth=6,
        cross_attention_heads=7,
        # Wider heads than the released 32: the attention state, width * head dim, is all that
        # domains can tell each other, and a head needs a feature for each of the 64 places.
        linear_head_dim=112,
        caption_channels=caption_channels,
        caption_length=caption_length,
        latent_channels=latent_channels,
    )


@dataclass(frozen=True)
class TrainingSettings:
    """steps may differ between a run and its continuation: the rate then decays to the new end.

    tokens: tokens of one micro-batch; its rows follow from how many domains are active. Each has
    one role pattern, so an update should have several: the optimiser's steps are of one length, and
    would otherwise swing from task to task. full_noise: share of the rows that make labels from a
    picture or from labels which train at (almost) pure noise, where one evaluation reads the whole
    answer. reading_share: of the run, at its start, spent on tasks with something given alone;
    0 for weights that can read already. seconds: see `LoopSettings`.
    """

    steps: int
    tokens: int = 1024
    micro_batches: int = 4
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.999
    warmup: int = 100
    seed: int = 0
    save_every: int = 200
    log_every: int = 50
    dtype: torch.dtype = torch.float32
    full_noise: float = 0.6
    reading_share: float = 0.2
    seconds: float | None = None

    def loop(self) -> LoopSettings:
        """These settings for the training loop."""
        return LoopSettings(
            steps=self.steps,
            micro_batches=self.micro_batches,
            seed=self.seed,
            warmup=self.warmup,
            ema=self.ema,
            save_every=self.save_every,
            log_every=self.log_every,
            seconds=self.seconds,
        )


def train_transformer(
    latents: Tensor,
    captions: list[str],
    text: ClosedVocabularyEncoder,
    folder: Path,
    settings: TrainingSettings,
    *,
    start_from: JodiTransformer | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> JodiTransformer:
    """Train, resuming from `folder` if it holds a state, and return the averaged model.

    latents: (N, L, z, h, w) scaled; captions: N. start_from: a model to continue from (a fresh one
    otherwise). report: called with a dict at every log line.
    """
    model = start_from or _fresh_model(text, latents, settings.seed)
    model = model.to(device).float()
    task = RoleSwitchTask(model, latents, captions, text, settings, device)
    run_training(task, folder, settings.loop(), report)
    return model.eval()


class RoleSwitchTask:
    """The training task of a Jodi: predict the velocity of every generated domain.

    draw: the roles of each micro-batch; a model of one task alone takes a function of its own.
    """

    def __init__(
        self,
        model: JodiTransformer,
        latents,
        captions,
        text,
        settings,
        device: str,
        draw: DrawTask = sample_roles,
    ):
        self.model, self.latents, self.captions, self.text = model, latents, captions, text
        self.settings, self.device, self.draw = settings, device, draw
        self.optimizers = _optimizers(model, settings)
        self.rates = (settings.muon_lr, settings.adam_lr)
        self.names = name_domains(model.config.num_domains)

    def losses(self, rng: np.random.Generator, progress: float) -> Losses:
        reading = progress < self.settings.reading_share
        task, roles = self.draw(rng, self.model.config.num_labels, reading)
        batch = _draw_batch(
            rng, self.latents, self.captions, self.text, self.settings, self.device, (task, roles)
        )
        losses = _losses(self.model, batch, self.settings.dtype)
        means = losses.detach().mean(0).tolist()
        task = f"task.{batch.task}"
        curves = [(self.names[i], v, 1) for i, v in zip(batch.generated, means, strict=True)]
        curves.append((task, sum(means) / len(means), 1))
        return Losses(losses.mean(), len(losses), curves)


@dataclass
class _Batch:
    clean: Tensor  # (B, L, z, h, w)
    noise: Tensor
    sigma: Tensor  # (B,)
    role: Tensor  # (B, L)
    caption: Tensor  # (B, 1, S, Cc)
    mask: Tensor  # (B, S)
    task: str
    generated: list[int]


def _draw_batch(rng, latents, captions, text, settings, device, drawn) -> _Batch:
    """Rows of one role pattern: equal patterns run as one group, at a cost that follows it."""
    task, roles = drawn
    h, w = latents.shape[-2:]
    active = sum(role != Role.IGNORE for role in roles)
    rows = max(1, round(settings.tokens / (active * h * w)))
    chosen = rng.integers(len(latents), size=rows)
    clean = latents[torch.from_numpy(chosen)].float()
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    # Logit-normal time, shifted as in sampling; one level per row, shared by its domains.
    base = 1 / (1 + np.exp(-rng.standard_normal(rows)))
    sigma = FLOW_SHIFT * base / (1 + (FLOW_SHIFT - 1) * base)
    if roles[0] != Role.GENERATE and any(role == Role.CONDITION for role in roles):
        sigma = np.where(rng.random(rows) < settings.full_noise, FULL_NOISE, sigma)
    dropped = rng.random(rows) < TEXT_DROPOUT
    features = text(["" if d else captions[i] for i, d in zip(chosen, dropped, strict=True)])
    # A dropped prompt becomes the null text with every token readable, as the model reads it when
    # the image is given.
    mask = features.mask.masked_fill(torch.from_numpy(dropped)[:, None], 1)
    return _Batch(
        clean=clean.to(device),
        noise=noise.to(device),
        sigma=torch.from_numpy(sigma).float().to(device),
        role=torch.tensor([roles] * rows, device=device),
        caption=features.caption.to(device),
        mask=mask.to(device),
        task=str(task),
        generated=[i for i, role in enumerate(roles) if role == Role.GENERATE],
    )


def _losses(model: JodiTransformer, batch: _Batch, dtype: torch.dtype) -> Tensor:
    """Squared velocity error of each generated domain in each row: (B, G)."""
    sigma = batch.sigma[:, None, None, None, None]
    noisy = torch.lerp(batch.clean, batch.noise, sigma)
    tensors = {**parameters_as(model, dtype), **dict(model.named_buffers())}
    velocity = functional_call(
        model,
        tensors,
        (
            noisy.to(dtype),
            batch.sigma * 1000,
            batch.caption.to(dtype),
            batch.mask,
            batch.role,
            batch.clean.to(dtype),
        ),
    )
    target = batch.noise - batch.clean
    picked = batch.generated
    return (velocity[:, picked].float() - target[:, picked]).square().mean((2, 3, 4))


def _fresh_model(text: ClosedVocabularyEncoder, latents: Tensor, seed: int) -> JodiTransformer:
    model = JodiTransformer(make_nano_config(text, latents.shape[2]))
    init_weights(model, seed)
    fit_init(model, latents, seed)
    # The null text is what the encoder gives for an empty prompt, as in the released weights.
    model.y_embedder.y_embedding.copy_(text([""]).caption[0, 0])
    return model


def _optimizers(model: JodiTransformer, settings: TrainingSettings):
    matrices, rest = [], []
    for name, p in model.named_parameters():
        if is_hidden_matrix(name, p):
            matrices.append((name, p))
        else:
            rest.append(p)
    return [
        Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
