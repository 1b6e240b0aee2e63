"""The sample pictures that ship with the package: scenes of evaluation seeds, with exact labels.

A folder of samples holds `<name>_<domain>.png` for every domain, depth with 16 bits, and
`samples.json` with the seed and caption of each, from which they can be made again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..domains import DOMAIN_NAMES
from ..embedded import ASSETS
from ..errors import JodiError
from ..picture_files import load_image, save_png
from .scenes import TRAIN_SEED_END, evaluation_seeds, render_scenes

SAMPLES = ASSETS / "samples"
SAMPLE_SIZE = 64
SAMPLE_SEEDS: tuple[int, ...] = tuple(TRAIN_SEED_END + i for i in (1, 4, 14, 23, 34, 42))
"""People, rooms, animals, houses, a truck; chosen for their subjects, before any result."""

LIST = "samples.json"


@dataclass(frozen=True)
class Sample:
    """One scene: pictures (3, H, W) float32 in [0, 1] by domain."""

    name: str
    seed: int
    caption: str
    pictures: dict[str, Tensor]


def write_samples(
    folder: Path, seeds: Sequence[int] = SAMPLE_SEEDS, size: int = SAMPLE_SIZE
) -> list[Path]:
    """Render scenes into a folder of samples and return the files, the list last.

    Raises: JodiError for seeds that training may use.
    """
    for seed in seeds:
        evaluation_seeds(seed, 1)
    batch = render_scenes(seeds, size)
    paths, entries = [], []
    for row, (seed, caption) in enumerate(zip(seeds, batch.captions, strict=True)):
        name = f"sample{row + 1}"
        entries.append({"name": name, "seed": seed, "caption": caption})
        for index, of in enumerate(DOMAIN_NAMES):
            picture = batch.pictures[row, index]
            path = folder / f"{name}_{of}.png"
            if of == "depth":
                save_png(path, picture[0], bits=16)
            else:
                save_png(path, picture)
            paths.append(path)
    listing = folder / LIST
    listing.write_text(json.dumps({"size": size, "samples": entries}, indent=1) + "\n")
    return [*paths, listing]


def read_samples(folder: Path = SAMPLES) -> list[Sample]:
    """The samples of a folder. Raises: JodiError when one is missing or damaged."""
    try:
        entries = json.loads((folder / LIST).read_text())["samples"]
        facts = [(str(e["name"]), int(e["seed"]), str(e["caption"])) for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JodiError(
            f"{folder / LIST} cannot be read ({error}); install the package again, or make the "
            "samples with `jodi train samples`"
        ) from None
    return [
        Sample(
            name,
            seed,
            caption,
            {of: load_image(folder / f"{name}_{of}.png")[0][0] for of in DOMAIN_NAMES},
        )
        for name, seed, caption in facts
    ]


def stacked(samples: Sequence[Sample], name: str) -> Tensor:
    """One domain of all samples: (B, 3, H, W)."""
    return torch.stack([sample.pictures[name] for sample in samples])
