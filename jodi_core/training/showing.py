"""Pictures made while a model trains: of fixed prompts and seeds, and labels of training pictures.

Each sheet is made with the averaged weights, from the same noise as the sheets before it.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...kit.autoencoder.dcae import DCAE
from ...kit.pictures.contact_sheet import draw_contact_sheet
from ...kit.pictures.files import save_png
from ...kit.sampling import draw_noise, make_flow_sigmas, sample_dpmpp_2m
from ...kit.training import distributed
from ...kit.training.state import Ema
from ..domains import find_model_domain
from ..labels.maps import postprocess
from ..model.denoiser import prepare_denoiser
from ..roles import Role
from ..text import TextFeatures
from .config import SampleConfig
from .features import Entry
from .task import FeatureTask


class Showing:
    """Makes `step-<updates>.png` in a folder; called after each update.

    grid: latent rows and columns of the pictures made from prompts.
    """

    def __init__(
        self,
        folder: Path,
        task: FeatureTask,
        autoencoder: DCAE,
        config: SampleConfig,
        grid: tuple[int, int],
    ):
        self.folder, self.task, self.autoencoder, self.config = folder, task, autoencoder, config
        self.grid, self.read = grid, list(task.entries[: config.read])
        reader = task.store.text
        self.texts = [reader([prompt]) for prompt in config.prompts]
        self.null = reader([""])

    def __call__(self, step: int, ema: Ema) -> None:
        if self.config.every and step % self.config.every == 0:
            with self.task.averaged(ema):
                rows, headings = self.make()
            if rows and distributed.is_first():
                sheet = draw_contact_sheet(rows, headings=headings)
                save_png(self.folder / f"step-{step:08d}.png", sheet)

    def make(self) -> tuple[list, list[str]]:
        """Cells and heading of every row of a sheet. Every process takes part, with equal work."""
        rows, headings = [], []
        for number, (prompt, text) in enumerate(zip(self.config.prompts, self.texts, strict=True)):
            rows.append(self._from_text(text, number))
            headings.append(prompt)
        for number, entry in enumerate(self.read):
            rows.append(self._labels_of(entry, number))
            headings.append(entry.path.stem[:8])
        return rows, headings

    def _from_text(self, text: TextFeatures, seed: int):
        roles = [Role.IGNORE] * len(self.task.store.names)
        roles[0] = Role.GENERATE
        shape = (1, len(roles), self.task.model.config.latent_channels, *self.grid)
        clean = torch.zeros(shape, device=self.task.device)
        latents = self._sample(roles, clean, text, seed, self.config.guidance)
        return [self._cell(0, latents, "")]

    def _labels_of(self, entry: Entry, seed: int):
        names = self.task.store.names
        features = self.task.store.load(entry)
        image = features.latents[names[0]]
        clean = torch.zeros(1, len(names), *image.shape, device=self.task.device)
        clean[0, 0] = image.to(clean)
        made = [i for i, name in enumerate(names) if i and name in entry.names]
        roles = [Role.GENERATE if i in made else Role.IGNORE for i in range(len(names))]
        roles[0] = Role.CONDITION
        if not made:
            return [self._cell(0, clean, " (given)")]
        latents = self._sample(roles, clean, None, seed, 1.0)
        latents[:, 0] = clean[:, 0]
        return [self._cell(0, latents, " (given)"), *(self._cell(i, latents, "") for i in made)]

    def _sample(
        self, roles: Sequence[int], clean: Tensor, text: TextFeatures | None, seed: int, guidance
    ) -> Tensor:
        sigmas = make_flow_sigmas(self.config.steps)
        to = {"device": self.task.device, "dtype": torch.float32}
        both = [
            None if t is None else TextFeatures(t.caption.to(**to), t.mask.to(self.task.device))
            for t in (text, None if text is None else self.null)
        ]
        denoise = prepare_denoiser(
            self.task.network,
            torch.tensor([[int(role) for role in roles]]),
            clean,
            both[0],
            both[1],
            sigmas=sigmas,
            guidance=guidance,
            own_mask=True,
            dtype=self.task.dtype,
        )
        return sample_dpmpp_2m(denoise, draw_noise(clean.shape, seed).to(clean), sigmas)

    def _cell(self, index: int, latents: Tensor, note: str):
        of = find_model_domain(self.task.store.names[index], index)
        weights = next(self.autoencoder.parameters())
        picture = self.autoencoder.decode(latents[:, index].to(weights)).float().cpu()
        return f"{of.title}{note}", postprocess(of, picture)[0]
