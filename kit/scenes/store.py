"""Rendered scenes and their latents on disk, so that an epoch costs no rendering."""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import JodiError
from ..files import write_text
from .render import check_training_seeds, render_scenes

Progress = Callable[[int, int], None]


class SceneStore:
    """Pictures (N, 8, 3, H, W) uint8 and captions of training scenes, in one folder.

    `build` continues where an earlier one was stopped. Scene i is that of seed `first_seed` + i.
    """

    def __init__(self, folder: Path):
        info = json.loads((folder / "scenes.json").read_text())
        if info["done"] < info["count"]:
            raise JodiError(
                f"{folder} holds {info['done']} of {info['count']} scenes; run the rendering again "
                "to finish it"
            )
        self.folder, self.size, self.first_seed = folder, info["size"], info["first_seed"]
        # Copy on write: torch asks for writable memory, although nothing writes to it.
        self.pictures = np.load(folder / "pictures.npy", mmap_mode="c")
        self.captions: list[str] = json.loads((folder / "captions.json").read_text())

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
            old = json.loads(info_path.read_text())
            if {**old, "done": 0} != info:
                raise JodiError(
                    f"{folder} was made with {old}, not {info}; use another folder or remove it"
                )
            info = old
            # A kill between the two files leaves captions of scenes that will be rendered again.
            captions = json.loads((folder / "captions.json").read_text())[: info["done"]]
        mode = "r+" if info["done"] else "w+"
        pictures = np.lib.format.open_memmap(
            folder / "pictures.npy", mode, np.uint8, (count, 8, 3, size, size)
        )
        seeds = check_training_seeds(first_seed, count)
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
        return torch.from_numpy(np.load(path, mmap_mode="c"))
    config = autoencoder.config
    cells = store.size // config.factor
    shape = (len(store), 8, config.latent_channels, cells, cells)
    partial = path.with_suffix(".partial.npy")
    latents = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
    with torch.inference_mode():
        for start in range(0, len(store), batch):
            pictures = torch.from_numpy(store.pictures[start : start + batch])
            x = pictures.flatten(0, 1).float() / 127.5 - 1
            z = autoencoder.encode(x)
            latents[start : start + batch] = z.unflatten(0, (-1, 8)).half().numpy()
            if progress:
                progress(min(start + batch, len(store)), len(store))
    latents.flush()
    partial.rename(path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))
