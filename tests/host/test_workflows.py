"""Every API workflow, posted to a real server; what comes out is what the core makes.

The core's pipeline runs the same jobs with the same seeds here, outside the host.
"""

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.domains import find_domain
from jodi_pack.jodi_core.embedded import ASSETS, EXAMPLES
from jodi_pack.jodi_core.exits.controlnet import DEPTH_WAYS, LINE_WAYS, draw_for_controlnet
from jodi_pack.jodi_core.exits.relight import find_light_direction, read_color, relight
from jodi_pack.jodi_core.job.restore import restore_map
from jodi_pack.jodi_core.job.size import DEFAULT_SIZE as SIZE
from jodi_pack.jodi_core.labels.depth import make_depth_map
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.labels.segmentation import make_class_mask, read_classes
from jodi_pack.jodi_core.model.facts import STEPS
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.pictures.cryptomatte import read_matte
from jodi_pack.kit.pictures.exr import read_exr
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.sampling import draw_noise
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.host import graphs
from jodi_pack.tests.host.graphs import Latents, changed, find, only, pictures, read
from PIL import Image, ImageSequence

pytestmark = pytest.mark.comfyui
BAR = 1e-4  # relative RMS of latents
WAYS = (DEPTH_WAYS[0], LINE_WAYS[0], "jodi", "ade20k")  # as the node has them at first
SHOWN = 1 / 255 + 1e-3  # a shown picture: the host cuts it to 8 bits; and round-off before it


@functools.cache
def core() -> JodiPipeline:
    return JodiPipeline.embedded()


def inputs(graph, kind, title=None) -> dict:
    return graph[find(graph, kind, title)]["inputs"]


def samplers(graph) -> list[str]:
    """In the order they run."""
    return [key for key, node in graph.items() if node["class_type"] == "JodiSampler"]


def example(graph):
    """The picture, or the frames, that a graph starts from: (B, 3, H, W)."""
    name = inputs(graph, "JodiExample")["picture"]
    if name in EXAMPLES:
        return load_image(EXAMPLES[name])[0]
    whole = load_image(EXAMPLES["person by a lake"])[0]
    return torch.cat([whole[:, :, 128:, x : x + 384] for x in (0, 43, 85, 128)])


def perceived(graph, *labels):
    """Maps of that picture at its own size, as Jodi Perceive gives them, by the core."""
    made = core().perceive(example(graph), labels, size=SIZE, seed=0)
    assert inputs(graph, "JodiPerceive")["seed"] == 0
    return {name: original(made, name) for name in labels}


def original(made, name):
    """What the core made of a domain, in the frame of the picture that came in."""
    of, frames = find_domain(name), [made.given.frame] * len(made.raw[name])
    return postprocess(of, restore_map(of, made.raw[name], frames))


def check(latents, expected):
    """Latents of a server, unscaled, against the core's own, scaled."""
    scale = core().autoencoder.config.scaling_factor
    error = relative_rms(latents * scale, expected)
    assert error < BAR, f"relative RMS {error:.2e}"


def check_shown(shown, expected, share=1.0):
    """share: of the pixels; a class at the border of two may fall to either side."""
    assert shown.shape == expected.shape
    off = (shown - expected).abs().amax(1)
    assert (off < SHOWN).float().mean() >= share, f"{off.max():.4f}"


def test_perceive_everything(server):
    graph = read("perceive_everything")
    run, (latents,) = Latents(graph, *samplers(graph)).run(server)
    labels = core().perceive(example(graph), size=SIZE, seed=0)
    check(latents, labels.latents)
    for title, name in (("Depth", "depth"), ("Normal", "normal"), ("Pose", "openpose")):
        shown = pictures(server, run, find(graph, "PreviewImage", title))
        check_shown(shown, original(labels, name))
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
    run, (latents,) = Latents(graph, *samplers(graph)).run(server)
    given = perceived(graph, "depth", "normal")
    for name, title in (("depth", "Depth of the picture"), ("normal", "Normals of the picture")):
        check_shown(pictures(server, run, find(graph, "PreviewImage", title)), given[name])
    text = inputs(graph, "JodiTextEncode", "What the new picture shows")["text"]
    result = core().control(given, text, size=SIZE, seed=5)
    check(latents, result.latents)
    shown = pictures(server, run, find(graph, "SaveImage"))
    check_shown(shown, original(result, "image"))


def test_any_to_any(server):
    graph = read("any_to_any")
    run, (latents,) = Latents(graph, *samplers(graph)).run(server)
    given = perceived(graph, "edge", "segmentation")
    text = inputs(graph, "JodiTextEncode", "What the new picture shows")["text"]
    result = core().control(given, text, ("image", "depth", "normal"), size=SIZE, seed=9)
    check(latents, result.latents)
    shown = pictures(server, run, find(graph, "PreviewImage"))
    check_shown(shown, original(result, "depth"))
    (summary,) = run.outputs[find(graph, "PreviewAny")]["text"]
    assert "generates image, depth, normal from edge, segmentation" in summary


def test_joint_generation(server):
    graph = read("joint_generation")
    latents = Latents(graph, *samplers(graph))
    run, (first,) = latents.run(server)
    text = inputs(graph, "JodiTextEncode", "Prompt")["text"]
    seed = graph[samplers(graph)[0]]["inputs"]["seed"]
    result = core().generate(text, core().names[1:], seed=seed)
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
    seed = graph[samplers(graph)[0]]["inputs"]["seed"]
    for hold in ("", "depth"):
        varied = changed(graph, roles, hold=hold)
        _, (after, given) = Latents(varied, samplers(graph)[0], (roles, 2)).run(server)
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
    run, (latents,) = Latents(graph, samplers(graph)[0]).run(server)
    before, after = (pictures(server, run, end) for end in ends)
    left = before.shape[-1] // 2
    assert torch.equal(after[..., left:], before[..., left:])
    scale = core().autoencoder.config.scaling_factor
    raw = core().decode(latents * scale, ["image"])["image"]
    frame = core().prepare({"image": example(graph)}).frame
    made = postprocess("image", restore_map(find_domain("image"), raw, [frame]))
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


def read_film(data: bytes) -> torch.Tensor:
    """The frames of an animated picture: (B, 3, H, W) in [0, 1]."""
    with Image.open(io.BytesIO(data)) as film:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255


def test_steady_video_maps(server):
    """In chunks as at once; each frame the core's own, from the same noise; films lose nothing."""
    graph = read("steady_video_maps")
    (sampler,) = samplers(graph)
    whole = changed(graph, sampler, chunk=0)
    run, (chunked,) = Latents(graph, sampler).run(server)
    _, (at_once,) = Latents(only(whole, sampler), sampler).run(server)
    assert len(chunked) == 4
    assert relative_rms(chunked, at_once) < 1e-5
    result = core().perceive(example(graph), ("depth", "normal"), size=SIZE, seed=[0] * 4)
    check(chunked, result.latents)
    normals = pictures(server, run, find(graph, "PreviewImage", "Normals of the frames"))
    check_shown(normals, original(result, "normal"))
    assert (normals[0] - normals[3]).abs().max() > 0.01
    (film,) = run.files(find(graph, "SaveAnimatedWEBP", "Depth video"))
    assert server.view(film)[8:12] == b"WEBP"
    (film,) = run.files(find(graph, "SaveAnimatedWEBP", "Normals video"))
    assert torch.equal(read_film(server.view(film)), normals)


def test_frames_of_a_video_share_one_range_of_depth(server):
    """Of a loaded batch, one frame at a time, against the core's."""
    files = [ASSETS / "samples" / f"sample{i}_image.png" for i in (1, 3)]
    graph = read("steady_video_maps")
    batch = graphs.picture_batch(graph, [server.upload(file) for file in files])
    graph = changed(graph, find(graph, "JodiRoles", "Jodi Roles: every frame"), image=[batch, 0])
    (sampler,) = samplers(graph)
    graph = changed(graph, sampler, chunk=1)
    film = find(graph, "SaveAnimatedWEBP", "Depth video")
    decoder = graph[graph[film]["inputs"]["images"][0]]["inputs"]["image"][0]
    shown = graphs.add(graph, "PreviewImage", images=graph[film]["inputs"]["images"])
    assert graph[decoder]["inputs"]["values"] == "raw"
    part = only(graph, shown)
    run, (latents,) = Latents(part, sampler).run(server)
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


def check_lacking(run):
    """The host left out what needs other people's weights, and for no other reason."""
    lacking = {
        (node["class_type"], error["type"], error["extra_info"]["input_name"])
        for node in run.left_out.values()
        for error in node["errors"]
    }
    files = {"CheckpointLoaderSimple": "ckpt_name", "ControlNetLoader": "control_net_name"}
    assert lacking == {(kind, "value_not_in_list", entry) for kind, entry in files.items()}


def test_perception_to_controlnet(server):
    """Other people's weights are not here: the depth is run, the rest held to the schema."""
    graph = read("perception_to_controlnet")
    run = server.run(graph)
    depth = perceived(graph, "depth")["depth"]
    shown = pictures(server, run, find(graph, "PreviewImage", "Depth"))
    check_shown(shown, draw_for_controlnet("depth", depth, *WAYS))
    check_lacking(run)


def test_maps_to_union_controlnet(server):
    graph = read("maps_to_union_controlnet")
    run = server.run(graph)
    maps = perceived(graph, *core().names[1:])
    for name, title in (("depth", "Depth"), ("segmentation", "Classes")):
        shown = pictures(server, run, find(graph, "PreviewImage", f"{title} for the ControlNet"))
        expected = draw_for_controlnet(name, maps[name], *WAYS)
        check_shown(shown, expected, share=0.99 if name == "segmentation" else 1)
    check_lacking(run)


def test_photo_to_exr(server):
    """By OpenEXR: every layer is the core's own map, and a matte is the mask of its class."""
    graph = read("photo_to_exr")
    save = find(graph, "JodiSaveLayersEXR")
    graph = changed(graph, save, filename_prefix="test/photo")
    run = server.run(graph)
    (file,) = run.outputs[find(graph, "PreviewAny", "The file")]["text"]
    assert Path(file).is_relative_to(server.folder / "output" / "test")
    channels, header = read_exr(file)
    maps = perceived(graph, *core().names[1:])
    assert abs(channels["Z"] - maps["depth"][0, 0].numpy()).max() < 1e-4
    assert abs(channels["edge.Y"] - maps["edge"][0, 0].numpy()).max() < 1e-4
    axes = maps["normal"][0, 0] * -2 + 1  # OpenGL's X goes to the right, Jodi's to the left
    assert abs(channels["N.X"] - axes.numpy()).max() < 0.05
    person = make_class_mask(read_classes(maps["segmentation"]), "person")[0].numpy()
    assert person.any()
    assert (read_matte(channels, header, "person") == person).mean() > 0.99


def test_mesh_from_picture(server):
    graph = read("mesh_from_picture")
    run = server.run(changed(graph, find(graph, "SaveGLB"), filename_prefix="test/mesh"))
    (file,) = run.files(find(graph, "SaveGLB"), "3d")
    glb = server.view(file)
    assert glb[:4] == b"glTF" and int.from_bytes(glb[8:12], "little") == len(glb)
    size = int.from_bytes(glb[12:16], "little")
    (mesh,) = json.loads(glb[20 : 20 + size])["meshes"]
    corners = json.loads(glb[20 : 20 + size])["accessors"]
    assert corners[mesh["primitives"][0]["attributes"]["POSITION"]]["count"] > 1000


def test_relight(server):
    graph = read("relight")
    run = server.run(graph)
    maps = perceived(graph, "albedo", "normal", "segmentation")
    sky = make_class_mask(read_classes(maps["segmentation"]), "sky")
    for title in ("Morning", "Noon", "Evening"):
        light = inputs(graph, "JodiRelight", title)
        colors = [
            [light[strength] * c for c in read_color(light[color])]
            for color, strength in (("color", "strength"), ("ambient", "ambient_strength"))
        ]
        direction = find_light_direction(light["azimuth"], light["elevation"])
        expected = relight(maps["albedo"], maps["normal"], direction, *colors, 0.2, sky)
        shown = pictures(server, run, find(graph, "SaveImage", f"{title}: the picture"))
        check_shown(shown, expected.clamp(0, 1), share=0.99)
