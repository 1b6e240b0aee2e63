"""Are the labels that a server saves any good? Scenes with exact labels, seen by no training.

As `jodi evaluate` does it: each label alone, 10 steps, row i with its scene's seed as noise seed.
The bars lie a little on the worse side of the model card's figures for 512 scenes, since few scenes
scatter more, and well on the better side of what needs no model (the last column).
"""

import functools

import pytest
from jodi_pack.jodi_core.evaluation.scores import make_tally
from jodi_pack.jodi_core.picture_files import save_png
from jodi_pack.jodi_core.training.scenes import TRAIN_SEED_END, evaluation_seeds, render_scenes
from jodi_pack.tests.host.graphs import add, changed, find, only, picture_batch, pictures, read

pytestmark = pytest.mark.comfyui
SCENES = 12
BARS = {  # label: (measure, bar, whether more is better); the card's figure, without a model
    "depth": ("absrel", 0.28, False),  # 0.224, 0.423
    "normal": ("mean_deg", 25.0, False),  # 20.9, 49.8
    "albedo": ("psnr", 19.8, True),  # 21.0, 18.8
    "segmentation": ("miou", 0.40, True),  # 0.473, 0.032
}


@functools.cache
def scenes():
    return render_scenes(list(evaluation_seeds(TRAIN_SEED_END, SCENES)), 64)


@pytest.fixture(scope="module")
def saved(server, tmp_path_factory) -> dict:
    """Labels of all scenes by name, (B, 3, H, W), from one graph with a sampler for each label."""
    folder = tmp_path_factory.mktemp("scenes")
    for i, picture in enumerate(scenes().pictures[:, 0]):
        save_png(folder / f"scene{i:02}.png", picture)
    graph = read("perceive_everything")
    batch = picture_batch(graph, [server.upload(file) for file in sorted(folder.iterdir())])
    roles = find(graph, "JodiRoles", "Jodi Roles: image in, labels out")
    graph = changed(graph, roles, image=[batch, 0])
    loader, ends = graph[roles]["inputs"]["model"][0], {}
    for name in BARS:
        job = add(graph, "JodiRoles", **graph[roles]["inputs"] | {f"{name}_role": "generate"})
        wires = {"positive": [job, 0], "negative": [job, 1], "latent_image": [job, 2]}
        settings = {"seed": TRAIN_SEED_END, "steps": 0, "cfg": 0.0}
        made = add(graph, "JodiSampler", model=[loader, 0], **wires, **settings)
        label = {"latent": [made, 0], "vae": [loader, 2], "domain": name}
        decoded = add(graph, "JodiDecodeLabel", **label)
        ends[name] = add(graph, "SaveImage", images=[decoded, 0], filename_prefix=f"test/{name}")
    run = server.run(only(graph, *ends.values()))
    return {name: pictures(server, run, node) for name, node in ends.items()}


@pytest.mark.parametrize("name", BARS)
def test_labels_are_as_good_as_evaluated(saved, name):
    tally = make_tally(name)
    tally.add(saved[name], scenes())
    measure, bar, more = BARS[name]
    value = tally.values()[measure]
    assert (value >= bar) if more else (value <= bar), f"{name} {measure} {value:.3f}, bar {bar}"
