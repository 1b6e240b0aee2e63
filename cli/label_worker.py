"""The part of `jodi label` that computes: in the command's own process, or in those of a cluster.

Jobs, requests and answers are plain values, so that they travel to processes that have loaded
nothing of ours yet.
"""

import functools
import json
import platform
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from ..jodi_core.embedded import AUTOENCODER, TRANSFORMER
from ..jodi_core.labelling.batch import Caption, Recipe, label_batch
from ..jodi_core.labelling.fingerprint import compute_fingerprint
from ..jodi_core.labelling.layout import OutputError, write_lines
from ..jodi_core.labelling.plan import STATE, Source, find_done, name_part, require_same
from ..jodi_core.pipeline import JodiPipeline
from ..kit.errors import JodiError, KernelError, RoleError
from .label_captions import load_captioner
from .model import load_pipeline
from .options import EMBEDDED, UsageError

BATCH, STOP = "batch", "stop"
"""What an error in an answer ends: the batch, or all work."""

OPTIONS = (
    *("model", "vae", "text_encoder", "device", "dtype", "compile"),
    *("labels", "size", "fit", "steps", "sampler", "seed", "tile", "captions"),
)


def pack_job(args, folder: Path, root: Path, begun: Mapping) -> dict:
    """What a worker must know: its options, and where the pictures and the data set lie.

    begun: the fingerprint of a data set that was begun, else empty.
    """
    options = {name: getattr(args, name) for name in OPTIONS}
    for name in ("model", "vae", "text_encoder"):
        given = options[name]
        if given not in (None, EMBEDDED, Path()) and str(given).strip():
            options[name] = str(Path(given).absolute())
    threads = begun.get("threads", 0)
    return {"options": options, "folder": str(folder), "root": str(root), "threads": threads}


def answer(
    job: Mapping,
    request: Mapping | None,
    *,
    threads: int = 0,
    goes_on: Callable[[], bool] = lambda: True,
) -> dict:
    """Do what is asked with the job's model, which is loaded once in a process.

    request: None asks for the fingerprint; else a batch, {"number": n, "sources": [...]}.
    threads: of torch where the job says none, 0 for torch's own number. The bits of results depend
    on it, so a job that was begun keeps the first one. goes_on: asked after each step; False stops
    the batch with Interrupted.
    Returns: {"fingerprint"}; or {"number", "unread"}, where the lines are in the batch's file; or
    {"number", "error", "ends"} with what the error ends, and "usage" for a wrong command line.
    """
    threads = job["threads"] or threads
    if threads and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    number = None if request is None else request["number"]
    try:
        worker = _opened(json.dumps(job["options"]))
        if request is None:
            return {"fingerprint": {**worker.fingerprint, "threads": torch.get_num_threads()}}
        return worker.label(job, request, goes_on)
    except (UsageError, JodiError, KernelError) as error:
        usage = isinstance(error, (UsageError, RoleError))
        return {"number": number, "error": str(error), "ends": STOP, "usage": usage}
    except OSError as error:
        return {"number": number, "error": str(error), "ends": STOP}
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            told = "not enough memory; try --batch 1 into a new folder, or fewer workers"
        else:
            told = f"unexpected {type(error).__name__}: {error}"
        return {"number": number, "error": told, "ends": STOP if request is None else BATCH}


class _Worker:
    """A model that is loaded, and the recipe of its labels."""

    def __init__(self, args: Namespace):
        self.pipeline: JodiPipeline = load_pipeline(args)
        labels = self.pipeline.names[1:] if args.labels in (None, ["all"]) else args.labels
        plan = self.pipeline.plan(labels, ["image"])
        self.recipe = Recipe(
            plan.generated_names,
            tuple(args.size) if isinstance(args.size, list) else args.size,
            args.fit,
            args.steps,
            args.sampler,
            args.seed,
            args.tile,
        )
        self.caption: Caption | None = None
        files = [
            Path(built_in if part in (None, EMBEDDED) else part)
            for part, built_in in ((args.model, TRANSFORMER), (args.vae, AUTOENCODER))
        ]
        captions = None
        if args.captions:
            captioner = load_captioner(self.pipeline.device)
            self.caption, captions = captioner.write, captioner.name
            files += captioner.files
        self.fingerprint = {
            **compute_fingerprint(self.pipeline, self.recipe, files),
            "compiled": args.compile,
            "captions": captions,
        }

    def label(self, job: Mapping, request: Mapping, goes_on: Callable[[], bool]) -> dict:
        folder, root, number = Path(job["folder"]), Path(job["root"]), request["number"]
        self._check(job, folder, root)
        batch = tuple(Source(**source) for source in request["sources"])
        before = find_done(root, self.recipe.labels, number, batch, {})
        if len(before) == len(batch):
            # its answer was lost on the way, with the worker that gave it
            return {"number": number, "unread": {}}
        lines, unread = label_batch(
            self.pipeline,
            self.recipe,
            folder,
            root,
            batch,
            caption=self.caption,
            callback=lambda info: goes_on(),
        )
        if unread and not folder.is_dir():
            raise OutputError(f"the folder {folder} is gone; bring it back")
        # the labels of a picture that is gone stay what they are
        kept = [line for file, line in before.items() if file in unread]
        write_lines(name_part(root, number), [*kept, *lines])
        return {"number": number, "unread": unread}

    def _check(self, job: Mapping, folder: Path, root: Path) -> None:
        """Raises: OutputError where this machine sees other files than the one that asks."""
        here = f"on {platform.node()}"
        for place, what in ((folder, "folder of pictures"), (root / STATE, "data set's list")):
            if not place.exists():
                raise OutputError(
                    f"the {what}, {place}, is not there {here}; all machines of a cluster need it "
                    "at one place"
                )
        begun = {key: job["fingerprint"].get(key) for key in self.fingerprint}
        require_same(root, begun, self.fingerprint)


@functools.lru_cache(maxsize=1)
def _opened(options: str) -> _Worker:
    """The worker of these options; a job of others takes its place."""
    return _Worker(Namespace(**json.loads(options)))
