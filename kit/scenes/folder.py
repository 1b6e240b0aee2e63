"""Rendered scenes as a folder of files: pictures, captions beside them, a folder for each map."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..files import write_text
from ..pictures.files import save_png
from .maps import draw_roughness, draw_shading
from .render import SceneBatch, render_scenes
from .store import Progress

EXTRA = {
    "shading": lambda batch: draw_shading(batch.shading),
    "roughness": lambda batch: draw_roughness(batch.classes),
}
"""Maps that the scenes have beside those of the eight domains."""


def write_folder(
    folder: Path,
    seeds: Sequence[int],
    size: int,
    names: Sequence[str],
    *,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
) -> None:
    """Render scenes into `folder`: `<seed>.png` and `.txt`, and `<map>/<seed>.png` of each map.

    names: of the pictures of a `SceneBatch`, the image first. extra: of `EXTRA`. What is there
    already is left as it is, so a stopped rendering goes on. Depth has 16 bits.
    """
    for done, seed in enumerate(seeds, 1):
        caption = folder / f"{seed:08d}.txt"
        if not caption.exists():  # written last
            batch = render_scenes([seed], size)
            for name, picture in _pictures(batch, names, extra).items():
                place = folder if name == names[0] else folder / name
                bits, shown = (16, picture[:1]) if name == "depth" else (8, picture)
                save_png(place / f"{seed:08d}.png", shown, bits=bits)
            write_text(caption, batch.captions[0] + "\n")
        if progress:
            progress(done, len(seeds))


def _pictures(batch: SceneBatch, names, extra) -> dict[str, Tensor]:
    found = dict(zip(names, batch.pictures[0], strict=True))
    return found | {name: EXTRA[name](batch)[0] for name in extra}
