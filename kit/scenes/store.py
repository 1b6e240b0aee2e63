"""Rendered scenes and their latents on disk, so that an epoch costs no rendering."""

import errno
import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, JodiError
from ..files import read_json, write_text
from .render import check_training_seeds, render_scenes

Progress = Callable[[int, int], None]


class SceneStore:
    """Pictures (N, 8, 3, H, W) uint8 and captions of training scenes, in one folder.

    `build` continues where an earlier one was stopped. Scene i is that of seed `first_seed` + i.
    """

    def __init__(self, folder: Path):
        info = _read_info(folder)
        if info["done"] < info["count"]:
            raise JodiError(
                f"{folder} holds {info['done']} of {info['count']} scenes; run the rendering again "
                "to finish it"
            )
        self.folder, self.size, self.first_seed = folder, info["size"], info["first_seed"]
        shape = (info["count"], 8, 3, self.size, self.size)
        self.pictures = read_array(folder / "pictures.npy", np.uint8, shape)
        self.captions = _read_captions(folder, info["count"])

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, scenes: np.ndarray, domains: np.ndarray) -> Tensor:
        """Chosen pictures (len(scenes), 3, H, W) float32 in [-1, 1]."""
        picked = np.stack([self.pictures[s, d] for s, d in zip(scenes, domains, strict=True)])
        return torch.from_numpy(picked).float() / 127.5 - 1

    @classmethod
    def build(
        cls,
        folder: Path,
        count: int,
        size: int,
        *,
        first_seed: int = 0,
        chunk: int = 64,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> "SceneStore":
        """Render `count` training scenes of `size` pixels into `folder`.

        Raises: JodiError when the folder holds scenes of another size, count or first seed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        info_path = folder / "scenes.json"
        info = {"count": count, "size": size, "first_seed": first_seed, "done": 0}
        captions: list[str] = []
        if info_path.exists():
            old = _read_info(folder)
            if {**old, "done": 0} != info:
                raise JodiError(
                    f"{folder} was made with {old}, not {info}; use another folder or remove it"
                )
            info = old
            # A kill between the two files leaves captions of scenes that will be rendered again.
            captions = _read_captions(folder, info["done"])
        seeds = check_training_seeds(first_seed, count)
        path, shape = folder / "pictures.npy", (count, 8, 3, size, size)
        if info["done"]:
            pictures = read_array(path, np.uint8, shape, mode="r+")
        else:
            pictures = _new_array(path, np.uint8, shape)
        chunks = [seeds[i : i + chunk] for i in range(info["done"], count, chunk)]
        for rendered, written in _render_chunks(chunks, size, workers):
            start = info["done"]
            stop = start + len(written)
            pictures[start:stop] = rendered
            captions.extend(written)
            info["done"] = stop
            if (start // chunk) % 16 == 15 or stop == count:
                pictures.flush()
                write_text(folder / "captions.json", json.dumps(captions))
                write_text(info_path, json.dumps(info))
            if progress:
                progress(stop, count)
        return cls(folder)


def _render_chunks(chunks: list[range], size: int, workers: int):
    """Yield (pictures uint8, captions) of each chunk in order, from `workers` processes."""
    if workers <= 1:
        yield from (_render_chunk(chunk, size) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(_render_chunk, chunks, [size] * len(chunks))


def _render_chunk(seeds: range, size: int) -> tuple[np.ndarray, list[str]]:
    scenes = render_scenes(list(seeds), size)
    return (scenes.pictures * 255).round().to(torch.uint8).numpy(), scenes.captions


def encode_store(
    store: SceneStore, autoencoder, path: Path, *, batch: int = 32, progress: Progress | None = None
) -> Tensor:
    """Latents of every picture of the store: (N, 8, z, h, w) float16, saved at `path`."""
    if path.exists():
        return torch.from_numpy(read_array(path, np.float16, (len(store), 8, 0, 0, 0)))
    config = autoencoder.config
    cells = store.size // config.factor
    shape = (len(store), 8, config.latent_channels, cells, cells)
    partial = path.with_suffix(".partial.npy")
    try:
        latents = _new_array(partial, np.float16, shape)
        with torch.inference_mode():
            for start in range(0, len(store), batch):
                pictures = torch.from_numpy(store.pictures[start : start + batch])
                x = pictures.flatten(0, 1).float() / 127.5 - 1
                z = autoencoder.encode(x)
                latents[start : start + batch] = z.unflatten(0, (-1, 8)).half().numpy()
                if progress:
                    progress(min(start + batch, len(store)), len(store))
        latents.flush()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return torch.from_numpy(read_array(path, np.float16, shape))


def read_array(
    path: Path, dtype, shape: tuple[int, ...], mode: Literal["c", "r+"] = "c"
) -> np.memmap:
    """An array file mapped into memory. shape: 0 stands for any size.

    mode: "c" is copy on write, because torch wants memory that could be written to; "r+" writes.
    Raises: CheckpointError when the file is damaged, or of another shape or type.
    """
    try:
        array = np.load(path, mmap_mode=mode)
        if not isinstance(array, np.memmap):
            raise ValueError("it is no single array")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({' '.join(str(error).split())[:120]}); remove it and make it "
            "again"
        ) from None
    fits = len(array.shape) == len(shape) and all(
        there == wanted or not wanted for there, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        raise CheckpointError(
            f"{path} holds {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of "
            f"{shape} (0: any); remove it and make it again"
        )
    return array


def _new_array(path: Path, dtype, shape: tuple[int, ...]) -> np.memmap:
    """A mapped array file with its room on the disk taken.

    Writing to a map for which the disk has no room would end the program (SIGBUS).
    Raises: JodiError when there is no room.
    """
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    try:
        if needed > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise JodiError(
            f"{path} needs {needed:,} bytes, its disk has {free:,} free ({error.strerror}); free "
            "some space, or choose another folder"
        ) from None
    return array


def _read_info(folder: Path) -> dict:
    keys = ("count", "size", "first_seed", "done")
    info = read_json(folder / "scenes.json", keys)
    if any(type(info[key]) is not int or info[key] < 0 for key in keys):
        raise CheckpointError(
            f"{folder / 'scenes.json'}: {', '.join(keys)} must be whole numbers; remove {folder} "
            "and render the scenes again"
        )
    return info


def _read_captions(folder: Path, count: int) -> list[str]:
    """The first `count` captions. Raises: CheckpointError when there are fewer, or other things."""
    path = folder / "captions.json"
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
            raise ValueError("it is no list of texts")
        if len(captions) < count:
            raise ValueError(f"it has {len(captions)} captions of {count} scenes")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove {folder} and render the scenes again"
        ) from None
    return captions[:count]
