"""Dual training of a small D-DiT: one update through both branches.

Image loss + lambda x text loss, as arXiv 2501.00289 section 3, without the faults of the published
scripts: the velocity itself is compared, over noise levels as the sampler uses them; the text loss
is that of `masking`; questions are drawn so that answers are balanced.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...kit.training.loop import LoopSettings, Losses, Report, run_training
from ...kit.training.muon import Muon
from ..model.config import DDiTConfig
from ..model.transformer import DDiTTransformer
from ..text.draft import CAPTION_QUESTION, QUESTION, SHORT_ANSWER, tokenize_prompt, tokenize_words
from ..text.words import WordEncoder
from .examples import Examples
from .masking import MaskedText, mask_text

NANO_LENGTH = 28
TEXT_DROPOUT = 0.1
FLOW_SHIFT = 3.0
ON_DEMAND = 0.25  # of captions, written as an answer
BARE = 0.15  # of questions, without the request for a short answer


def make_nano_config(text: WordEncoder, latent_channels: int, side: int) -> DDiTConfig:
    """The embedded model's sizes, for a text encoder and latents of `side` x `side` cells."""
    return DDiTConfig(
        hidden_size=112,
        depth=4,
        num_heads=4,
        context_channels=text.channels,
        vocab_size=text.vocabulary.size,
        mlp_size=224,
        latent_channels=latent_channels,
        patch_size=1,
        position_size=side,
        frequency_size=64,
        null_tokens=1,
    )


@dataclass(frozen=True)
class DualSettings:
    """pictures, captions, answers: rows of each in one micro-batch.

    text_weight: lambda, of the text loss. Others: as `kit.training.loop.LoopSettings`.
    """

    steps: int
    pictures: int = 4
    captions: int = 8
    answers: int = 20
    text_weight: float = 1.0
    micro_batches: int = 1
    muon_lr: float = 0.02
    adam_lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.998
    warmup: int = 50
    seed: int = 0
    save_every: int = 100
    log_every: int = 50
    seconds: float | None = None

    def loop(self) -> LoopSettings:
        """What the training loop needs of them."""
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


def train_ddit(
    examples: Examples,
    text: WordEncoder,
    folder: Path,
    settings: DualSettings,
    *,
    start_from: DDiTTransformer | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> DDiTTransformer:
    """Train, resuming from `folder` if it holds a state, and return the averaged model.

    start_from: a model to continue from (a fresh one otherwise). report: called with a dict at
    every log line.
    """
    model = start_from or make_fresh_model(text, examples.latents, settings.seed)
    task = DualTask(model.to(device).float(), examples, text, settings, device)
    run_training(task, folder, settings.loop(), report)
    return model.eval()


def make_fresh_model(text: WordEncoder, latents: Tensor, seed: int) -> DDiTTransformer:
    """A model of the embedded one's sizes with weights to begin with."""
    model = DDiTTransformer(make_nano_config(text, latents.shape[1], latents.shape[-1]))
    init_weights(model, seed)
    return model


def init_weights(model: DDiTTransformer, seed: int) -> None:
    """Fresh weights for training: Xavier matrices; heads start at zero, gates half open.

    Time shifts and scales nothing at first.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1 or "proj_out" in name or ".norm1" in name or "norm_out" in name:
                p.zero_()
            elif name == "null_image_embd":
                p.normal_(0, config.hidden_size**-0.5, generator=generator)
            else:
                bound = math.sqrt(6 / (p.shape[0] + p[0].numel()))
                p.uniform_(-bound, bound, generator=generator)
        for block in model.transformer_blocks:
            for modulation in (block.norm1, block.norm1_context):
                modulation.linear.bias.view(6, -1)[[2, 5]] = 0.5
        model.pos_embed.pos_embed.copy_(_positions(config.position_size, config.hidden_size))


def _positions(side: int, width: int) -> Tensor:
    """A table (1, side * side, width) of waves: columns in the first half, rows in the second."""
    lengths = 2.0 * side * (0.25 / side) ** (torch.arange(width // 4) / (width // 4 - 1))
    angles = 2 * math.pi * torch.arange(side)[:, None] / lengths.clamp_min(2.0)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    waves = F.pad(waves, (0, width // 2 - waves.shape[1]))
    columns = waves.expand(side, -1, -1)
    rows = waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, side * side, width)


class DualTask:
    """The task of a D-DiT: velocities of noisy pictures, words of clean ones."""

    def __init__(
        self,
        model: DDiTTransformer,
        examples: Examples,
        text: WordEncoder,
        settings: DualSettings,
        device: str,
    ):
        self.model, self.examples, self.text = model, examples, text.to(device)
        self.settings, self.device = settings, device
        self.optimizers = _optimizers(model, settings)
        self.rates = (settings.muon_lr, settings.adam_lr)
        self.captioned = examples.captioned
        self.kinds = list(examples.pools)
        tokenizer = text.tokenizer
        # A small set of texts comes again and again.
        self.words = functools.cache(lambda t: tokenize_words(t, tokenizer))
        self.prompt = functools.cache(lambda t: tokenize_prompt(t, text.length, tokenizer))

    def losses(self, rng: np.random.Generator, progress: float) -> Losses:
        curves = []
        total = torch.zeros((), device=self.device)
        if self.settings.pictures and len(self.captioned):
            image = self._image_loss(rng)
            curves.append(("image", float(image.detach()), 1))
            total = total + image
        rows, texts, kinds = self._draw_texts(rng)
        if texts:
            each = self._text_losses(rows, texts)
            total = total + self.settings.text_weight * each.mean()
            curves += [(k, v, 1) for k, v in zip(kinds, each.detach().tolist(), strict=True)]
        return Losses(total, self.settings.pictures + len(texts), curves)

    def _image_loss(self, rng: np.random.Generator) -> Tensor:
        """Mean squared error of the velocity of noisy pictures under their captions."""
        rows = self.captioned[rng.integers(len(self.captioned), size=self.settings.pictures)]
        clean = self._latents(rows)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(clean)
        base = 1 / (1 + np.exp(-rng.standard_normal(len(rows))))
        levels = FLOW_SHIFT * base / (1 + (FLOW_SHIFT - 1) * base)
        sigma = torch.from_numpy(levels).float().to(clean)
        dropped = rng.random(len(rows)) < TEXT_DROPOUT
        prompts = [
            self.prompt("" if drop else self._caption(row, rng))
            for row, drop in zip(rows, dropped, strict=True)
        ]
        context = self.model.prepare_text(self._features(prompts))
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None])
        velocity = self.model.velocity(noisy, sigma, context)
        return (velocity - (noise - clean)).square().mean()

    def _draw_texts(self, rng) -> tuple[list[int], list[MaskedText], list[str]]:
        """Pictures, texts partly masked, and the names of their curves."""
        vocabulary, length = self.text.vocabulary, self.text.length
        marks = {"end": vocabulary.end, "mask": vocabulary.mask}
        rows, texts, kinds = [], [], []
        for _ in range(self.settings.captions if len(self.captioned) else 0):
            row = int(self.captioned[rng.integers(len(self.captioned))])
            words = self.words(self._caption(row, rng))
            # On demand, as the fine-tuned model describes, or freely, as the base model.
            asked = QUESTION.format(CAPTION_QUESTION) if rng.random() < ON_DEMAND else ""
            rows.append(row)
            texts.append(mask_text(self.words(asked), words, length, rng, **marks))
            kinds.append("caption")
        for _ in range(self.settings.answers if self.kinds else 0):
            kind = self.kinds[rng.integers(len(self.kinds))]
            row, question, answer = self.examples.pools[kind].draw(rng)
            short = rng.random() >= BARE
            asked = self.words(QUESTION.format(f"{question} {SHORT_ANSWER}" if short else question))
            rows.append(row)
            texts.append(mask_text(asked, self.words(answer), length, rng, **marks))
            kinds.append(kind)
        return rows, texts, kinds

    def _text_losses(self, rows: list[int], texts: list[MaskedText]) -> Tensor:
        """The loss of each text, (B,), from clean pictures."""
        most = max(len(text.places) for text in texts)

        def padded(values: list) -> list:
            return [*values, *(0,) * (most - len(values))]

        places = torch.tensor([padded(t.places) for t in texts], device=self.device)
        targets = torch.tensor([padded(t.targets) for t in texts], device=self.device)
        weights = torch.tensor([padded(t.weights) for t in texts], device=self.device)
        context = self.model.prepare_picture(self._latents(rows))
        logits = self.model.logits(self._features([t.ids for t in texts]), context, places)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (losses.view_as(weights) * weights).sum(1)

    def _latents(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        return self.examples.latents[torch.as_tensor(rows)].float().to(self.device)

    def _caption(self, row: int, rng: np.random.Generator) -> str:
        texts = self.examples.captions[row]
        return texts[int(rng.integers(len(texts)))]

    def _features(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self.text(torch.tensor(ids, device=self.device))


def _optimizers(model: DDiTTransformer, settings: DualSettings):
    matrices, rest = [], []
    for name, p in model.named_parameters():
        hidden = name.startswith("transformer_blocks.") and p.dim() == 2 and ".norm1" not in name
        (matrices.append((name, p)) if hidden else rest.append(p))
    return [
        Muon(matrices, lr=settings.muon_lr, weight_decay=settings.weight_decay),
        torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
