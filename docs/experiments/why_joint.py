"""Why one joint model? It, seven models of one label each, and a chain, at equal training compute.

python docs/experiments/why_joint.py --run runs/nano --to runs/why-joint --minutes 4

Every party has the same floating-point operations of training in all, from random weights, on the
same latents: `joint` one model in all roles; `single` seven models of a label from the picture;
`chain` a model of the picture from text, and one of all labels from the picture. Run it again and
it goes on where it was stopped. found.json holds the scores of every scene, and the tests.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comfyui_jodi.jodi_core.domains import DOMAIN_NAMES
from comfyui_jodi.jodi_core.evaluation.joint import ConsistencyTally
from comfyui_jodi.jodi_core.evaluation.reading import ReadingTally
from comfyui_jodi.jodi_core.evaluation.scores import Tally, make_tally
from comfyui_jodi.jodi_core.model.config import TransformerConfig
from comfyui_jodi.jodi_core.model.transformer import JodiTransformer, init_weights
from comfyui_jodi.jodi_core.pipeline import JodiPipeline
from comfyui_jodi.jodi_core.roles import Role
from comfyui_jodi.jodi_core.training.fit_init import fit_init
from comfyui_jodi.jodi_core.training.role_sampling import sample_roles
from comfyui_jodi.jodi_core.training.run import TrainingRun, write_json
from comfyui_jodi.jodi_core.training.transformer import DrawTask, RoleSwitchTask, TrainingSettings
from comfyui_jodi.kit.autoencoder.checkpoint import load_autoencoder
from comfyui_jodi.kit.files import read_json
from comfyui_jodi.kit.memory import measure_peak_memory
from comfyui_jodi.kit.reader.reader import load_reader
from comfyui_jodi.kit.scenes.render import (
    TRAIN_SEED_END,
    SceneBatch,
    check_evaluation_seeds,
    render_scenes,
)
from comfyui_jodi.kit.training.flops import count_flops
from comfyui_jodi.kit.training.loop import run_training
from safetensors.torch import load_file, save_file
from torch import Tensor
from why_joint_tables import compare, show

LABELS = DOMAIN_NAMES[1:]
SIZES = {"hidden_size": 96, "depth": 2, "cross_attention_heads": 3, "linear_head_dim": 96}
TOKENS = 1024  # of a micro-batch, which has one pattern of roles
MICRO_BATCHES = {"joint": 2, "chain.labels": 2}
"""Of an update, where there is more than one pattern; elsewhere 1, which gives more updates."""
FLOP_BATCHES = 64  # over which the cost of a task with many roles is averaged
CONTROL_STEPS = 20
FACTS = {"trained_roles": "any", "native_size": "64", "guidance": "3", "perception_steps": "1"}

Maps = dict[str, Tensor]


def draw_labels(rng: np.random.Generator, num_labels: int, first: bool):
    """Some labels of the picture, as the joint training draws them."""
    while True:
        task, roles = sample_roles(rng, num_labels, True)
        if task == "perception":
            return task, roles


def draw_one(*given: Role) -> DrawTask:
    """The same roles always."""
    return lambda rng, num_labels, first: ("one", tuple(int(role) for role in given))


def list_members() -> dict[str, tuple[DrawTask, float]]:
    """Every model: what it trains, and its share of a party's compute."""
    generate, condition, ignore = Role.GENERATE, Role.CONDITION, Role.IGNORE
    members: dict[str, tuple[DrawTask, float]] = {"joint": (sample_roles, 1.0)}
    for label in LABELS:
        others = (generate if name == label else ignore for name in LABELS)
        members[f"single.{label}"] = (draw_one(condition, *others), 1 / len(LABELS))
    members["chain.picture"] = (draw_one(generate, *(ignore,) * len(LABELS)), 0.5)
    members["chain.labels"] = (draw_labels, 0.5)
    return members


@dataclass
class Experiment:
    """The run that is trained on, the folder of results, and what was planned."""

    run: TrainingRun
    to: Path

    def __post_init__(self):
        store = self.run.store()
        self.captions, self.text = store.captions, self.run.text_encoder()
        self.latents = self.run.encode(store, self.run.vae)

    def make_task(self, name: str, seed: int, updates: int = 1) -> RoleSwitchTask:
        config = TransformerConfig(
            caption_channels=self.text.channels,
            caption_length=self.text.caption_length,
            latent_channels=self.latents.shape[2],
            **SIZES,
        )
        model = JodiTransformer(config)
        init_weights(model, seed)
        fit_init(model, self.latents, seed)
        with torch.no_grad():
            model.y_embedder.y_embedding.copy_(self.text([""]).caption[0, 0])
        settings = TrainingSettings(
            steps=updates,
            tokens=TOKENS,
            micro_batches=MICRO_BATCHES.get(name, 1),
            seed=seed,
            warmup=max(10, updates // 12),
            ema=0.99,
            save_every=100,
            log_every=25,
        )
        draw = list_members()[name][0]
        return RoleSwitchTask(
            model.train(), self.latents, self.captions, self.text, settings, "cpu", draw
        )

    def plan(self, minutes: float) -> dict:
        """Updates of every model: as many as give each party the joint one's operations, which
        takes about so many minutes. Made once."""
        path = self.to / "plan.json"
        if path.exists():
            return read_json(path)
        costs = {}
        for name in list_members():
            batches = FLOP_BATCHES if name in ("joint", "chain.labels") else 2
            costs[name] = count_flops(self.make_task(name, 0), batches)
            costs[name] *= MICRO_BATCHES.get(name, 1)
        task = self.make_task("joint", 0)
        begun, tried = time.process_time(), 40
        for index in range(tried):
            task.losses(np.random.default_rng((1, 0, index)), 0.5).mean.backward()
        an_update = (time.process_time() - begun) / tried * MICRO_BATCHES["joint"]
        total = 60 * minutes / an_update * costs["joint"]
        updates = {n: round(total * share / costs[n]) for n, (_, share) in list_members().items()}
        write_json(path, {"minutes": minutes, "flops_of_update": costs, "updates": updates})
        return read_json(path)

    def train(self, name: str, seed: int, updates: int) -> None:
        """Train one model, unless its file is there."""
        folder = self.to / f"seed{seed}" / name
        target = folder / "model.safetensors"
        if target.exists():
            return
        task = self.make_task(name, seed, updates)
        begun = time.process_time()
        run_training(task, folder, task.settings.loop())
        save_file(task.model.state_dict(), target)
        (folder / "state.pt").unlink(missing_ok=True)
        print(f"{target}: {updates} updates, {time.process_time() - begun:.0f} s", flush=True)

    def load(self, name: str, seed: int) -> JodiPipeline:
        model = self.make_task(name, 0).model
        model.load_state_dict(load_file(self.to / f"seed{seed}" / name / "model.safetensors"))
        autoencoder, _ = load_autoencoder(self.run.vae, device="cpu", dtype=torch.float32)
        metadata = {**FACTS, "title": name}
        return JodiPipeline(model.eval().requires_grad_(False), autoencoder, self.text, metadata)


class Parties:
    """The three parties of one seed, and what each makes; process seconds of what it did last."""

    def __init__(self, experiment: Experiment, seed: int, names: Sequence[str]):
        self.models = {name: experiment.load(name, seed) for name in names}

    def perceive_alone(self, model: str, image: Tensor, seeds: list[int]) -> Maps:
        """Each label in a run of its own; `single` asks the label's own model."""
        made = {}
        for label in LABELS:
            asked = self.models[f"single.{label}" if model == "single" else model]
            made |= asked.perceive(image, [label], guidance=1.0, seed=seeds).pictures
        return made

    def perceive_together(self, model: str, image: Tensor, seeds: list[int]) -> Maps:
        return self.models[model].perceive(image, LABELS, guidance=1.0, seed=seeds).pictures

    def draw(self, model: str, captions: list[str], labels, seeds: list[int]) -> Maps:
        """The picture, and labels, from captions."""
        return (
            self.models[model]
            .generate(captions, labels, size=(64, 64), steps=CONTROL_STEPS, seed=seeds)
            .pictures
        )

    def makers(self, image: Tensor, captions: list[str], seeds: list[int]):
        """What is compared, by name: from the true picture, and from the caption."""
        alone, together = self.perceive_alone, self.perceive_together

        def chain(then: Callable, model: str) -> Maps:
            picture = self.draw("chain.picture", captions, (), seeds)["image"]
            return {**then(model, picture, seeds), "image": picture}

        return {
            "alone.joint": lambda: alone("joint", image, seeds),
            "alone.single": lambda: alone("single", image, seeds),
            "alone.chain": lambda: alone("chain.labels", image, seeds),
            "together.joint": lambda: together("joint", image, seeds),
            "together.chain": lambda: together("chain.labels", image, seeds),
            "drawn.joint": lambda: self.draw("joint", captions, LABELS, seeds),
            "drawn.chain": lambda: chain(together, "chain.labels"),
            "drawn.single": lambda: chain(alone, "single"),
        }


def score(experiment: Experiment, seed: int, scenes: int, chunk: int = 32) -> dict:
    """Scores of every scene, by what made the maps and measure; pooled ones; seconds a scene."""
    path = experiment.to / f"seed{seed}" / "scores.json"
    if path.exists():
        return read_json(path)
    parties, reader = Parties(experiment, seed, list(list_members())), load_reader()
    tallies: dict[str, dict[str, Tally]] = {}
    seconds: dict[str, float] = {}
    for start in range(0, scenes, chunk):
        seeds = list(check_evaluation_seeds(TRAIN_SEED_END + start, min(chunk, scenes - start)))
        truth = render_scenes(seeds, 64)
        makers = parties.makers(truth.pictures[:, 0], truth.captions, seeds)
        for what, make in makers.items():
            begun = time.process_time()
            made = make()
            seconds[what] = seconds.get(what, 0.0) + time.process_time() - begun
            own = tallies.setdefault(what, _tallies(what, reader))
            _add({"image": truth.pictures[:, 0], **made}, truth, own)
        print(f"seed {seed}: {start + len(seeds)} scenes scored", flush=True)
    found = {
        "each": {w: {k: v.tolist() for k, v in _each(own).items()} for w, own in tallies.items()},
        "pooled": {w: _pooled(own) for w, own in tallies.items()},
        "seconds": {what: spent / scenes for what, spent in seconds.items()},
    }
    write_json(path, found)
    return read_json(path)


def _tallies(what: str, reader) -> dict[str, Tally]:
    fit: dict[str, Tally] = {"fit": ConsistencyTally()}
    if what.startswith("drawn"):
        return {**fit, "read": ReadingTally(reader)}
    return {**fit, **{label: make_tally(label) for label in LABELS}}


def _add(maps: Maps, truth: SceneBatch, own: dict[str, Tally]) -> None:
    for name, tally in own.items():
        if isinstance(tally, ConsistencyTally):
            tally.add_maps(maps, truth.captions)
        elif isinstance(tally, ReadingTally):
            tally.add_pictures(maps["image"], truth.captions)
        else:
            tally.add(maps[name], truth)


def _each(own: dict[str, Tally]) -> dict[str, np.ndarray]:
    return {f"{n}.{m}": v for n, t in own.items() for m, v in t.each().items() if "iou." not in m}


def _pooled(own: dict[str, Tally]) -> dict[str, float]:
    return {f"{n}.{m}": v for n, t in own.items() for m, v in t.values().items() if "iou." not in m}


NEEDED = {
    "joint": ["joint"],
    "single": [f"single.{label}" for label in LABELS],
    "chain": ["chain.picture", "chain.labels"],
}


def measure_party(experiment: Experiment, name: str) -> dict:
    """Process seconds of all labels of one picture, weights, and peak memory of this process."""
    parties = Parties(experiment, 0, NEEDED[name])
    image = render_scenes([TRAIN_SEED_END], 64).pictures[:, 0]
    way, asked = parties.perceive_together, {"chain": "chain.labels"}.get(name, name)
    way = parties.perceive_alone if name == "single" else way
    times = []
    for _ in range(5):
        begun = time.process_time()
        way(asked, image, [0])
        times.append(time.process_time() - begun)
    weights = sum(p.numel() for m in parties.models.values() for p in m.transformer.parameters())
    return {
        "seconds": float(np.median(times)),
        "weights": weights,
        "peak_memory_mb": measure_peak_memory("cpu"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="with scenes and latents")
    parser.add_argument("--to", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=4, help="of a party and seed, about")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=64, help="of the evaluation")
    parser.add_argument("--measure", choices=sorted(NEEDED), help="cost of one party, in a process")
    parser.add_argument("--show", action="store_true", help="print what was found, as tables")
    args = parser.parse_args(argv)
    if args.show:
        print(show(read_json(args.to / "found.json")))
        return
    torch.set_num_threads(1)
    args.to.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(TrainingRun(args.run), args.to)
    if args.measure:
        print(json.dumps(measure_party(experiment, args.measure)))
        return
    plan = experiment.plan(args.minutes)
    print(json.dumps(plan), flush=True)
    scores = []
    for seed in range(args.seeds):
        for name, updates in plan["updates"].items():
            experiment.train(name, seed, updates)
        scores.append(score(experiment, seed, args.scenes))
        found = {"plan": plan, "sizes": SIZES, "seeds": seed + 1, "compared": compare(scores)}
        found["pooled"] = [s["pooled"] for s in scores]
        found["seconds"] = [s["seconds"] for s in scores]
        write_json(args.to / "found.json", found)
    command = [sys.executable, __file__, "--run", str(args.run), "--to", str(args.to)]
    found["cost"] = {
        name: json.loads(
            subprocess.run(
                [*command, "--measure", name], check=True, capture_output=True, text=True
            ).stdout
        )
        for name in NEEDED
    }
    write_json(args.to / "found.json", found)


if __name__ == "__main__":
    main()
