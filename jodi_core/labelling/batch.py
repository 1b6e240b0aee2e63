"""One batch of a data set: pictures read, labelled and written, and the lines about them.

The same batch makes the same files, wherever and however often it is computed: nothing here depends
on what other batches did.

Shapes: B rows, H W pixels.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.pictures.files import load_image
from ...kit.pictures.frame import Frame
from ...kit.sampling import StepCallback
from ..job.given import prepare
from ..job.restore import restore_map
from ..job.size import DEFAULT_SIZE, resolve_size
from ..pipeline import JodiPipeline
from .layout import IMAGE, encode_image, encode_map, make_record, name_map, write_file
from .plan import Batch, Source

GIVEN = "given"
"""The key of a caption that lies beside a picture, in a text file of its name."""

Caption = Callable[[Tensor, int], dict[str, str]]
"""Captions of a picture (1, 3, H, W) in [0, 1] with a seed: a text for each model's name."""


@dataclass(frozen=True)
class Recipe:
    """What decides the labels of a picture, beside the model.

    size: as `job.size.resolve_size` takes it. fit: "crop" or "pad". steps: None is the model's
    own. seed: of the data set; each picture has its own, of this and its name. tile: see
    `DCAE.encode`.
    """

    labels: tuple[str, ...]
    size: int | tuple[int, int] | str = DEFAULT_SIZE
    fit: str = "crop"
    steps: int | None = None
    sampler: str = "dpmpp_2m"
    seed: int = 0
    tile: int | None = None


@dataclass(frozen=True)
class Ready:
    """A picture that was read: the file's bytes, what is in it, and that at the model's size.

    frame: the way back. words: its caption in a text file beside it.
    """

    source: Source
    data: bytes
    picture: Tensor
    fitted: Tensor
    frame: Frame | None
    words: str


def derive_seed(seed: int, file: str) -> int:
    """The seed of a picture: of its name and the data set's, never of its place or company."""
    text = f"{seed}:{file}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def label_batch(
    pipeline: JodiPipeline,
    recipe: Recipe,
    folder: Path,
    root: Path,
    batch: Batch,
    *,
    caption: Caption | None = None,
    callback: StepCallback | None = None,
) -> tuple[list[dict], dict[str, str]]:
    """Label the pictures of a batch and write their files.

    folder: of the given pictures. root: of the data set. Pictures of one size are computed at once.
    Returns: the lines of the batch, of metadata for a labelled picture and {"file", "bytes",
    "reason"} for one that is none or cannot be labelled; and why others could not be opened, by
    file. Of those nothing is known: they may be back the next time.
    Raises: OutputError when a file cannot be written; Interrupted when the callback stopped it;
    RuntimeError and MemoryError as torch does.
    """
    lines: dict[str, dict] = {}
    unread: dict[str, str] = {}
    ready: list[Ready] = []
    for source in batch:
        path = folder / source.file
        try:
            data, words = path.read_bytes(), _bytes_beside(path)
        except OSError as error:
            unread[source.file] = error.strerror or str(error)
            continue
        try:
            ready.append(_read(pipeline, recipe, source, data, words))
        except JodiError as error:
            # what was read is what counts: the next look compares its size with the file's
            lines[source.file] = {"file": source.file, "bytes": len(data), "reason": str(error)}
    for group in _of_one_size(ready):
        for one, line in _label(pipeline, recipe, root, group, caption, callback):
            lines[one.source.file] = line
    return [lines[s.file] for s in batch if s.file in lines], unread


def _bytes_beside(picture: Path) -> bytes:
    """Of the text file of the picture's name; none is empty."""
    with contextlib.suppress(FileNotFoundError):
        return picture.with_suffix(".txt").read_bytes()
    return b""


def _read(
    pipeline: JodiPipeline, recipe: Recipe, source: Source, data: bytes, words: bytes
) -> Ready:
    if not data:
        raise JodiError("the file is empty; save or download it again")
    try:
        picture = load_image(data)[0]
    except JodiError as error:
        raise JodiError(str(error).replace("the given bytes", "the file")) from None
    try:
        caption = words.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise JodiError("the caption in its .txt file is not UTF-8; save it as that") from None
    choice, native, explicit = resolve_size(recipe.size, pipeline.native_size)
    given = prepare(
        {"image": picture},
        choice,
        factor=pipeline.factor,
        native=native,
        explicit=explicit,
        mode=recipe.fit,
        names=pipeline.names,
    )
    return Ready(source, data, picture[0], given.fitted("image"), given.frame, caption)


def _of_one_size(ready: Sequence[Ready]) -> list[list[Ready]]:
    groups: dict[tuple[int, ...], list[Ready]] = {}
    for one in ready:
        groups.setdefault(tuple(one.fitted.shape), []).append(one)
    return list(groups.values())


def _label(
    pipeline: JodiPipeline,
    recipe: Recipe,
    root: Path,
    group: list[Ready],
    caption: Caption | None,
    callback: StepCallback | None,
) -> Iterator[tuple[Ready, dict]]:
    """Each picture of a group with its line, after its files are written."""
    seeds = [derive_seed(recipe.seed, one.source.file) for one in group]
    result = pipeline.run(
        pipeline.plan(recipe.labels, ["image"]),
        conditions={"image": torch.cat([one.fitted for one in group])},
        seed=seeds,
        steps=recipe.steps,
        sampler=recipe.sampler,
        tile=recipe.tile,
        callback=callback,
    )
    for row, one in enumerate(group):
        for label, raw in result.raw.items():
            of, stem = pipeline.domain(label), one.source.stem
            assert one.frame is not None
            over = restore_map(of, raw[row : row + 1], [one.frame])
            write_file(root / name_map(label, stem), encode_map(of, over))
        data, ending = encode_image(one.data, one.picture)
        image = f"{IMAGE}/{one.source.stem}{ending}"
        write_file(root / image, data)
        height, width = one.picture.shape[-2:]
        captions = {GIVEN: one.words} if one.words else {}
        if caption is not None:
            captions |= caption(one.picture[None], seeds[row])
        yield one, make_record(image, (height, width), list(result.raw), captions)
