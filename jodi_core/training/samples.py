"""The sample pictures that ship with the package: scenes of evaluation seeds, with exact labels.

A folder of samples holds `<name>_<domain>.png` for every domain, depth with 16 bits, and
`samples.json` with the seed and caption of each, from which they can be made again.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ...kit.pictures.files import save_png
from ...kit.scenes.render import TRAIN_SEED_END, check_evaluation_seeds, render_scenes
from ..domains import DOMAIN_NAMES
from ..embedded import LIST

SAMPLE_SIZE = 64
SAMPLE_SEEDS: tuple[int, ...] = tuple(TRAIN_SEED_END + i for i in (1, 4, 14, 23, 34, 42))
"""People, rooms, animals, houses, a truck; chosen for their subjects, before any result."""


def write_samples(
    folder: Path, seeds: Sequence[int] = SAMPLE_SEEDS, size: int = SAMPLE_SIZE
) -> list[Path]:
    """Render scenes into a folder of samples and return the files, the list last.

    Raises: JodiError for seeds that training may use.
    """
    for seed in seeds:
        check_evaluation_seeds(seed, 1)
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
