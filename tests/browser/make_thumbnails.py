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

    def titled(self, title: str) -> Image.Image:
        """The first picture on a node of that title that shows or saves one."""
        named = (n["inputs"] for n in self.graph.values() if n["_meta"]["title"] == title)
        return self.show(*next(wires["images"] for wires in named if "images" in wires))[0]

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


def _everything(runs: Runs) -> Image.Image:
    return mosaic(runs.domains(runs.node("JodiSampler"), *DOMAIN_NAMES))


def _any_to_any(runs: Runs) -> Image.Image:
    shown = ("image", "edge", "segmentation", "depth")
    made, *rest = runs.domains(runs.node("JodiSampler"), *shown)
    return inset(made, rest)


def _sampler_custom(runs: Runs) -> Image.Image:
    made, depth = runs.domains(runs.node("SamplerCustomAdvanced"), "image", "depth")
    return inset(made, [depth])


def _union(runs: Runs) -> Image.Image:
    titles = ("Depth", "Pose", "Edges", "Classes")
    maps = [runs.node("JodiMapForControlNet", f"{t} drawn") for t in titles]
    return quarters([runs.show(node)[0] for node in maps])


def _photo(runs: Runs) -> Image.Image:
    perceived = runs.node("JodiPerceive")
    labels = ("depth", "normal", "albedo", "segmentation")
    layers = [runs.show(perceived, DOMAIN_NAMES.index(name) - 1)[0] for name in labels]
    return quarters(layers)


def _caption(runs: Runs) -> Image.Image:
    made = runs.domains(runs.node("JodiSampler"), "image", "segmentation", "depth")
    given = runs.titled("The picture")
    return captioned(inset(made[0], [given, *made[1:]]), runs.text("What it says"))


def _blanks(runs: Runs) -> Image.Image:
    return captioned(runs.titled("The picture"), runs.text("Filled in"))


def _ask(runs: Runs) -> Image.Image:
    question = runs.graph[runs.node("DDiTAsk")]["inputs"]["question"]
    made = inset(runs.titled("What was chosen"), [runs.titled("The picture")])
    return captioned(made, f"{question}? {runs.text('The answer')}")


def _video(runs: Runs) -> Image.Image:
    """First and last frame: depth above, normals below."""
    films = [runs.wired("SaveAnimatedWEBP", "images", f"{t} video") for t in ("Depth", "Normals")]
    return captioned(
        quarters([film[i] for film in films for i in (0, -1)]), "Frames in, videos of maps out"
    )


def _words(runs: Runs) -> Image.Image:
    prompt = runs.graph[runs.node("DDiTTextEncode", "Prompt")]["inputs"]["text"]
    return captioned(quarters(runs.wired("SaveImage", "images", "From words")), prompt)


CARDS = {
    "perceive_everything": _everything,
    "joint_generation": _everything,
    "any_to_any": _any_to_any,
    "sampler_custom": _sampler_custom,
    "maps_to_union_controlnet": _union,
    "photo_to_exr": _photo,
    "caption_to_new_picture": _caption,
    "fill_the_blanks": _blanks,
    "ask_and_branch": _ask,
    "picture_from_text": _words,
    "steady_video_maps": _video,
}
SHOWN = {
    "depth_normal_to_picture": (
        "The new picture",
        "Depth of the picture",
        "Normals of the picture",
    ),
    "repaint_region": ("Repainted", "Before", "Depth, which stays"),
    "perception_to_controlnet": ("Depth", "The picture"),
    "mesh_from_picture": ("Depth", "The picture", "Normals"),
    "relight": ("Evening: the picture", "The picture as it was"),
}
"""Titles of nodes that show a picture: the large one, then the insets."""


def card(runs: Runs, name: str) -> Image.Image:
    if name in CARDS:
        return CARDS[name](runs)
    large, *small = map(runs.titled, SHOWN[name])
    return inset(large, small)


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
