"""Latents and text features of training pictures on disk, made once.

A record has one file, which says what it was made from: the stamps of its pictures, its captions,
the autoencoder and the text encoder. A file made from anything else is made again, so a stopped
preparation goes on where it was, and a picture that was changed is never trained on as it was.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...kit.errors import JodiError
from ...kit.training import distributed
from ...kit.weights.write import write_state_dict
from .reading import Bins, read_record, read_stamps
from .records import Fault, Record, weigh_captions
from .texts import TextReader

Progress = Callable[[int, int], None]
Encode = Callable[[Tensor], Tensor]
_LATENT, _TEXT = "latent.", "text."


@dataclass(frozen=True)
class Features:
    """One record. latents (z, h, w) float32 by domain; texts (S, Cc) by captioner, of the tokens
    that are read; shares: how often each is taken.
    """

    latents: dict[str, Tensor]
    texts: dict[str, Tensor]


@dataclass(frozen=True)
class Entry:
    """A record whose features are there. shares: how often each captioner's text is taken."""

    path: Path
    made_from: str
    grid: tuple[int, int]
    names: tuple[str, ...]
    shares: Mapping[str, float]


class FeatureStore:
    """The features of records under one autoencoder and one text encoder.

    encode: pictures (B, 3, H, W) in [-1, 1] -> scaled latents (B, z, h, w). vae: tells the
    autoencoder from others, its file's checksum for example.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        bins: Bins,
        encode: Encode,
        vae: str,
        text: TextReader,
        *,
        empty_pose: bool = True,
    ):
        self.folder, self.names, self.bins = folder, tuple(names), bins
        self.encode, self.vae, self.text, self.empty_pose = encode, vae, text, empty_pose

    def prepare(
        self,
        records: Sequence[tuple[Record, Mapping[str, float]]],
        progress: Progress | None = None,
    ) -> tuple[list[Entry], list[Fault]]:
        """Make what is missing; the entries in the order of the records, and what was left out.

        records: each with the weights of its captioners (see `weigh_captions`). Several processes
        share the work. Raises: CheckpointError when the disk is full.
        """
        rank, world = distributed.place()
        mine: list[tuple[int, Entry | Fault]] = []
        own = range(rank, len(records), world)
        for done, index in enumerate(own, 1):
            record, wanted = records[index]
            try:
                mine.append((index, self._entry(record, wanted)))
            except JodiError as error:
                mine.append((index, Fault(record.place, str(error))))
            if progress:
                progress(done, len(own))
        found = [item for part in distributed.gather(mine) for item in part]
        found = [item for _, item in sorted(found, key=lambda pair: pair[0])]
        entries = [item for item in found if isinstance(item, Entry)]
        return entries, [item for item in found if isinstance(item, Fault)]

    def load(self, entry: Entry) -> Features:
        """The features of an entry. Raises: JodiError when the file was changed since."""
        try:
            with safe_open(entry.path, "pt") as file:
                if file.metadata().get("made_from") != entry.made_from:
                    raise JodiError(
                        f"{entry.path} was made again by another run; run this one alone"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise JodiError(
                f"{entry.path} cannot be read ({error}); remove it, and run again to make it anew"
            ) from None
        return Features(
            {n.removeprefix(_LATENT): t.float() for n, t in tensors.items() if _LATENT in n},
            {n.removeprefix(_TEXT): t.float() for n, t in tensors.items() if _TEXT in n},
        )

    def null_text(self) -> Tensor:
        """Features of the empty prompt (S, Cc), as the network knows "no text"."""
        return self.text([""]).caption[0, 0].float()

    def _entry(self, record: Record, wanted: Mapping[str, float]) -> Entry:
        shares = weigh_captions(record, wanted)
        made_from = self._made_from(record, shares)
        path = self._path(record)
        header = _header(path)
        if header is None or header.get("made_from") != made_from:
            header = self._make(record, shares, path, made_from)
        names, grid = json.loads(header["names"]), json.loads(header["grid"])
        return Entry(path, made_from, (grid[0], grid[1]), tuple(names), shares)

    def _made_from(self, record: Record, shares: Mapping[str, float]) -> str:
        facts = {
            "files": {name: list(found) for name, found in read_stamps(record).items()},
            "texts": {name: record.captions[name] for name in sorted(shares)},
            "size": record.size,
            "bins": [self.bins.factor, self.bins.side],
            "empty_pose": self.empty_pose,
            "vae": self.vae,
            "text": self.text.name,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _path(self, record: Record) -> Path:
        # Labels count: one picture may stand in two folders with other labels.
        key = "\n".join(str(path.absolute()) for path in record.files.values())
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"

    @torch.inference_mode()
    def _make(self, record: Record, shares, path: Path, made_from: str) -> dict[str, str]:
        pictures = read_record(record, self.bins, self.names, empty_pose=self.empty_pose)
        latents = self.encode(torch.stack(list(pictures.values()))).float().cpu()
        if not latents.isfinite().all() or latents.abs().max() > 60000:
            raise JodiError("its latents are not finite; check the picture and the autoencoder")
        tensors = {f"{_LATENT}{n}": z.half() for n, z in zip(pictures, latents, strict=True)}
        if shares:
            features = self.text([record.captions[name] for name in shares])
            for name, text, mask in zip(shares, features.caption, features.mask, strict=True):
                tensors[f"{_TEXT}{name}"] = text[0][mask > 0].to(self.text.stored).cpu()
        header = {
            "made_from": made_from,
            "names": json.dumps(list(pictures)),
            "grid": json.dumps(list(latents.shape[-2:])),
            "place": record.place,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_state_dict(path, tensors, header, force=True)
        return header


def _header(path: Path) -> dict[str, str] | None:
    """What a file of features says of itself; None where there is none that can be read."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata()
    except (OSError, SafetensorError):
        return None
