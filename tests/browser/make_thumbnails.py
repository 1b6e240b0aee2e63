"""Make the pictures on the templates' cards, workflows/*.jpg, from runs of the templates.

    COMFYUI_PATH=~/ComfyUI python tests/browser/make_thumbnails.py [NAME ...]

What is made fills the card; what was given lies on it as insets. A template that needs other
people's weights shows the part that Jodi does: there the card is the depth map alone.
"""

import importlib.util
import io
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

SIDE, QUALITY = 384, 88
HERE = Path(__file__).resolve().parent
MOSAIC = [(0, 0, 3)] + [(3, i, 1) for i in range(4)] + [(i, 3, 1) for i in range(3)]


def _pack():
    """The pack under the name that its tests use."""
    spec = importlib.util.spec_from_file_location("conftest", HERE.parent / "conftest.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


_pack()
from jodi_pack.jodi_core.domains import DOMAIN_NAMES  # noqa: E402
from jodi_pack.kit.pictures.contact_sheet import font  # noqa: E402
from jodi_pack.tests.host.graphs import NAMES, add, find, only, read  # noqa: E402
from jodi_pack.tests.host.server import Server  # noqa: E402
from jodi_pack.tests.hosts import ROOT, find_hosts  # noqa: E402


class Runs:
    """Runs of parts of a template; asks for its outputs by name."""

    def __init__(self, server: Server, name: str):
        self.server, self.graph = server, read(name)

    def show(self, node: str, output: int = 0) -> list[Image.Image]:
        """The pictures on one output of a node."""
        key = add(self.graph, "PreviewImage", images=[node, output])
        run = self.server.run(only(self.graph, key))
        files = [self.server.view(file) for file in run.files(key)]
        return [Image.open(io.BytesIO(data)).convert("RGB") for data in files]

    def text(self, title: str) -> str:
        """What a node that shows text shows, its first one."""
        key = find(self.graph, "PreviewAny", title)
        return self.server.run(only(self.graph, key)).outputs[key]["text"][0]

    def domains(self, sampler: str, *names: str) -> list[Image.Image]:
        """Domains of what a sampler made, given ones too."""
        vae = [find(self.graph, "JodiLoad"), 2]
        decode = add(self.graph, "JodiDecodeAll", latent=[sampler, 0], vae=vae)
        self.graph[decode]["inputs"]["given"] = True
        return [self.show(decode, DOMAIN_NAMES.index(name))[0] for name in names]

    def node(self, kind: str, title: str | None = None) -> str:
        return find(self.graph, kind, title)

    def wired(self, kind: str, entry: str, title: str | None = None) -> list[Image.Image]:
        """What comes in at an input of a node."""
        return self.show(*self.graph[find(self.graph, kind, title)]["inputs"][entry])


def mosaic(pictures: list[Image.Image]) -> Image.Image:
    """The first large, seven around it."""
    card = Image.new("RGB", (SIDE, SIDE))
    for picture, (x, y, size) in zip(pictures, MOSAIC, strict=True):
        unit = SIDE // 4
        card.paste(_fitted(picture, size * unit), (x * unit, y * unit))
    return card


def inset(picture: Image.Image, given: list[Image.Image]) -> Image.Image:
    """A picture, and small ones along its lower edge."""
    card, size, gap = _fitted(picture, SIDE), SIDE // 4, SIDE // 40
    for i, small in enumerate(given):
        framed = ImageOps.expand(_fitted(small, size), 2, "white")
        card.paste(framed, (gap + i * (size + 4 + gap), SIDE - gap - size - 4))
    return card


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """A picture with a line or two of text above it."""
    card, size = _fitted(picture, SIDE), 17
    face = font(size)
    lines = textwrap.wrap(text, 40)[:3]
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, SIDE, 10 + (size + 5) * len(lines)), fill=(24, 26, 32))
    for i, line in enumerate(lines):
        draw.text((10, 6 + i * (size + 5)), line, font=face, fill="white")
    return card


def quarters(pictures: list[Image.Image]) -> Image.Image:
    card = Image.new("RGB", (SIDE, SIDE))
    for i, picture in enumerate(pictures[:4]):
        card.paste(_fitted(picture, SIDE // 2), (i % 2 * SIDE // 2, i // 2 * SIDE // 2))
    return card


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)


def card(runs: Runs, name: str) -> Image.Image:
    if name in ("perceive_everything", "joint_generation"):
        return mosaic(runs.domains(runs.node("JodiSampler", "Jodi Sampler"), *DOMAIN_NAMES))
    if name == "any_to_any":
        shown = ("image", "edge", "segmentation", "depth")
        made, *rest = runs.domains(runs.node("JodiSampler", "Jodi Sampler"), *shown)
        return inset(made, rest)
    if name == "sampler_custom":
        made, depth = runs.domains(runs.node("SamplerCustomAdvanced"), "image", "depth")
        return inset(made, [depth])
    if name == "depth_normal_to_picture":
        given = [
            p
            for label in ("depth", "normal")
            for p in runs.wired("PreviewImage", "images", f"The scene: {label}")
        ]
        return inset(runs.wired("SaveImage", "images", "The new picture")[0], given)
    if name == "repaint_region":
        before = runs.wired("PreviewImage", "images", "Before")
        depth = runs.wired("PreviewImage", "images", "Depth, which stays")
        return inset(runs.wired("SaveImage", "images", "Repainted")[0], before + depth)
    if name == "perception_to_controlnet":
        image = runs.wired("JodiRoles", "image", "Jodi Roles: image in, depth out")
        return inset(runs.wired("PreviewImage", "images", "Depth")[0], image)
    if name in ("caption_to_new_picture", "fill_the_blanks"):
        title = "What it says" if name.startswith("caption") else "Filled in"
        given = runs.wired("PreviewImage", "images", "The picture")[0]
        if name == "fill_the_blanks":
            return captioned(given, runs.text(title))
        sampler = runs.node("JodiSampler", "Jodi Sampler")
        made = runs.domains(sampler, "image", "segmentation", "depth")
        return captioned(inset(made[0], [given, *made[1:]]), runs.text(title))
    if name == "ask_and_branch":
        given = runs.wired("PreviewImage", "images", "The picture")
        made = runs.wired("SaveImage", "images", "What was chosen")[0]
        question = runs.graph[runs.node("DDiTAsk")]["inputs"]["question"]
        return captioned(inset(made, given), f"{question}? {runs.text('The answer')}")
    if name == "picture_from_text":
        prompt = runs.graph[runs.node("DDiTTextEncode", "Prompt")]["inputs"]["text"]
        return captioned(quarters(runs.wired("SaveImage", "images", "From words")), prompt)
    assert name == "video_batch", f"say here what the card of {name} shows"
    return quarters(runs.wired("SaveAnimatedWEBP", "images"))


def main(names: list[str]):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(find_hosts()[0], Path(folder))
        try:
            server.start()
            for name in names or NAMES:
                picture = card(Runs(server, name), name)
                picture.save(ROOT / "workflows" / f"{name}.jpg", quality=QUALITY, optimize=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
