"""A training small enough to be run again and again, and killed; also a program of its own.

feature_runs.py two ROOT: the training in two processes; writes ROOT/two.pt
feature_runs.py killed ROOT: the training, dying five times, each time at a later moment

Processes are forked here, from a parent that has not trained: torch's threads do not live through a
fork.
"""

import importlib.util
import itertools
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

if "jodi_pack" not in sys.modules:
    ROOT = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "jodi_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["jodi_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["jodi_pack"])

from jodi_pack.jodi_core.model.config import TransformerConfig
from jodi_pack.jodi_core.model.transformer import init_weights
from jodi_pack.jodi_core.text import TextFeatures
from jodi_pack.jodi_core.training.config import UpdateConfig
from jodi_pack.jodi_core.training.features import FeatureStore
from jodi_pack.jodi_core.training.network import TrainedJodi
from jodi_pack.jodi_core.training.reading import Bins
from jodi_pack.jodi_core.training.records import scan
from jodi_pack.jodi_core.training.role_sampling import draw_published
from jodi_pack.jodi_core.training.task import FeatureTask
from jodi_pack.kit.pictures.files import save_png
from jodi_pack.kit.training import distributed
from jodi_pack.kit.training.loop import LoopSettings, run_training
from jodi_pack.kit.training.saves import Saves
from jodi_pack.kit.training.shards import Shards, let_go

NAMES = ("image", "depth", "normal")
SMALL = TransformerConfig(
    hidden_size=16, depth=2, cross_attention_heads=2, caption_channels=6, caption_length=4,
    linear_head_dim=8, num_labels=2, latent_channels=3, frequency_size=8,
)  # fmt: skip


class Letters:
    """Text features from letters: small, and different for different texts."""

    channels, caption_length, name, stored = 6, 4, "letters", torch.float32

    def __call__(self, prompts):
        rows = torch.zeros(len(prompts), 1, 4, 6)
        mask = torch.zeros(len(prompts), 4, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            codes = [7, *prompt.encode()][:4]
            for j, code in enumerate(codes):
                rows[i, 0, j] = torch.sin(torch.arange(6) * code / 10.0)
            mask[i, : len(codes)] = 1
        return TextFeatures(rows, mask)


def shrink(pictures):
    """Latents of a made-up autoencoder: means of 8 x 8 pixels."""
    return torch.nn.functional.avg_pool2d(pictures, 8)


def make_folder(folder, count=6):
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        size = (32, 32) if i % 3 else (32, 48)
        picture = torch.rand(3, *size, generator=generator)
        save_png(folder / f"p{i}.png", picture)
        (folder / f"p{i}.txt").write_text(f"thing {i}")
        save_png(folder / f"normal/p{i}.png", 1 - picture)
        if i != 4:
            save_png(folder / f"depth/p{i}.png", picture.mean(0))


def make_store(root, encode=shrink):
    return FeatureStore(
        root / "features", NAMES, Bins(8, 32), encode, "shrink", Letters(), empty_pose=False
    )


def make_task(root, config, dtype=torch.float64, own=torch.float64):
    records, _ = scan(root / "data", NAMES)
    store = make_store(root)
    entries, faults = store.prepare([(record, {}) for record in records])
    assert not faults
    model = TrainedJodi(SMALL)
    init_weights(model, 3)
    with torch.no_grad():  # heads that start at zero would hide most of the network
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    model.y_embedder.y_embedding.copy_(store.null_text())
    return FeatureTask(model.to(own), store, entries, draw_published, config, seed=5, dtype=dtype)


UPDATES = UpdateConfig(
    rows=2, micro_batches=2, lr=1e-2, weight_decay=0.1, warmup=1, save_every=4, text_dropout=0.2
)


def settings(steps=10, save_every=4):
    return LoopSettings(
        steps=steps, micro_batches=2, seed=5, warmup=1, ema=0.9, save_every=save_every, log_every=2
    )


def run(root, name, steps=10, show=None, **options):
    """Train in this process, alone or as one of several; weights and losses to compare.

    show: called with the task and the update while the network has its averages.
    """
    task = make_task(root, UPDATES)
    rows = []
    mode = Shards(Saves(root / name / "saves", keep=2))

    def watch(step, ema):
        if show:
            with task.averaged(ema):
                show(task, step)

    loop = settings(steps, **options)
    run_training(task, root / name, loop, rows.append, mode=mode, watch=watch)
    return task, rows


def sampled(task):
    """One evaluation as sampling makes it, which calls other methods than `forward`."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 3, 4, 4, generator=generator).double()
    caption = torch.randn(1, 1, 4, 6, generator=generator).double()
    with torch.no_grad():
        role = torch.tensor([[0, 0, 2]])
        context = task.network.prepare(role, caption, None, None, like=x)
        return task.network.velocities(x, 0.5, context)[0]


def _forked(work, *arguments) -> int:
    """The process id of a child that does some work."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        status = 1
        try:
            work(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()  # nothing else would: the child leaves without python's ending
        finally:
            os._exit(status)
    return child


def _one_of_two(rank, root):
    meeting = (root / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    task, rows = run(root, "two", show=lambda task, _: sampled(task))
    made = sampled(task)
    let_go(task.model)
    state = {name: p.full_tensor() for name, p in task.model.named_parameters()}
    if distributed.is_first():
        torch.save({"state": state, "rows": rows, "sampled": made}, root / "two.pt")
    dist.barrier()


def two(root):
    children = [_forked(_one_of_two, rank, root) for rank in (0, 1)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def _run_killed(root, moment):
    """Train, and die at the given call of those that put files on the disk and name them."""
    calls = itertools.count(1)

    def dying(real, *, before):
        def call(*args, **options):
            now = next(calls) == moment
            if now and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **options)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    os.fsync = dying(os.fsync, before=True)
    os.replace = dying(os.replace, before=False)
    run(root, "killed", steps=5, save_every=1)


def killed(root):
    for moment in (2, 5, 6, 9, 12):
        status = os.waitpid(_forked(_run_killed, root, moment), 0)[1]
        assert os.WTERMSIG(status) == signal.SIGKILL, (moment, status)


if __name__ == "__main__":
    {"two": two, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
