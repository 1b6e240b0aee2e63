"""The command line, `JodiPipeline` and the nodes' pure part on the same pictures and roles.

They must find the same size, say the same doubts, refuse with the same sentence and, from the same
noise in float32, make the same maps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from jodi_pack.cli import control, generate, jobs, perceive
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, find_domain
from jodi_pack.jodi_core.job.restore import restore_map
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.model.facts import VAEFacts, read_facts
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.files import save_png
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from jodi_pack.kit.scenes.render import render_scenes
from jodi_pack.nodes.wires.job import read_job
from jodi_pack.nodes.wires.request import Request, encode_request, plan_request
from PIL import Image

STEPS, SEED = 2, 5
TOLERANCE = 1e-4  # the same arithmetic; only the order of batches may differ


@dataclass
class Found:
    """What one front end makes of a job."""

    size: tuple[int, int] = (0, 0)
    doubts: str = ""
    count: int = 0
    maps: dict[str, torch.Tensor] = field(default_factory=dict)


@pytest.fixture(scope="module")
def pipeline(tiny) -> JodiPipeline:
    return JodiPipeline.from_files(tiny.transformer, tiny.autoencoder)


def smooth(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A picture of smooth colours, in 8-bit steps, (3, height, width)."""
    coarse = torch.rand(1, 3, 3, 4, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (picture * 255).round() / 255


def grey(picture: torch.Tensor) -> torch.Tensor:
    return (picture.mean(0, keepdim=True).expand(3, -1, -1) * 255).round() / 255


def slope(height: int, width: int, top: int = 0, bottom: int = 255) -> torch.Tensor:
    """Depth of a floor: far above, near below."""
    return torch.linspace(top, bottom, height).round()[None, :, None].expand(3, -1, width) / 255


def classes(height: int, width: int, numbers: bool = False) -> torch.Tensor:
    index = (torch.arange(height)[:, None] // 9 * 3 + torch.arange(width) // 11) % 12
    if numbers:
        return index[None].expand(3, -1, -1) / 255
    return torch.tensor(SEGMENTATION_PALETTE, dtype=torch.float32)[index].permute(2, 0, 1) / 255


def flat(value: float, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.full((3, height, width), float(value))


def grain(height: int, width: int) -> torch.Tensor:
    """Tones that change from pixel to pixel, in 8-bit steps."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(256, (1, height, width), generator=generator) / 255).expand(3, -1, -1)


def drawn(name: str, seed: int = 3) -> torch.Tensor:
    """A map of a rendered scene in 8-bit steps."""
    picture = render_scenes([seed], 64).pictures[0, DOMAIN_NAMES.index(name)]
    return (picture * 255).round() / 255


def directx() -> torch.Tensor:
    return torch.cat([1 - drawn("normal")[:2], drawn("normal")[2:]])


@dataclass(frozen=True)
class Case:
    """given: pictures by domain. says: words of each doubt, in order."""

    given: Callable[[], dict[str, torch.Tensor]]
    made: str
    size: str | tuple[int, int] = "picture ratio"
    fit: str = "crop"
    says: tuple[str, ...] = ()


CASES = {
    "a picture": Case(lambda: {"image": smooth(36, 48)}, "depth,normal"),
    "a wide picture": Case(
        lambda: {"image": smooth(54, 96)}, "lineart,edge", says=("5 % of it lies outside 40 x 24",)
    ),
    "a tall picture": Case(lambda: {"image": smooth(150, 100)}, "albedo"),
    "all labels": Case(lambda: {"image": smooth(32, 32)}, ",".join(DOMAIN_NAMES[1:])),
    "trained shape": Case(lambda: {"image": smooth(54, 96)}, "depth", "trained shape", says=("%",)),
    "picture size": Case(lambda: {"image": smooth(40, 56)}, "segmentation", "picture size"),
    "an odd picture size": Case(
        lambda: {"image": smooth(41, 53)}, "depth", "picture size", says=("7 %",)
    ),
    "width and height": Case(lambda: {"image": smooth(40, 56)}, "depth", (48, 32), says=("6 %",)),
    "padded": Case(lambda: {"image": smooth(40, 56)}, "depth,segmentation", (48, 32), "pad"),
    "trained shape, padded": Case(
        lambda: {"image": smooth(54, 96)}, "normal", "trained shape", "pad"
    ),
    "a strip": Case(lambda: {"image": smooth(7, 300)}, "depth", says=("is not seen",)),
    "a few pixels": Case(lambda: {"image": smooth(3, 3)}, "depth,segmentation"),
    "depth to a picture": Case(lambda: {"depth": slope(36, 48)}, "image"),
    "depth that fills little": Case(lambda: {"depth": slope(36, 48, 60, 130)}, "image"),
    "depth and normals": Case(
        lambda: {"depth": drawn("depth"), "normal": drawn("normal")}, "image"
    ),
    "maps of one view": Case(lambda: {"image": smooth(72, 96), "depth": slope(36, 48)}, "normal"),
    "maps of two views": Case(
        lambda: {"depth": slope(36, 48), "albedo": smooth(48, 48)},
        "image",
        says=("albedo of 48 x 48 is cropped; it may not lie over depth",),
    ),
    "classes in colours": Case(lambda: {"segmentation": classes(36, 48)}, "image"),
    "class numbers": Case(lambda: {"segmentation": classes(36, 48, numbers=True)}, "image"),
    "foreign classes": Case(
        lambda: {"segmentation": smooth(36, 48)}, "image", says=("none of the model's 12",)
    ),
    "no classes": Case(lambda: {"segmentation": flat(0, 36, 48)}, "image", says=("unlabeled",)),
    "dark line art": Case(lambda: {"lineart": flat(0.2, 36, 48)}, "image", says=("mostly dark",)),
    "bright edges": Case(lambda: {"edge": flat(0.9, 36, 48)}, "image", says=("mostly bright",)),
    "flat depth": Case(lambda: {"depth": flat(1, 36, 48)}, "image", says=("one flat tone",)),
    "depth upside down": Case(lambda: {"depth": 1 - slope(36, 48)}, "image", says=("inverted",)),
    "a photo as depth": Case(lambda: {"depth": smooth(36, 48)}, "image", says=("in colours",)),
    "a grey photo as depth": Case(lambda: {"depth": grain(36, 48)}, "image", says=("in grey",)),
    "a grey photo as lines": Case(
        lambda: {"lineart": flat(0.6, 36, 48)}, "image", says=("middle tones",)
    ),
    "a photo as a pose": Case(
        lambda: {"openpose": smooth(36, 48) * 0.5}, "image", says=("a full picture",)
    ),
    "a pose on white": Case(lambda: {"openpose": flat(1, 36, 48)}, "image", says=("on black",)),
    "normals of DirectX": Case(lambda: {"normal": directx()}, "image", says=("DirectX",)),
    "grey normals": Case(lambda: {"normal": flat(0.5, 36, 48)}, "image", says=("face the camera",)),
    "any to any": Case(
        lambda: {"image": smooth(36, 48), "depth": slope(36, 48)}, "normal,segmentation"
    ),
    "nothing": Case(lambda: {}, "image,depth"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_front_ends_agree_on_size_doubts_and_maps(name, pipeline, jodi, tmp_path, monkeypatch):
    case = CASES[name]
    given = case.given()
    core = by_pipeline(pipeline, case, given)
    assert core.count == len(case.says), core.doubts
    for words in case.says:
        assert words in core.doubts
    for other in (
        by_command_line(pipeline, case, given, jodi, tmp_path, monkeypatch),
        by_nodes(pipeline, case, given),
    ):
        assert other.size == core.size
        assert other.count == core.count
        for line in core.doubts.splitlines():
            assert line in other.doubts
        assert other.maps.keys() == core.maps.keys()
        for label, picture in core.maps.items():
            assert other.maps[label].shape == picture.shape, label
            assert (other.maps[label] - picture).abs().max() <= TOLERANCE, label


def shown(of: str, raw: torch.Tensor, frame) -> torch.Tensor:
    return postprocess(of, raw if frame is None else restore_map(find_domain(of), raw, [frame]))


def by_pipeline(pipeline, case: Case, given) -> Found:
    plan = pipeline.plan(case.made.split(","), given)
    pictures = {name: picture[None] for name, picture in given.items()}
    if isinstance(case.size, str):
        result = pipeline.run(
            plan, conditions=pictures, size=case.size, fit=case.fit, steps=STEPS, seed=SEED
        )
        about = result.given
    else:
        about = pipeline.prepare(
            pictures, "width and height", fit=case.fit, explicit=case.size[::-1]
        )
        fitted = {name: about.fitted(name) for name in pictures}
        result = pipeline.run(plan, conditions=fitted, size=about.size, steps=STEPS, seed=SEED)
    doubts = "\n".join(doubt.text for doubt in about.doubts)
    maps = {of: shown(of, raw, about.frame) for of, raw in result.raw.items()}
    return Found(about.size, doubts, len(about.doubts), maps)


def by_command_line(pipeline, case: Case, given, jodi, tmp_path, monkeypatch) -> Found:
    found, save = Found(), jobs.save_result

    def keep(name, raw, frame, start, settings, maps):
        found.size = (settings["height"], settings["width"])
        found.maps[name] = shown(name, raw, frame)  # before it is rounded to 8 bits
        return save(name, raw, frame, start, settings, maps)

    monkeypatch.setattr(jobs, "save_result", keep)
    for command in (control, generate, perceive):
        monkeypatch.setattr(command, "load_pipeline", lambda args: pipeline)
    size = case.size if isinstance(case.size, str) else "x".join(map(str, case.size))
    options = ["--steps", STEPS, "--seed", SEED, "--size", size.replace(" ", "-")]
    for name, picture in given.items():
        save_png(tmp_path / f"{name}.png", picture)
    if given:
        maps = [part for name in given for part in (f"--{name}", tmp_path / f"{name}.png")]
        options += ["--fit", case.fit]
        status, _, err = jodi("control", *maps, "--generate", case.made, *options)
    else:
        labels = case.made.removeprefix("image,")
        status, _, err = jodi("generate", "--prompt", "", "--labels", labels, *options)
    assert status == 0, err
    said = [line for line in err if line.startswith("warning: ")]
    found.doubts, found.count = "\n".join(said), len(said)
    return found


def request_of(given, made: str, **settings) -> Request:
    """Jodi Roles with these pictures connected: the rest is ignored."""
    roles = dict.fromkeys(DOMAIN_NAMES, "ignore") | dict.fromkeys(made.split(","), "generate")
    roles |= dict.fromkeys(given, "condition")
    images = {name: picture.movedim(-3, -1) for name, picture in given.items()}
    return Request([(n, roles[n], images.get(n)) for n in DOMAIN_NAMES], **settings)


def facts(pipeline):
    metadata = {**pipeline.metadata}
    return read_facts(pipeline.transformer.config, metadata, "tiny"), VAEFacts.of(
        pipeline.autoencoder.config
    )


def by_nodes(pipeline, case: Case, given) -> Found:
    model, vae = facts(pipeline)
    settings = {"size": case.size, "fit": case.fit}
    if not isinstance(case.size, str):
        width, height = case.size
        settings |= {"size": "width and height", "width": width, "height": height}
    batched = {name: picture[None] for name, picture in given.items()}
    request = request_of(batched, case.made, **settings)
    scale = vae.latent_scale
    null = [[torch.zeros(1, 1, 1), {"attention_mask": torch.ones(1, 1)}]]
    positive, _, latent, summary = encode_request(
        request,
        model,
        vae,
        encode=lambda pictures: pipeline.autoencoder.encode(pictures) / scale,
        null_text=lambda: null,
    )
    clean = positive[0][1]["jodi_clean"].transpose(1, 2) * scale
    job = read_job(latent)
    plan = RolePlan(tuple(job.roles), model.names)
    text = pipeline.encode_text("") if plan.uses_text else None
    guidance = pipeline.default_guidance(plan)
    negative = pipeline.encode_text("", like=text) if plan.uses_text and guidance != 1 else None
    latents = pipeline.sample(
        plan, clean, text, negative, steps=STEPS, seed=SEED, guidance=guidance
    )
    raw = pipeline.decode(latents, plan.generated_names)
    (frame,) = job.frames
    doubts = plan_request(request, model).given.doubts
    assert all(doubt.text in summary for doubt in doubts)
    size = latent["jodi"]["size"]
    return Found(size, summary, len(doubts), {n: shown(n, x, frame) for n, x in raw.items()})


REFUSED = {
    "a domain that is not there": ({"image": smooth(36, 48)}, "heat", {}),
    "another domain given": ({"heat": smooth(36, 48)}, "image", {}),
    "values of 0..255": ({"depth": slope(36, 48) * 255}, "image", {}),
    "a picture with holes": ({"depth": flat(float("nan"))}, "image", {}),
    "rows that differ": ({"image": (2, 36, 48), "depth": (3, 36, 48)}, "normal", {}),
    "an unknown size": ({"image": smooth(36, 48)}, "depth", {"size": "largest"}),
    "an unknown fit": ({"image": smooth(36, 48)}, "depth", {"fit": "stretch"}),
    "nothing made": ({"image": smooth(36, 48)}, "", {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_front_ends_agree_on_refusals(name, pipeline, jodi, tmp_path, monkeypatch):
    """With the same sentence; the command line where it can express the job at all."""
    given, made, settings = REFUSED[name]
    given = {
        of: smooth(*p[1:])[None].expand(p[0], -1, -1, -1) if isinstance(p, tuple) else p[None]
        for of, p in given.items()
    }
    told = {refusal(lambda: run_pipeline(pipeline, given, made, settings))}
    told.add(refusal(lambda: run_nodes(pipeline, given, made, settings)))
    if name == "a domain that is not there":
        monkeypatch.setattr(perceive, "load_pipeline", lambda args: pipeline)
        save_png(tmp_path / "a.png", given["image"][0])
        status, _, err = jodi("perceive", tmp_path / "a.png", "--labels", made)
        assert status == 2
        told.add(err[-1].removeprefix("jodi perceive: error: "))
    assert len(told) == 1, told


def refusal(job) -> str:
    with pytest.raises(JodiError) as error:
        job()
    return str(error.value)


def run_pipeline(pipeline, given, made, settings):
    plan = pipeline.plan(made, given)
    pipeline.run(plan, conditions=given, steps=1, **{"size": "picture ratio", **settings})


def run_nodes(pipeline, given, made, settings):
    model, _ = facts(pipeline)
    names = dict.fromkeys([*DOMAIN_NAMES, *given, *filter(None, [made])])
    roles = dict.fromkeys(DOMAIN_NAMES, "ignore") | dict.fromkeys(given, "condition")
    roles |= {made: "generate"} if made else {}
    images = {name: picture.movedim(1, -1) for name, picture in given.items()}
    domains = [(name, roles[name], images.get(name)) for name in names]
    planned = plan_request(Request(domains, **settings), model)
    for name in planned.given.pictures:
        planned.given.fitted(name)


@pytest.mark.parametrize("name", ["depth.png", "depth.tif"])
def test_front_ends_agree_on_wide_depth_files(name, pipeline, jodi, tmp_path, monkeypatch):
    """A file of 16 bits or floats is, for the command line, what it is as numbers on a wire."""
    values = np.linspace(900, 4000, 36)[:, None].repeat(48, 1)
    stored = values.astype(np.uint16) if name.endswith("png") else values.astype(np.float32) / 65535
    Image.fromarray(stored).save(tmp_path / name)
    shown_as = torch.from_numpy(stored.astype(np.float32))
    shown_as = (shown_as / 65535 if name.endswith("png") else shown_as).expand(3, -1, -1)
    case = Case(lambda: {}, "image")
    core = by_pipeline(pipeline, case, {"depth": shown_as})
    kept, save = {}, jobs.save_result

    def keep(of, raw, frame, *rest):
        kept[of] = shown(of, raw, frame)
        return save(of, raw, frame, *rest)

    monkeypatch.setattr(jobs, "save_result", keep)
    monkeypatch.setattr(control, "load_pipeline", lambda args: pipeline)
    status, _, err = jodi("control", "--depth", tmp_path / name, "--steps", STEPS, "--seed", SEED)
    assert status == 0, err
    assert (kept["image"] - core.maps["image"]).abs().max() <= TOLERANCE
