"""What a real server does with the pack: its nodes, wrong wiring, wrong files, Cancel."""

import io
import itertools
import json
import threading
import time
import urllib.parse

import pytest
from jodi_pack.jodi_core.embedded import ASSETS, AUTOENCODER, TRANSFORMER
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.host.graphs import NAMES, Latents, add, changed, find, only, read
from jodi_pack.tests.host.server import FailedError, RefusedError
from jodi_pack.tests.hosts import ROOT
from PIL import Image

pytestmark = pytest.mark.comfyui
NODES = {
    "JodiLoad",
    "JodiLoadModel",
    "JodiLoadVAE",
    "JodiLoadTextEncoder",
    "JodiTextEncode",
    "JodiRoles",
    "JodiExtraDomain",
    "JodiSampler",
    "JodiSamplerSelect",
    "JodiScheduler",
    "JodiDecodeLabel",
    "JodiDecodeAll",
    "JodiDepth",
    "JodiNormal",
    "JodiSegmentation",
    "JodiContactSheet",
    "JodiEnsemble",
}


@pytest.fixture
def perception(server):
    """Load Image -> Roles -> Sampler -> depth, four steps: (graph, ids by role)."""
    graph = {}
    picture = server.upload(ASSETS / "samples" / "sample2_image.png")
    ids = {"load": "1", "image": "2"}
    graph["1"] = node("JodiLoad")
    graph["2"] = node("LoadImage", image=picture)
    for name in ("model", "vae", "text_encoder"):
        graph["1"]["inputs"][name] = "built-in jodi-nano"
    graph["1"]["inputs"]["weight_dtype"] = "default"
    ids["roles"] = add(graph, "JodiRoles", model=["1", 0], vae=["1", 2], image=["2", 0])
    graph[ids["roles"]]["inputs"]["depth_role"] = "generate"
    wires = {name: [ids["roles"], i] for i, name in enumerate(("positive", "negative"))}
    wires |= {"model": ["1", 0], "latent_image": [ids["roles"], 2]}
    ids["sampler"] = add(graph, "JodiSampler", seed=3, steps=4, cfg=0.0, **wires)
    latent = {"latent": [ids["sampler"], 0], "vae": ["1", 2]}
    ids["decode"] = add(graph, "JodiDecodeLabel", domain="depth", **latent)
    ids["show"] = add(graph, "PreviewImage", images=[ids["decode"], 0])
    return graph, ids


def node(kind, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def failure(server, graph, *parts: str) -> None:
    """The graph stops with a message that holds every part, and the server lives on."""
    with pytest.raises(FailedError) as caught:
        server.run(graph)
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert server.alive()


def test_all_nodes_are_there_and_every_input_is_explained(server):
    known = server.get("/object_info")
    ours = {name: schema for name, schema in known.items() if name.startswith("Jodi")}
    assert set(ours) == NODES
    for name, schema in ours.items():
        assert schema["category"] == "Jodi" and schema["description"]
        for part in ("required", "optional"):
            for key, (_, *options) in schema["input"].get(part, {}).items():
                assert options and options[0].get("tooltip"), f"{name}.{key}"
        assert all(schema["output_tooltips"]), name
    assert "IMPORT FAILED" not in server.log_text()
    assert "could not load the Jodi nodes" not in server.log_text()


def test_wrong_wiring_is_explained_and_the_server_lives_on(server, perception):
    graph, ids = perception
    with pytest.raises(RefusedError, match="return_type_mismatch"):
        server.run(changed(graph, ids["roles"], vae=[ids["load"], 0]))
    clean = changed(graph, ids["roles"], depth_role="condition")
    failure(server, clean, "JodiRoles", "depth")
    nothing = {f"{name}_role": "ignore" for name in ("depth", "image")}
    rest = ("lineart", "edge", "normal", "albedo", "segmentation", "openpose")
    nothing |= {f"{name}_role": "ignore" for name in rest}
    failure(server, changed(graph, ids["roles"], **nothing), "JodiRoles", "generate")
    failure(server, changed(graph, ids["decode"], domain="normal"), "role is ignore", "Jodi Roles")
    varied = dict(graph)
    text = add(varied, "JodiTextEncode", clip=[ids["load"], 1], text="a tree", instruction=True)
    varied = changed(varied, ids["sampler"], positive=[text, 0], negative=[text, 0])
    failure(server, varied, "JodiSampler", "positive and negative of Jodi Roles")
    varied = dict(graph)
    empty = add(varied, "EmptyLatentImage", width=64, height=64, batch_size=1)
    varied = changed(varied, ids["sampler"], latent_image=[empty, 0])
    failure(server, varied, "third axis", "LATENT of Jodi Roles")
    assert server.run(graph).files(ids["show"])


LOADERS = {  # node: (its folder of models, its file input, other inputs)
    "JodiLoadModel": ("diffusion_models", "model", {"weight_dtype": "default"}),
    "JodiLoadVAE": ("vae", "vae", {}),
    "JodiLoadTextEncoder": ("text_encoders", "text_encoder", {}),
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


WRONG = {
    "pointer": (POINTER, "pointer"),
    "truncated": (TRANSFORMER.read_bytes()[:100_000], "truncated"),
    "transformer": (TRANSFORMER.read_bytes(), "Load Jodi Model"),
    "autoencoder": (AUTOENCODER.read_bytes(), "Load Jodi VAE"),
}
RIGHT = {("JodiLoadModel", "transformer"), ("JodiLoadVAE", "autoencoder")}


@pytest.mark.parametrize(
    ("loader", "what"), [c for c in itertools.product(LOADERS, WRONG) if c not in RIGHT]
)
def test_wrong_files_are_explained(server, perception, loader, what):
    content, explanation = WRONG[what]
    folder, entry, others = LOADERS[loader]
    file = server.folder / "models" / folder / f"wrong_{what}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    graph, ids = perception
    varied = dict(graph)
    bad = add(varied, loader, **{entry: file.name}, **others)
    if loader == "JodiLoadModel":
        varied = changed(varied, ids["roles"], model=[bad, 0])
    elif loader == "JodiLoadVAE":
        varied = changed(varied, ids["roles"], vae=[bad, 0])
    else:
        text = add(varied, "JodiTextEncode", clip=[bad, 0], text="a tree", instruction=True)
        varied = changed(varied, ids["roles"], positive=[text, 0])
    failure(server, varied, loader, file.name, explanation)


def test_weights_from_the_standard_folders_are_the_built_in_ones(server, perception):
    graph, ids = perception
    for folder, file in (("diffusion_models", TRANSFORMER), ("vae", AUTOENCODER)):
        target = server.folder / "models" / folder
        target.mkdir(parents=True, exist_ok=True)
        (target / f"copy_{file.name}").write_bytes(file.read_bytes())
    varied = dict(graph)
    name = f"copy_{TRANSFORMER.name}"
    loader = add(varied, "JodiLoadModel", model=name, weight_dtype="default")
    vae = add(varied, "JodiLoadVAE", vae=f"copy_{AUTOENCODER.name}")
    varied = changed(varied, ids["roles"], model=[loader, 0], vae=[vae, 0])
    varied = changed(varied, ids["sampler"], model=[loader, 0])
    results = []
    for form in (graph, varied):
        part = only(form, ids["sampler"])
        results += Latents(part, ids["sampler"]).run(server)[1]
    assert relative_rms(results[1], results[0]) < 1e-6


def test_an_ignored_socket_blocks_what_hangs_on_it_and_nothing_else(server, perception):
    graph, ids = perception
    latent = {"latent": [ids["sampler"], 0], "vae": [ids["load"], 2]}
    decode = add(graph, "JodiDecodeAll", **latent)
    shown = add(graph, "PreviewImage", images=[decode, 3])
    blocked = add(graph, "PreviewImage", images=[decode, 4])
    run = server.run(graph)
    assert run.files(shown) and blocked not in run.outputs


def test_cancel_stops_a_job_and_the_next_one_works(server, perception):
    graph, ids = perception
    long = changed(graph, ids["sampler"], steps=1000, seed=99)
    messages = []

    def post():
        try:
            messages.append(server.run(long))
        except FailedError as error:
            messages.append(str(error))

    poster = threading.Thread(target=post)
    poster.start()
    deadline = time.monotonic() + 120
    while not server.get("/queue")["queue_running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    server.interrupt()
    poster.join(120)
    assert not poster.is_alive()
    assert messages and "interrupted" in str(messages[0]), messages
    assert server.run(changed(graph, ids["sampler"], seed=98)).files(ids["show"])


def test_a_saved_picture_brings_its_graph_back_whole(server):
    """What the host writes into a picture: both forms, every value; and it makes the same again."""
    graph = read("sampler_custom")
    page = json.loads((ROOT / "workflows" / "sampler_custom.json").read_text(encoding="utf-8"))
    save = find(graph, "SaveImage")
    graph = changed(graph, save, filename_prefix="test/whole")
    (file,) = server.run(graph, page).files(save)
    stored = Image.open(io.BytesIO(server.view(file))).text
    reloaded = json.loads(stored["prompt"])
    assert reloaded == graph and json.loads(stored["workflow"]) == page
    server.forget()
    (again,) = server.run(reloaded, page).files(save)
    assert again["filename"] != file["filename"]
    assert server.view(again) == server.view(file)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_workflow_comes_back_whole(server, name):
    """As the page's Save and Open do it."""
    page = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    place = "/userdata/" + urllib.parse.quote(f"workflows/{name}.json", safe="")
    server.post(place, page)
    assert server.get(place) == page


def test_a_template_posted_twice_runs_once(server):
    """Nothing in a graph makes the host compute again what did not change."""
    graph = read("joint_generation")
    first, second = server.run(graph), server.run(graph)
    save = find(graph, "SaveImage")
    assert first.outputs[save] == second.outputs[save]
