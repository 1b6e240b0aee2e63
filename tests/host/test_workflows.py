"""Every API workflow, posted to a real server; what comes out is what the core makes.

The core's pipeline runs the same jobs with the same seeds here, outside the host.
"""

import functools

import pytest
import torch
from jodi_pack.jodi_core.embedded import ASSETS
from jodi_pack.jodi_core.labels.depth import make_depth_map
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.model.facts import STEPS
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.sampling import draw_noise
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.host import graphs
from jodi_pack.tests.host.graphs import Latents, changed, find, only, pictures, read

pytestmark = pytest.mark.comfyui
BAR = 1e-4  # relative RMS of latents
SHOWN = 1 / 255 + 1e-3  # a shown picture: the host cuts it to 8 bits; and round-off before it


@functools.cache
def core() -> JodiPipeline:
    return JodiPipeline.embedded()


def inputs(graph, kind, title=None) -> dict:
    return graph[find(graph, kind, title)]["inputs"]


def samplers(graph) -> list[str]:
    """In the order they run."""
    return [key for key, node in graph.items() if node["class_type"] == "JodiSampler"]


def scene(graph, labels=()):
    """What the graph's first part makes, by the core."""
    text = inputs(graph, "JodiTextEncode", "What the scene shows")["text"]
    seed = graph[samplers(graph)[0]]["inputs"]["seed"]
    return core().generate(text, labels, seed=seed)


def check(latents, expected):
    """Latents of a server, unscaled, against the core's own, scaled."""
    scale = core().autoencoder.config.scaling_factor
    error = relative_rms(latents * scale, expected)
    assert error < BAR, f"relative RMS {error:.2e}"


def check_shown(shown, expected):
    assert shown.shape == expected.shape
    difference = (shown - expected).abs().amax().item()
    assert difference < SHOWN, f"{difference:.4f}"


def test_perceive_everything(server):
    graph = read("perceive_everything")
    run, (first, second) = Latents(graph, *samplers(graph)).run(server)
    made = scene(graph)
    check(first, made.latents)
    labels = core().perceive(made.pictures["image"], seed=0)
    check(second, labels.latents)
    for name in ("depth", "normal"):
        node = find(graph, "PreviewImage", name.capitalize())
        check_shown(pictures(server, run, node), labels.pictures[name])
    # a class at the border of two may fall to either side
    shown = pictures(server, run, find(graph, "PreviewImage", "Segmentation"))
    assert ((shown - labels.pictures["segmentation"]).abs().amax(1) < SHOWN).float().mean() > 0.99
    sheet = pictures(server, run, find(graph, "SaveImage"))
    assert sheet.shape[-1] > 4 * 64 and sheet.std() > 0.05


def test_a_loaded_picture_is_perceived(server):
    """The same with Load Image, as the note on the graph says."""
    graph = read("perceive_everything")
    file = ASSETS / "samples" / "sample4_image.png"
    loader = graphs.add(graph, "LoadImage", image=server.upload(file))
    roles = find(graph, "JodiRoles", "Jodi Roles: image in, labels out")
    graph = changed(graph, roles, image=[loader, 0])
    depth = find(graph, "PreviewImage", "Depth")
    graph = only(graph, depth)
    run, (latents,) = Latents(graph, *samplers(graph)).run(server)
    labels = core().perceive(load_image(file)[0], seed=0)
    check(latents, labels.latents)
    check_shown(pictures(server, run, depth), labels.pictures["depth"])


def test_depth_normal_to_picture(server):
    graph = read("depth_normal_to_picture")
    run, (first, second) = Latents(graph, *samplers(graph)).run(server)
    made = scene(graph, ("depth", "normal"))
    check(first, made.latents)
    text = inputs(graph, "JodiTextEncode", "What the new picture shows")["text"]
    given = {name: made.pictures[name] for name in ("depth", "normal")}
    result = core().control(given, text, seed=5)
    check(second, result.latents)
    shown = pictures(server, run, find(graph, "SaveImage"))
    check_shown(shown, result.pictures["image"])


def test_any_to_any(server):
    graph = read("any_to_any")
    run, (first, second) = Latents(graph, *samplers(graph)).run(server)
    made = scene(graph, ("edge", "segmentation"))
    check(first, made.latents)
    text = inputs(graph, "JodiTextEncode", "What the new picture shows")["text"]
    given = {name: made.pictures[name] for name in ("edge", "segmentation")}
    result = core().control(given, text, ("image", "depth", "normal"), seed=9)
    check(second, result.latents)
    shown = pictures(server, run, find(graph, "PreviewImage"))
    check_shown(shown, result.pictures["depth"])
    (summary,) = run.outputs[find(graph, "PreviewAny")]["text"]
    assert "generates image, depth, normal from edge, segmentation" in summary


def test_joint_generation(server):
    graph = read("joint_generation")
    latents = Latents(graph, *samplers(graph))
    run, (first,) = latents.run(server)
    text = inputs(graph, "JodiTextEncode", "Prompt")["text"]
    result = core().generate(text, core().names[1:], seed=11)
    check(first, result.latents)
    shown = pictures(server, run, find(graph, "PreviewImage", "Image"))
    check_shown(shown, result.pictures["image"])
    server.forget()
    _, (again,) = latents.run(server)
    assert torch.equal(again, first), "two runs with one seed differ"


def test_repaint_region(server):
    """What is kept comes back as it was; what is painted is the core's own."""
    graph = read("repaint_region")
    roles = find(graph, "JodiRoles", "Jodi Roles: repaint")
    text = inputs(graph, "JodiTextEncode", "What the region shows now")["text"]
    seed = graph[samplers(graph)[1]]["inputs"]["seed"]
    for hold in ("", "depth"):
        varied = changed(graph, roles, hold=hold)
        _, (after, given) = Latents(varied, samplers(graph)[1], (roles, 2)).run(server)
        scale = given.abs().max()
        left = given.shape[-1] // 2
        kept = (after - given)[:, 0, :, :, left:].abs().max() / scale
        painted = (after - given)[:, 0, :, :, :left].abs().mean() / scale
        depth = (after - given)[:, 3].abs().max() / scale
        assert kept < 1e-6 and depth < 1e-6 and painted > 1e-3, (hold, kept, depth, painted)
        expected = repainted(given * core().autoencoder.config.scaling_factor, text, seed, hold)
        check(after, expected)


def test_kept_pixels_of_a_repainted_picture_are_its_own(server):
    """To the last bit; the painted ones are what the core makes of the latents."""
    graph = read("repaint_region")
    ends = [find(graph, "PreviewImage", "Before"), find(graph, "SaveImage", "Repainted")]
    run, (latents,) = Latents(graph, samplers(graph)[1]).run(server)
    before, after = (pictures(server, run, end) for end in ends)
    left = before.shape[-1] // 2
    assert torch.equal(after[..., left:], before[..., left:])
    scale = core().autoencoder.config.scaling_factor
    made = postprocess("image", core().decode(latents * scale, ["image"])["image"])
    check_shown(after[..., :left], made[..., :left])
    # without the last node it shows: the autoencoder alone changes what is kept
    assert (made - before)[..., left:].abs().max() > 0.05


def repainted(given, text: str, seed: int, hold: str):
    """The left half painted anew by the core, depth held or given. Latents (1, L, z, h, w)."""
    held = torch.zeros_like(given[:, :, :1])
    held[:, 0, :, :, held.shape[-1] // 2 :] = 1
    if hold:
        plan, clean = core().plan(["image", "depth"]), torch.zeros_like(given)
        held[:, 3] = 1
    else:
        plan, clean = core().plan(["image"], ["depth"]), torch.zeros_like(given)
        clean[:, 3] = given[:, 3]
    prompt = core().encode_text(text)
    guidance = core().default_guidance(plan)
    empty = core().encode_text("", like=prompt)
    options = {"guidance": guidance, "steps": STEPS, "seed": seed, "init": given, "hold": held}
    return core().sample(plan, clean, prompt, empty, **options)


def test_video_batch(server):
    graph = read("video_batch")
    whole = changed(graph, samplers(graph)[1], chunk=0)
    run, (chunked,) = Latents(graph, samplers(graph)[1]).run(server)
    _, (at_once,) = Latents(only(whole, samplers(graph)[1]), samplers(graph)[1]).run(server)
    assert len(chunked) == 4
    assert relative_rms(chunked, at_once) < 1e-5
    normals = pictures(server, run, find(graph, "PreviewImage"))
    assert len(normals) == 4 and (normals[0] - normals[3]).abs().max() > 0.01
    (film,) = run.files(find(graph, "SaveAnimatedWEBP"))
    assert server.view(film)[8:12] == b"WEBP"


def test_frames_of_a_video_are_the_cores_own(server):
    """Perception of a batch from the same noise, against the core's, frame by frame."""
    files = [ASSETS / "samples" / f"sample{i}_image.png" for i in (1, 3)]
    graph = read("video_batch")
    batch = graphs.picture_batch(graph, [server.upload(file) for file in files])
    graph = changed(graph, find(graph, "JodiRoles", "Jodi Roles: every frame"), image=[batch, 0])
    graph = changed(graph, samplers(graph)[1], chunk=1)
    film = find(graph, "SaveAnimatedWEBP")
    decoder = graph[graph[film]["inputs"]["images"][0]]["inputs"]["image"][0]
    node = graph[film]["inputs"]["images"]
    shown = graphs.add(graph, "PreviewImage", images=node)
    assert graph[decoder]["inputs"]["values"] == "raw"
    part = only(graph, shown)
    run, (latents,) = Latents(part, *samplers(part)).run(server)
    frames = torch.cat([load_image(file)[0] for file in files])
    result = core().perceive(frames, ("depth", "normal"), seed=[0, 0])
    check(latents, result.latents)
    depth = make_depth_map(result.raw["depth"], normalize="batch")
    check_shown(pictures(server, run, shown), depth[:, None].expand(-1, 3, -1, -1))


def test_sampler_custom(server):
    """SamplerCustomAdvanced as the template sets it up is Jodi Sampler left to itself.

    But for the noise: RandomNoise draws the host's, Jodi Sampler its own. From either, both are
    what the core makes with the graph's guidance and steps, and those are the automatic ones.
    """
    graph = read("sampler_custom")
    parts, guider = find(graph, "SamplerCustomAdvanced"), inputs(graph, "CFGGuider")
    seed = inputs(graph, "RandomNoise")["noise_seed"]
    plan = core().plan(["image", "depth"])
    assert guider["cfg"] == float(core().metadata["guidance"]) == core().default_guidance(plan)
    assert inputs(graph, "JodiScheduler")["steps"] == STEPS
    wires = {name: guider[name] for name in ("model", "positive", "negative")}
    wires["latent_image"] = graph[parts]["inputs"]["latent_image"]
    one = graphs.add(graph, "JodiSampler", **wires, seed=seed, steps=0, cfg=0.0)
    _, (in_parts, in_one) = Latents(graph, parts, one).run(server)
    rows, domains, channels, h, w = in_parts.shape
    drawn = torch.randn(rows, channels, domains, h, w, generator=torch.manual_seed(seed))
    drawn, own = drawn.transpose(1, 2), draw_noise(in_one.shape, seed)
    assert relative_rms(drawn, own) > 0.5
    prompt = core().encode_text(inputs(graph, "JodiTextEncode", "Prompt")["text"])
    empty = core().encode_text("", like=prompt)
    options = {"guidance": guider["cfg"], "steps": inputs(graph, "JodiScheduler")["steps"]}
    for latents, noise in ((in_parts, drawn), (in_one, own)):
        nothing = torch.zeros_like(noise)
        check(latents, core().sample(plan, nothing, prompt, empty, noise=noise, **options))


def test_perception_to_controlnet(server):
    """Other people's weights are not here: the depth is run, the rest held to the schema."""
    graph = read("perception_to_controlnet")
    run, (_, second) = Latents(graph, *samplers(graph)).run(server)
    labels = core().perceive(scene(graph).pictures["image"], ["depth"], seed=0)
    check(second, labels.latents)
    shown = pictures(server, run, find(graph, "PreviewImage", "Depth"))
    assert shown.shape == (1, 3, 512, 512)
    small = torch.nn.functional.interpolate(shown, (64, 64), mode="area")
    assert relative_rms(small, labels.pictures["depth"]) < 0.05
    # the rest lacks the two files and nothing else
    lacking = {
        (node["class_type"], error["type"], error["extra_info"]["input_name"])
        for node in run.left_out.values()
        for error in node["errors"]
    }
    assert lacking == {
        ("CheckpointLoaderSimple", "value_not_in_list", "ckpt_name"),
        ("ControlNetLoader", "value_not_in_list", "control_net_name"),
    }
