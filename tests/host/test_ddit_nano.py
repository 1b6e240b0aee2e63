"""The templates with ddit-nano on a real server: its words are those of the core's own pipeline."""

import functools

import pytest
from jodi_pack.ddit_core.embedded import load_embedded_pipeline
from jodi_pack.ddit_core.text.sampler import TextOptions
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.tests.host.graphs import add, changed, find, only, pictures, read

pytestmark = [pytest.mark.comfyui, pytest.mark.slow]
SHOWN = 1 / 255 + 1e-3  # a shown picture: the host cuts it to 8 bits


@functools.cache
def core():
    return load_embedded_pipeline()


def options(steps: int) -> TextOptions:
    return TextOptions(steps=steps, temperature=0.0)


def texts(run, graph: dict, title: str) -> list[str]:
    return list(run.outputs[find(graph, "PreviewAny", title)]["text"])


def scene(server, graph: dict):
    """A loader of the graph's picture, as a person would put it in, and that picture."""
    run = server.run(only(graph, find(graph, "PreviewImage", "The picture")))
    shown = pictures(server, run, find(graph, "PreviewImage", "The picture"))
    (file,) = run.files(find(graph, "PreviewImage", "The picture"))
    path = server.folder / "scene.png"
    path.write_bytes(server.view(file))
    loaded = add(graph, "LoadImage", image=server.upload(path))
    return loaded, shown


def test_fill_the_blanks(server):
    graph = read("fill_the_blanks")
    loaded, picture = scene(server, graph)
    for title in (None, "An open end"):
        title = title or "D-DiT Fill"
        graph = changed(graph, find(graph, "DDiTFill", title), image=[loaded, 0])
    run = server.run(graph)
    for title, shown, blanks in (
        ("D-DiT Fill", "Filled in", 1),
        ("An open end", "Filled in to the end", 2),
    ):
        text = graph[find(graph, "DDiTFill", title)]["inputs"]["text"]
        expected = core().fill(picture, text, blank_tokens=blanks, options=options(12)).texts
        assert texts(run, graph, shown) == list(expected)


def test_ask_and_branch(server):
    graph = read("ask_and_branch")
    loaded, picture = scene(server, graph)
    graph = changed(graph, find(graph, "DDiTAsk"), image=[loaded, 0])
    run = server.run(graph)
    question = graph[find(graph, "DDiTAsk")]["inputs"]["question"]
    (expected,) = core().ask(picture, question, options=options(1)).texts
    assert texts(run, graph, "The answer") == [expected]
    made = pictures(server, run, find(graph, "SaveImage", "What was chosen"))
    # The pose is lines on black; a depth map is not.
    assert (made.mean() < 0.2) == (expected == "yes")


def test_caption_to_new_picture(server):
    graph = read("caption_to_new_picture")
    loaded, picture = scene(server, graph)
    graph = changed(graph, find(graph, "DDiTCaption"), image=[loaded, 0])
    run = server.run(graph)
    expected = core().caption(picture, options=options(12)).texts
    assert texts(run, graph, "What it says") == list(expected)
    node = find(graph, "SaveImage", "The new picture with all labels")
    assert pictures(server, run, node).std() > 0.05


def test_picture_from_text(server):
    graph = read("picture_from_text")
    run = server.run(graph)
    made = pictures(server, run, find(graph, "SaveImage", "From words"))
    assert made.shape == (4, 3, 64, 64) and made.std() > 0.05
    assert len(texts(run, graph, "Its own captions")) == 4
    (file, *_) = run.files(find(graph, "SaveImage", "From words"))
    picture, _ = load_image(server.view(file))
    assert (picture - made[:1]).abs().max() < SHOWN
