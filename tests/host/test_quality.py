"""Is what a server saves any good? Scenes with exact labels, seen by no training.

As `jodi evaluate` does it: each label alone, 10 steps, and the image from all seven labels, 20
steps without guidance; but for the captions, which the image hardly needs then. The bars lie on the
worse side of the model card's figures for 512 scenes, since few scenes scatter more, and well on
the better side of what needs no model (the last column). Openpose is left out: the built-in model
is at its baseline there (PCK 0.047, zero effort 0.100), so there is no bar between the two.

KSampler draws the host's noise and takes the host's solvers; it is held to the same bars.
"""

import functools

import pytest
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.evaluation.scores import make_tally
from jodi_pack.kit.pictures.files import save_png
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, check_evaluation_seeds, render_scenes
from jodi_pack.tests.host.graphs import add, changed, find, only, picture_batch, pictures, read

pytestmark = pytest.mark.comfyui
SCENES = 12
BARS = {  # domain: (measure, bar, whether more is better); the card's figure, without a model
    "depth": ("absrel", 0.28, False),  # 0.224, 0.423
    "normal": ("mean_deg", 25.0, False),  # 20.9, 49.8
    "albedo": ("psnr", 19.8, True),  # 21.0, 18.8
    "segmentation": ("miou", 0.40, True),  # 0.473, 0.032
    "edge": ("f", 0.60, True),  # 0.663, 0.394
    "lineart": ("f", 0.60, True),  # 0.654, 0.415
    "image": ("psnr", 20.0, True),  # 21.4, 18.8 (a copy of the albedo)
}
HOST_STEPS = 20  # of KSampler, on the schedule `simple`
CASES = [("JodiSampler", name) for name in BARS]
CASES += [("euler", "depth"), ("euler", "normal"), ("euler", "image"), ("dpmpp_2m", "normal")]


@functools.cache
def scenes():
    return render_scenes(list(check_evaluation_seeds(TRAIN_SEED_END, SCENES)), 64)


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory) -> tuple[dict, dict]:
    """A graph that loads all domains of all scenes, and the node of each domain by name."""
    folder = tmp_path_factory.mktemp("scenes")
    for i, domains in enumerate(scenes().pictures):
        for name, picture in zip(DOMAIN_NAMES, domains, strict=True):
            save_png(folder / f"{name}{i:02}.png", picture)
    graph = read("perceive_everything")
    batches = {}
    for name in DOMAIN_NAMES:
        files = [server.upload(file) for file in sorted(folder.glob(f"{name}*"))]
        batches[name] = picture_batch(graph, files)
    return graph, batches


@pytest.fixture(scope="module")
def saved(server, inputs) -> dict:
    """What every case makes of all scenes, (B, 3, H, W), from one graph with a sampler for each."""
    graph, batches = inputs
    first = find(graph, "JodiRoles", "Jodi Roles: image in, labels out")
    graph = changed(graph, first, image=None)
    settings, jobs, ends = graph[first]["inputs"], {}, {}
    for name in BARS:
        given = {n: [b, 0] for n, b in batches.items() if (n == "image") != (name == "image")}
        jobs[name] = add(graph, "JodiRoles", **settings | given | {f"{name}_role": "generate"})
    for sampler, name in CASES:
        made = _sampler(graph, sampler, jobs[name], settings["model"])
        latent = {"latent": [made, 0], "vae": settings["vae"], "domain": name}
        shown = [add(graph, "JodiDecodeLabel", **latent), 0]
        prefix = f"test/{sampler}_{name}"
        ends[sampler, name] = add(graph, "SaveImage", images=shown, filename_prefix=prefix)
    run = server.run(only(graph, *ends.values()))
    return {case: pictures(server, run, node) for case, node in ends.items()}


def _sampler(graph: dict, sampler: str, job: str, model: list) -> str:
    wires = {"model": model, "positive": [job, 0], "negative": [job, 1], "latent_image": [job, 2]}
    if sampler == "JodiSampler":
        return add(graph, sampler, **wires, seed=TRAIN_SEED_END, steps=0, cfg=1.0)
    host = {"sampler_name": sampler, "scheduler": "simple", "steps": HOST_STEPS}
    return add(graph, "KSampler", **wires, **host, seed=TRAIN_SEED_END, cfg=1.0, denoise=1.0)


@pytest.mark.parametrize(("sampler", "name"), CASES)
def test_it_is_as_good_as_evaluated(saved, sampler, name):
    tally = make_tally(name)
    tally.add(saved[sampler, name], scenes())
    measure, bar, more = BARS[name]
    value = tally.values()[measure]
    print(f"{sampler} {name} {measure} {value:.3f}")  # shown by pytest -rP
    assert (value >= bar) if more else (value <= bar), f"{name} {measure} {value:.3f}, bar {bar}"
