"""What is trained on stored features: the velocity of every generated domain, whatever the roles.

Source: arXiv 2505.19084 section 3 and github VIPL-GENUN/Jodi @ c21bdcb, with its training faults
left out: only generated domains count, time is not truncated, every process draws of one order.
Shapes: B rows, L domains, z latent channels, h w latent grid, S text tokens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.training import distributed
from ...kit.training.loop import Losses
from ...kit.training.masters import ShortCopy
from ...kit.training.shards import let_go, shard_model
from ...kit.training.state import Ema
from ..roles import Role
from .config import UpdateConfig
from .features import Entry, Features, FeatureStore
from .network import METHODS, TrainedJodi, recompute_blocks
from .noise import FULL_NOISE, draw_sigma, measure_velocity_errors, name_band
from .optimizers import make_optimizers
from .order import BatchOrder
from .role_sampling import DrawRoles


@dataclass(frozen=True)
class Batch:
    """One process's rows of a micro-batch, on the model's device."""

    clean: Tensor  # (B, L, z, h, w)
    noise: Tensor
    sigma: Tensor  # (B,)
    roles: tuple[int, ...]
    caption: Tensor | None  # (B, 1, S, Cc)
    mask: Tensor | None  # (B, S)
    task: str

    @property
    def generated(self) -> list[int]:
        return [i for i, role in enumerate(self.roles) if role == Role.GENERATE]


class FeatureTask:
    """The task of a Jodi on a `FeatureStore`; what `Shards` trains.

    model: holds the weights that the optimizers change. network: what is evaluated, the same or a
    copy in a shorter type.
    """

    def __init__(
        self,
        model: TrainedJodi,
        store: FeatureStore,
        entries: Sequence[Entry],
        draw_roles: DrawRoles,
        config: UpdateConfig,
        *,
        seed: int,
        dtype: torch.dtype,
    ):
        """dtype: of the arithmetic. Raises: JodiError when rows do not fit the processes."""
        self.rank, self.world = distributed.place()
        if config.rows % self.world:
            raise JodiError(
                f"training.rows is {config.rows}, for {self.world} processes; give a multiple"
            )
        if self.world > 1 and config.optimizer == "muon":
            raise JodiError("muon is for one process; set training.optimizer to adamw")
        self.model, self.store, self.entries = model, store, list(entries)
        self.draw_roles, self.config, self.seed, self.dtype = draw_roles, config, seed, dtype
        self.device = model.domain_embedding.device
        # Repeats of a source may stand at other places of the list, but are of one kind.
        self.order = BatchOrder([(e.grid, e.names) for e in entries], config.rows, seed)
        self.null = model.y_embedder.y_embedding.detach().clone().float()
        self._short: ShortCopy | None = None
        own = model.domain_embedding.dtype
        if self.world == 1 and dtype != own:
            self._short = ShortCopy(model, dtype)
        self.network: TrainedJodi = self._short.model if self._short else model  # type: ignore[assignment]
        if config.recompute:
            recompute_blocks(self.network)
        if self.world > 1:
            shard_model(model, model.blocks, dtype if dtype != own else None, methods=METHODS)  # type: ignore[arg-type]
        self.optimizers, self.rates = make_optimizers(model, config)

    def refresh(self) -> None:
        """Take the model's weights over into the network."""
        if self._short:
            self._short.refresh()

    @contextlib.contextmanager
    def averaged(self, ema: Ema) -> Iterator[None]:
        """The network computes with the averages in this block, without gradients."""
        with torch.no_grad():
            with ema.shown(self.model):
                self.refresh()
                try:
                    yield
                finally:
                    let_go(self.model)
            self.refresh()

    def losses_of(self, step: int, index: int, progress: float) -> Losses:
        """Losses of this process's rows; drawn from the seed, the update and the micro-batch."""
        if index == 0:
            self.refresh()
        batch = self.draw(step, index)
        errors = self._errors(batch)
        domains, rows = errors.detach().mean(0).tolist(), errors.detach().mean(1).tolist()
        names, count = self.store.names, len(rows)
        curves = [(names[i], v, count) for i, v in zip(batch.generated, domains, strict=True)]
        curves += [(name_band(s), v, 1) for s, v in zip(batch.sigma.tolist(), rows, strict=True)]
        curves += [(f"task.{batch.task}", sum(rows) / count, count)]
        curves += [("loss", sum(rows) / count, count)]
        return Losses(errors.mean(), count, curves)

    def draw(self, step: int, index: int) -> Batch:
        """The rows of a micro-batch that this process trains on."""
        rng = np.random.default_rng((self.seed, step, index))
        chosen = self.order.at(step * self.config.micro_batches + index)
        first = self.entries[chosen[0]]
        available = [name in first.names for name in self.store.names]
        task, roles = self.draw_roles(rng, available)
        seeds = rng.integers(2**63, size=len(chosen))
        mine = range(self.rank, len(chosen), self.world)
        rows = [self._row(self.entries[chosen[i]], roles, int(seeds[i])) for i in mine]
        clean, noise, sigma, texts = zip(*rows, strict=True)
        caption, mask = self._texts(texts) if roles[0] != Role.CONDITION else (None, None)
        return Batch(
            clean=torch.stack(clean).to(self.device),
            noise=torch.stack(noise).to(self.device),
            sigma=torch.tensor(sigma, dtype=torch.float32, device=self.device),
            roles=roles,
            caption=caption,
            mask=mask,
            task=task,
        )

    def _row(self, entry: Entry, roles: tuple[int, ...], seed: int):
        """One row: clean latents, noise (L, z, h, w), its noise level, and its text or None."""
        rng = np.random.default_rng(seed)
        features = self.store.load(entry)
        like = features.latents[self.store.names[0]]
        clean = like.new_zeros(len(roles), *like.shape)
        noise = torch.zeros_like(clean)
        for i, role in enumerate(roles):
            if role != Role.IGNORE:
                clean[i] = features.latents[self.store.names[i]]
            if role == Role.GENERATE:
                drawn = rng.standard_normal(like.shape, dtype=np.float32)
                noise[i] = torch.from_numpy(drawn)
        sigma = draw_sigma(rng)
        given = roles[0] != Role.GENERATE and Role.CONDITION in roles
        if given and rng.random() < self.config.full_noise:
            sigma = FULL_NOISE
        return clean, noise, sigma, self._text(rng, entry, features)

    def _text(self, rng: np.random.Generator, entry: Entry, features: Features) -> Tensor:
        """The text (S, Cc) of a row; the null text where it has none, or it is dropped."""
        dropped = rng.random() < self.config.text_dropout
        if dropped or not entry.shares:
            return self.null.cpu()
        names = list(entry.shares)
        return features.texts[names[rng.choice(len(names), p=list(entry.shares.values()))]]

    def _texts(self, texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Texts of different lengths as one tensor, and which of its tokens are there."""
        longest = max(len(text) for text in texts)
        caption = torch.zeros(len(texts), 1, longest, texts[0].shape[-1])
        mask = torch.zeros(len(texts), longest, dtype=torch.long)
        for row, text in enumerate(texts):
            caption[row, 0, : len(text)] = text
            mask[row, : len(text)] = 1
        return caption.to(self.device), mask.to(self.device)

    def _errors(self, batch: Batch) -> Tensor:
        """Squared velocity error of each generated domain in each row: (B, G)."""
        noisy = torch.lerp(batch.clean, batch.noise, batch.sigma[:, None, None, None, None])
        role = torch.tensor([batch.roles] * len(noisy), device=self.device)
        velocity = self.network(
            noisy.to(self.dtype),
            (batch.sigma * 1000),
            None if batch.caption is None else batch.caption.to(self.dtype),
            batch.mask,
            role,
            batch.clean.to(self.dtype),
        )
        return measure_velocity_errors(velocity, batch.clean, batch.noise, batch.generated)
