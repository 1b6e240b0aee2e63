"""Train the reading network on rendered scenes, half of them through an autoencoder's round trip.

No model's output is ever learned from: the reader judges models.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..autoencoder.dcae import DCAE
from ..files import replace_file
from ..reader.claims import INDEX, MOST, Claims, find_true_claims, score_claims
from ..reader.network import COLORS, Reading, ReadingNetwork
from ..reader.reader import COUNTED, KIND, Reader
from ..scenes.captions import NOUNS
from ..scenes.render import check_evaluation_seeds, list_scene_things, render_scenes
from ..scenes.store import Progress, SceneStore
from ..scenes.things import Thing
from ..weights.loading import cast
from ..weights.write import write_state_dict
from .loop import LoopSettings, Losses, Report, run_training
from .muon import Muon

LARGEST_BLUR, LARGEST_NOISE = 1.0, 0.04  # pixels; standard deviation of values in [0, 1]
WEIGHTS = {"nouns": 1.0, "colors": 0.5, "presence": 4.0, "counts": 0.5, "amount": 0.2, "worn": 2.0}
"""How much each loss counts."""
HELD_OUT = (1 << 24) + 1_000_000
"""First seed of the scenes that the reader's own errors are stated on."""


@dataclass(frozen=True)
class Lessons:
    """Pictures and what they show, for N scenes.

    pictures, blurred: (N, 3, 64, 64) uint8, as rendered and after the autoencoder's round trip.
    nouns, colors: (N, 64, 64) uint8 of each pixel's thing; `len(COLORS)` stands for no colour.
    counts: (N, nouns) uint8, 0 where not there. worn: (N, nouns, colours) uint8, 0 or 1.
    """

    pictures: np.ndarray
    blurred: np.ndarray
    nouns: np.ndarray
    colors: np.ndarray
    counts: np.ndarray
    worn: np.ndarray

    def __len__(self) -> int:
        return len(self.counts)


def prepare_lessons(
    store: SceneStore,
    autoencoder: DCAE,
    path: Path,
    *,
    most: int | None = None,
    progress: Progress | None = None,
) -> Lessons:
    """The lessons of a store's scenes, or its first `most`, kept at `path` for the next time."""
    pictures = store.pictures[:most, 0]
    if not path.exists():
        answers = []
        for index in range(len(pictures)):
            answers.append(_answers(store.first_seed + index, store.size))
            if progress:
                progress(index + 1, len(pictures))
        nouns, colors, counts, worn = (np.stack(part) for part in zip(*answers, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            np.savez_compressed(
                file,
                blurred=pass_through(autoencoder, pictures),
                nouns=nouns,
                colors=colors,
                counts=counts,
                worn=worn,
            )
    with np.load(path) as kept:
        return Lessons(pictures[: len(kept["counts"])], **kept)


def pass_through(autoencoder: DCAE, pictures: np.ndarray, batch: int = 32) -> np.ndarray:
    """Pictures (N, 3, H, W) uint8 encoded and decoded again, the same."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch):
            x = torch.from_numpy(np.array(pictures[start : start + batch])).float() / 127.5 - 1
            y = autoencoder.decode(autoencoder.encode(x)).clamp(-1, 1)
            parts.append(((y + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.concatenate(parts)


def _answers(seed: int, size: int) -> tuple[np.ndarray, ...]:
    """Noun and colour of every pixel, counts and colours of every noun."""
    group, things = list_scene_things(seed, size)
    known = {thing.group: thing for thing in things}
    last = 1 + max(known)
    noun_of, color_of = np.zeros(last, np.uint8), np.zeros(last, np.uint8)
    for index, thing in known.items():
        noun_of[index] = INDEX[thing.noun]
        color_of[index] = COLORS.index(thing.color) if thing.color else len(COLORS)
    claims = find_true_claims(things)
    counts = np.zeros(len(NOUNS), np.uint8)
    worn = np.zeros((len(NOUNS), len(COLORS)), np.uint8)
    for noun, count in claims.classes.items():
        counts[INDEX[noun]] = count
    for noun, color in claims.colors:
        worn[INDEX[noun], COLORS.index(color)] = 1
    ids = group.numpy()
    return noun_of[ids], color_of[ids], counts, worn


def train_reader(
    lessons: Lessons,
    folder: Path,
    *,
    steps: int,
    seconds: float | None = None,
    batch: int = 32,
    warmup: int = 50,
    seed: int = 0,
    report: Report | None = None,
) -> Reader:
    """Train, resuming from `folder` if it holds a state, and return the averaged reader."""
    torch.manual_seed(seed)
    task = ReadingTask(ReadingNetwork(), lessons, batch)
    settings = LoopSettings(
        steps=steps, seed=seed, warmup=warmup, ema=0.995, seconds=seconds, log_every=20
    )
    run_training(task, folder, settings, report)
    return Reader(task.model)


class ReadingTask:
    """The task of a reader: every cell's noun and colour, every noun's presence, count, colours."""

    def __init__(self, model: ReadingNetwork, lessons: Lessons, batch: int):
        self.model, self.lessons, self.batch = model, lessons, batch
        self.rates = (0.01, 2e-3)
        dense = [(n, p) for n, p in model.named_parameters() if p.dim() == 4 and p.shape[2] > 1]
        chosen = {name for name, _ in dense}
        rest = [p for name, p in model.named_parameters() if name not in chosen]
        self.optimizers = [Muon(dense), torch.optim.AdamW(rest, betas=(0.9, 0.98))]
        self.counted = torch.tensor([noun in COUNTED for noun in NOUNS])

    def losses(self, rng: np.random.Generator, progress: float) -> Losses:
        chosen = rng.integers(len(self.lessons), size=self.batch)
        flip = bool(rng.random() < 0.5)
        said = self.model(_draw_pictures(self.lessons, chosen, rng, flip))
        parts = self._parts(said, chosen, flip)
        total = torch.stack([WEIGHTS[name] * loss for name, loss in parts.items()]).sum()
        curves = [(name, float(loss.detach()), 1) for name, loss in parts.items()]
        return Losses(total, self.batch, curves)

    def _parts(self, said: Reading, chosen: np.ndarray, flip: bool) -> dict[str, Tensor]:
        lessons = self.lessons
        counts = torch.from_numpy(lessons.counts[chosen]).long()
        worn = torch.from_numpy(lessons.worn[chosen]).float()
        there = counts > 0
        counted = there & self.counted
        return {
            "nouns": _cell_loss(said.nouns, lessons.nouns[chosen], flip),
            "colors": _cell_loss(said.colors, lessons.colors[chosen], flip),
            "presence": F.binary_cross_entropy_with_logits(said.presence, there.float()),
            "counts": F.cross_entropy(said.counts[counted], counts[counted].clamp(max=MOST) - 1),
            "amount": F.smooth_l1_loss(said.amount[counted], counts[counted].float(), beta=0.5),
            "worn": F.binary_cross_entropy_with_logits(said.worn[there], worn[there]),
        }


def _cell_loss(logits: Tensor, labels: np.ndarray, flip: bool) -> Tensor:
    """Cross entropy of cells (B, C, G, G) with each of the pixels (B, 2 G, 2 G) they cover."""
    target = torch.from_numpy(labels).long()
    target = target.flip(-1) if flip else target
    log = logits.log_softmax(1)
    covered = torch.stack([target[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
    return -log.gather(1, covered).mean()


def _draw_pictures(lessons: Lessons, chosen, rng: np.random.Generator, flip: bool) -> Tensor:
    """Half of them blurred by the autoencoder, a third blurred by a little more, all with noise."""
    through = rng.random(len(chosen)) < 0.5
    rows = [
        (lessons.blurred if blurred else lessons.pictures)[index]
        for index, blurred in zip(chosen, through, strict=True)
    ]
    x = torch.from_numpy(np.stack(rows)).float() / 255
    if rng.random() < 1 / 3:
        x = _blur(x, float(rng.uniform(0.3, LARGEST_BLUR)))
    noise = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
    strength = torch.from_numpy(rng.uniform(0, LARGEST_NOISE, (len(x), 1, 1, 1))).float()
    x = (x + strength * noise).clamp(0, 1)
    x = x.flip(-1) if flip else x
    return x.contiguous(memory_format=torch.channels_last)


def _blur(x: Tensor, sigma: float) -> Tensor:
    places = torch.arange(-2, 3).float()
    kernel = (-places.square() / (2 * sigma**2)).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 5)
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), mode="replicate"), kernel.mT, groups=3)


def measure_reader(reader: Reader, autoencoder: DCAE, scenes: int) -> dict:
    """The reader's precision and recall on held-out scenes, by kind of claim.

    {"scenes": N, "first_seed": S, "rendered": {kind: [precision, recall]}, "round_trip": the same}
    """
    truth: list[list[Thing]] = []
    claims: dict[str, list[Claims]] = {"rendered": [], "round_trip": []}
    seeds = check_evaluation_seeds(HELD_OUT, scenes)
    for start in range(0, scenes, 32):
        batch = render_scenes(seeds[start : start + 32])
        pictures = (batch.pictures[:, 0] * 255).round().to(torch.uint8)
        decoded = torch.from_numpy(pass_through(autoencoder, pictures.numpy()))
        claims["rendered"] += reader.read(pictures.float() / 255)
        claims["round_trip"] += reader.read(decoded.float() / 255)
        truth += batch.things
    errors: dict = {"scenes": scenes, "first_seed": HELD_OUT}
    for name, made in claims.items():
        scores = score_claims(made, truth)
        errors[name] = {k: [round(s.precision, 4), round(s.recall, 4)] for k, s in scores.items()}
    return errors


def write_reader(reader: Reader, path: Path, metadata: dict[str, str]) -> None:
    """Write the reader's weights in half precision, with what is known of them."""
    state = {name: t.contiguous() for name, t in reader.network.state_dict().items()}
    metadata = {"format": "pt", "kind": KIND, **metadata}
    write_state_dict(path, state, metadata, dtype=torch.float16, convert=cast, force=True)
