"""What a real server does with the pack: its nodes, wrong wiring, wrong files, Cancel."""

import io
import itertools
import json
import struct
import threading
import time
import urllib.parse

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, DOMAINS
from jodi_pack.jodi_core.embedded import ASSETS, AUTOENCODER, TRANSFORMER
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.host.graphs import NAMES, Latents, add, changed, find, only, pictures, read
from jodi_pack.tests.host.listener import Listener
from jodi_pack.tests.host.server import FailedError, RefusedError
from jodi_pack.tests.hosts import ROOT
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

pytestmark = pytest.mark.comfyui
STEPS = 1000  # of the job that is cancelled: far more than any test waits for
SCHEMA = json.loads((ROOT / "tests" / "nodes" / "schema.json").read_text(encoding="utf-8"))


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
    ours = {name: schema for name, schema in known.items() if name.startswith(("Jodi", "DDiT"))}
    assert set(ours) == set(SCHEMA)
    for name, schema in ours.items():
        assert schema["category"] == SCHEMA[name]["category"] and schema["description"], name
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


def test_an_ignored_socket_is_harmless(server, perception):
    graph, ids = perception
    latent = {"latent": [ids["sampler"], 0], "vae": [ids["load"], 2]}
    decode = add(graph, "JodiDecodeAll", **latent)
    shown = add(graph, "PreviewImage", images=[decode, 3])
    empty = add(graph, "SaveImage", images=[decode, 4], filename_prefix="test/ignored")
    sockets = {domain.name: [decode, index] for index, domain in enumerate(DOMAINS)}
    sheet = add(graph, "JodiContactSheet", **sockets)
    saved = add(graph, "PreviewImage", images=[sheet, 0])
    run = server.run(graph)
    assert run.files(shown) and run.files(saved) and not run.outputs.get(empty, {}).get("images")


def test_cancel_stops_a_job_and_the_next_one_works(server, perception):
    graph, ids = perception
    everything = {f"{name}_role": "generate" for name in DOMAIN_NAMES[1:]}
    long = changed(graph, ids["roles"], **everything)
    long = changed(long, ids["sampler"], steps=STEPS, seed=99)
    ends = []

    def post():
        try:
            ends.append(server.run(long, client=page.client))
        except FailedError as error:
            ends.append(str(error))

    def steps():
        found = [m for m in page.of("progress") if m.data["node"] == ids["sampler"]]
        return [(message.data["value"], message.at) for message in found]

    with Listener(server.url) as page:
        poster = threading.Thread(target=post)
        poster.start()
        page.wait(lambda m: m.kind == "progress" and m.data["value"] >= 10, 120)
        server.interrupt()
        asked, told = steps()[-1][0], time.monotonic()
        stopped = page.wait(lambda m: m.kind == "execution_interrupted", 120)
        poster.join(120)
    assert not poster.is_alive() and ends == ["JodiSampler: interrupted"]
    assert (stopped.data["node_id"], stopped.data["node_type"]) == (ids["sampler"], "JodiSampler")
    done = steps()
    (first, began), (last, ended) = done[0], done[-1]
    assert last < STEPS and last - asked <= 3, f"{last - asked} more steps after Cancel"
    step = (ended - began) / (last - first)
    assert stopped.at - told < 3 * step + 0.5, f"{stopped.at - told:.2f} s, a step takes {step:.3f}"
    assert server.run(changed(graph, ids["sampler"], seed=98)).files(ids["show"])


def test_previews_arrive_while_sampling(server, perception):
    """One sheet of what is active, two rows of four, each domain in its place and recognizable."""
    graph, ids = perception
    everything = {f"{name}_role": "generate" for name in DOMAIN_NAMES[1:]}
    graph = changed(graph, ids["roles"], **everything)
    graph = changed(graph, ids["sampler"], steps=6, seed=int(time.time()))
    latent = {"latent": [ids["sampler"], 0], "vae": [ids["load"], 2]}
    decode = add(graph, "JodiDecodeAll", **latent, given=True)
    ends = [add(graph, "PreviewImage", images=[decode, i]) for i in range(len(DOMAIN_NAMES))]
    with Listener(server.url) as page:
        run = server.run(only(graph, *ends), client=page.client)
        page.wait(lambda m: m.kind == "executing" and m.data["node"] is None, 60)
    heard = page.of("binary")
    assert len(heard) >= 6, [message.kind for message in page.messages]
    finished = max(m.at for m in page.of("progress") if m.data["node"] == ids["sampler"])
    assert heard[0].at < finished, "all previews came at the end"
    sheets = [preview(message.data) for message in heard]
    assert {sheet.size for sheet in sheets} == {(512, 256)}
    assert sheets[0].tobytes() != sheets[-1].tobytes()
    cells = [cell(sheets[-1], i) for i in range(len(DOMAIN_NAMES))]
    shown = [pictures(server, run, end)[0] for end in ends]
    shown = [functional.interpolate(p[None], (8, 8), mode="area")[0] for p in shown]
    for name in ("image", "depth", "normal", "segmentation"):
        own = DOMAIN_NAMES.index(name)
        far = [(cells[own] - other).abs().mean().item() for other in shown]
        assert far.index(min(far)) == own and far[own] < 0.15, (name, far)


def preview(data: bytes) -> Image.Image:
    """A binary message: its kind (1, a preview), the picture's (1, JPEG; 2, PNG), the picture."""
    kind, form = struct.unpack(">II", data[:8])
    assert kind == 1 and form in (1, 2), (kind, form)
    return Image.open(io.BytesIO(data[8:])).convert("RGB")


def cell(sheet: Image.Image, i: int) -> torch.Tensor:
    """One of the sheet's eight pictures, (3, 8, 8)."""
    row, column = divmod(i, 4)
    side = sheet.height // 2
    part = sheet.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
    tensor = torch.from_numpy(np.array(part)).permute(2, 0, 1).float() / 255
    return functional.interpolate(tensor[None], (8, 8), mode="area")[0]


LAYERS = ("blocks.0.attn.qkv", "blocks.1.cross_attn.kv_linear", "final_layers.3.linear")
RANK, STRENGTH = 4, 0.8


def test_a_lora_is_what_the_arithmetic_says(server, perception):
    """A file in models/loras, through the host's own loader node, against the changed weights."""
    graph, ids = perception
    core = JodiPipeline.embedded()
    weights, lora = core.transformer.state_dict(), {}
    added = dict(weights)
    for i, layer in enumerate(LAYERS):
        weight = weights[f"{layer}.weight"].float()
        down, up = randn(RANK, weight.shape[1], seed=i), randn(weight.shape[0], RANK, seed=40 + i)
        down *= weight.std() / (2 * (up @ down).std())
        lora[f"diffusion_model.{layer}.lora_A.weight"] = down
        lora[f"diffusion_model.{layer}.lora_B.weight"] = up
        added[f"{layer}.weight"] = weight + STRENGTH * up @ down
    folder = server.folder / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora, folder / "jodi_test.safetensors")
    plain = Latents(graph, ids["sampler"]).run(server)[1][0]
    loader = {"model": [ids["load"], 0], "strength_model": STRENGTH}
    patched = add(graph, "LoraLoaderModelOnly", lora_name="jodi_test.safetensors", **loader)
    graph = changed(graph, ids["sampler"], model=[patched, 0])
    (made,) = Latents(graph, ids["sampler"]).run(server)[1]
    core.transformer.load_state_dict(added)
    picture = load_image(ASSETS / "samples" / "sample2_image.png")[0]
    expected = core.perceive(picture, ["depth"], seed=3, steps=4).latents
    scale = core.autoencoder.config.scaling_factor
    assert relative_rms(made * scale, expected) < 1e-4
    assert relative_rms(made, plain) > 1e-2


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
