"""What a new domain costs: updates, parameters, seconds, how well it is made, what is forgotten.

python docs/experiments/extending.py --to runs/extending --pictures 250 --updates 100

The built-in model learns maps of rendered scenes that it has never seen, by `jodi extend`'s own
code and defaults. Errors are of scenes of evaluation seeds, in one evaluation from the picture:
mean absolute differences in [0, 1]. The baseline is the mean of the training maps, place by place.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from comfyui_jodi.cli.extend import make_config
from comfyui_jodi.cli.main import build_parser
from comfyui_jodi.jodi_core.domains import DOMAIN_NAMES
from comfyui_jodi.jodi_core.embedded import AUTOENCODER, TEXT_ENCODER, TRANSFORMER
from comfyui_jodi.jodi_core.pipeline import JodiPipeline
from comfyui_jodi.jodi_core.training.from_config import prepare_training
from comfyui_jodi.jodi_core.training.teach_domain import BASE, Extension, load_extended, teach
from comfyui_jodi.jodi_core.training.texts import WordReader
from comfyui_jodi.kit.pictures.files import load_image
from comfyui_jodi.kit.scenes.folder import EXTRA, write_folder
from comfyui_jodi.kit.scenes.render import (
    check_evaluation_seeds,
    check_training_seeds,
    render_scenes,
)
from torch import Tensor

FIRST_SEED = 4_000_000
"""Of the training pictures: the built-in model has not seen them."""


def learn(
    folder: Path, data: Path, domain: str, form: str, updates: int, options: Sequence[str] = ()
) -> dict:
    """One run of `jodi extend`: what was added and what it took; the model's file."""
    command = ["extend", "--domain", domain, "--data", str(data), "--form", form]
    command += ["--to", str(folder), "--updates", str(updates), "--device", "cpu", *options]
    args = build_parser().parse_args(command)
    extension = Extension(args.domain, args.like, args.form, args.replay)
    config, text = make_config(args), WordReader(TEXT_ENCODER)
    start = load_extended(config, text, "cpu", extension)
    began = time.process_time()
    prepared = prepare_training(config, text, "cpu", start=start)
    ready = time.process_time()
    paths, added = teach(prepared, extension, "cpu")
    return {
        "domain": domain,
        "form": form,
        "pictures": len(prepared.entries),
        "updates": updates,
        "options": list(options),
        "rows": config.training.rows * config.training.micro_batches,
        "prepare_seconds": round(ready - began, 1),
        "seconds": round(time.process_time() - ready, 1),
        "trained": added.trained,
        "adapters": added.adapters,
        "adapter_share": added.adapter_share,
        "model": str(paths["model"]),
    }


def measure_new_error(pipeline: JodiPipeline, domain: str, scenes: int) -> float:
    """Mean absolute error of the new domain, made from the picture."""
    batch = render_scenes(check_evaluation_seeds(1 << 24, scenes), 64)
    wanted = EXTRA[domain](batch)
    seeds = list(range(scenes))
    made = pipeline.perceive(batch.pictures[:, 0], [domain], seed=seeds).pictures[domain]
    return float((made - wanted).abs().mean())


def measure_baseline(data: Path, domain: str, scenes: int) -> float:
    """The same of the mean training map."""
    maps = [load_image(path)[0][0] for path in sorted((data / domain).glob("*.png"))]
    mean: Tensor = torch.stack(maps).mean(0)
    wanted = EXTRA[domain](render_scenes(check_evaluation_seeds(1 << 24, scenes), 64))
    return float((mean - wanted).abs().mean())


def measure_old_errors(pipeline: JodiPipeline, scenes: int) -> dict[str, float]:
    """The same of each label that the model knew before, each made alone."""
    batch = render_scenes(check_evaluation_seeds(1 << 24, scenes), 64)
    seeds, errors = list(range(scenes)), {}
    for index, name in enumerate(DOMAIN_NAMES[1:], 1):
        made = pipeline.perceive(batch.pictures[:, 0], [name], seed=seeds).pictures[name]
        errors[name] = float((made - batch.pictures[:, index]).abs().mean())
    return errors


def compare(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """By how much each error grew, as a share of what it was."""
    return {name: after[name] / error - 1 for name, error in before.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=250)
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument("--scenes", type=int, default=48, help="of the evaluation")
    parser.add_argument("--runs", default="shading:head,shading:lora,shading:full,roughness:lora")
    parser.add_argument("--option", action="append", default=[], help="more of `jodi extend`")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    before = measure_old_errors(JodiPipeline.from_files(TRANSFORMER, AUTOENCODER), args.scenes)
    found: dict = {"old": before, "runs": []}
    for run in args.runs.split(","):
        domain, form = run.split(":")
        data = args.to / f"data-{domain}"
        seeds = check_training_seeds(FIRST_SEED, args.pictures)
        write_folder(data, seeds, 64, DOMAIN_NAMES, extra=[domain])
        row = learn(args.to / f"{domain}-{form}", data, domain, form, args.updates, args.option)
        pipeline = JodiPipeline.from_files(row["model"], AUTOENCODER)
        row["error"] = measure_new_error(pipeline, domain, args.scenes)
        row["baseline"] = measure_baseline(data, domain, args.scenes)
        row["share"] = row["error"] / row["baseline"]
        row["old"] = measure_old_errors(pipeline, args.scenes)
        row["forgotten"] = compare(row["old"], before)
        base = args.to / f"{domain}-{form}" / BASE
        if base.exists():  # the same model without its adapters
            old = measure_old_errors(JodiPipeline.from_files(base, AUTOENCODER), args.scenes)
            row["forgotten_without_adapters"] = compare(old, before)
        found["runs"].append(row)
        (args.to / "found.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps({k: v for k, v in row.items() if k != "old"}), flush=True)


if __name__ == "__main__":
    main()
