"""D-DiT in a real server: graphs of all its nodes on files with small random weights.

That the words and pictures are the right ones is checked in tests/nodes; here, that they come out
of graphs as the page posts them: texts shown while they are revealed, Cancel, and wrong files.
"""

import re
import struct
import threading

import pytest
import torch
from jodi_pack.jodi_core.embedded import ASSETS
from jodi_pack.jodi_core.embedded import TRANSFORMER as JODI
from jodi_pack.tests.host import ddit_files
from jodi_pack.tests.host.graphs import add, changed, find, only, pictures, read
from jodi_pack.tests.host.listener import Listener
from jodi_pack.tests.host.server import FailedError
from safetensors.torch import save_file

pytestmark = pytest.mark.comfyui
PREVIEW, TEXT = 1, 3  # kinds of binary messages
DRAWING = {"seed": 5, "steps": 4, "length": 40, "temperature": 1.0, "top_p": 1.0}
DRAWING |= {"order": "random", "whole_picture": False}


@pytest.fixture(scope="module")
def files(server):
    """Inputs of Load D-DiT, whose files are there."""
    return ddit_files.write_files(server.folder / "models")


@pytest.fixture
def graph(server, files):
    """Load D-DiT (1), a picture (2) and the tiny VAE (3)."""
    name = server.upload(ASSETS / "samples" / "sample2_image.png")
    graph = {"1": {"class_type": "DDiTLoad", "inputs": dict(files), "_meta": {"title": "Load"}}}
    add(graph, "LoadImage", image=name)
    add(graph, "VAELoader", vae_name=ddit_files.TINY)
    return graph


def words(graph, kind: str, image=("2", 0), **inputs) -> str:
    """Add a node that makes words, after the settings of its drawing."""
    wires = {"model": ["1", 0], "clip": ["1", 1], "vae": ["3", 0], "image": list(image)}
    return add(graph, kind, **wires, **{**DRAWING, **inputs})


def show(graph, node: str, output: int = 0) -> str:
    return add(graph, "PreviewAny", source=[node, output])


def texts(run, node: str) -> list[str]:
    return run.outputs[node]["text"]


def painting(graph, text="a red bus", **inputs) -> tuple[str, str]:
    """KSampler and what saves its picture."""
    prompts = [add(graph, "DDiTTextEncode", clip=["1", 1], text=t, length=64) for t in (text, "")]
    latent = add(graph, "EmptySD3LatentImage", width=64, height=96, batch_size=1)
    scheme = {"seed": 3, "steps": 6, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
    wires = {"model": ["1", 0], "latent_image": [latent, 0]}
    wires |= {"positive": [prompts[0], 0], "negative": [prompts[1], 0]}
    sampler = add(graph, "KSampler", **{**scheme, **wires, "denoise": 1.0, **inputs})
    decoded = add(graph, "VAEDecode", samples=[sampler, 0], vae=["1", 2])
    return sampler, add(graph, "SaveImage", images=[decoded, 0], filename_prefix="test/ddit")


def revealed(page, node: str) -> list[str]:
    """Texts that a node showed while it ran."""
    found = []
    for message in page.of("binary"):
        (kind,) = struct.unpack(">I", message.data[:4])
        if kind == TEXT:
            (size,) = struct.unpack(">I", message.data[4:8])
            if message.data[8 : 8 + size].decode() == node:
                found.append(message.data[8 + size :].decode())
    return found


def test_a_picture_is_captioned_asked_and_filled_in(server, graph):
    """All three in one graph; the sentence shows on the node as far as it is revealed."""
    caption = words(graph, "DDiTCaption", question="")
    question = {"question": "How many people are there?", "short": True, "answer_tokens": 6}
    asked = words(graph, "DDiTAsk", **question)
    filled = words(graph, "DDiTFill", text="A  {blank} on a {blank:2} table!", blank_tokens=1)
    ends = [
        show(graph, *link) for link in ((caption,), (asked,), (asked, 1), (asked, 2), (filled,))
    ]
    with Listener(server.url) as page:
        run = server.run(graph, client=page.client)
        page.wait(lambda m: m.kind == "executing" and m.data["node"] is None, 60)
    said, answer, yes, count, whole = (texts(run, end) for end in ends)
    assert [len(part) for part in (said, answer, yes, count, whole)] == [1] * 5 and said[0]
    assert yes[0] in ("True", "False") and re.fullmatch(r"-1|\d+", count[0])
    assert re.fullmatch(r"A  .+ on a .+ table!", whole[0]) and "{" not in whole[0]
    for node, final in ((caption, said), (asked, answer), (filled, whole)):
        seen = revealed(page, node)
        assert len(seen) > 1 and seen[-1] == final[0]
    seen = revealed(page, filled)
    assert seen[0].startswith("A  ") and "_" in seen[0] and seen[0] != seen[-1]
    server.forget()
    again = server.run(graph)
    assert [texts(again, end) for end in ends] == [said, answer, yes, count, whole]


def test_a_batch_gives_a_list_and_what_follows_runs_once_for_each(server, graph):
    both = add(graph, "ImageBatch", image1=["2", 0], image2=["2", 0])
    said = words(graph, "DDiTCaption", image=(both, 0), question="What is here?", steps=2)
    shown = show(graph, said)
    _, saved = painting(graph, text=[said, 0], steps=2)
    run = server.run(graph)
    first, second = texts(run, shown)
    assert first != second  # the second row has a seed of its own
    made = pictures(server, run, saved)
    assert made.shape == (2, 3, 96, 64) and not torch.equal(made[0], made[1])


def test_a_caption_becomes_the_prompt_of_jodi(server, graph):
    said = words(graph, "DDiTCaption", question="", steps=2)
    jodi = read("joint_generation")
    for role in ("lineart", "edge", "normal", "albedo", "segmentation", "openpose"):
        jodi = changed(jodi, find(jodi, "JodiRoles"), **{f"{role}_role": "ignore"})
    jodi = changed(jodi, find(jodi, "JodiSampler"), steps=2)
    for key, entry in jodi.items():  # behind the ids of this graph
        links = {k: v for k, v in entry["inputs"].items() if isinstance(v, list) and v[0] in jodi}
        entry["inputs"].update({k: [f"{100 + int(v[0])}", v[1]] for k, v in links.items()})
        graph[f"{100 + int(key)}"] = entry
    graph = changed(graph, find(graph, "JodiTextEncode", "Prompt"), text=[said, 0])
    save = find(graph, "SaveImage")
    assert pictures(server, server.run(graph), save).std() > 0.01


def test_an_answer_steers_a_graph(server, graph):
    asked = words(graph, "DDiTAsk", question="Is it red?", short=True, answer_tokens=4, steps=2)
    ways = [add(graph, "PrimitiveString", value=text) for text in ("refused", "taken")]
    switch = {"switch": [asked, 1], "on_false": [ways[0], 0], "on_true": [ways[1], 0]}
    chosen = show(graph, add(graph, "ComfySwitchNode", **switch))
    yes = show(graph, asked, 1)
    run = server.run(graph)
    assert texts(run, chosen) == [{"True": "taken", "False": "refused"}[texts(run, yes)[0]]]


def test_ksampler_makes_pictures_with_previews(server, graph):
    sampler, saved = painting(graph)
    with Listener(server.url) as page:
        run = server.run(graph, client=page.client)
        page.wait(lambda m: m.kind == "executing" and m.data["node"] is None, 60)
    (made,) = pictures(server, run, saved)
    assert made.shape == (3, 96, 64) and made.std() > 0.01
    kinds = [struct.unpack(">I", m.data[:4])[0] for m in page.of("binary")]
    assert kinds.count(PREVIEW) + kinds.count(4) >= 5, kinds
    steps = [m.data["value"] for m in page.of("progress") if m.data["node"] == sampler]
    assert steps[-1] == 6
    server.forget()
    assert torch.equal(pictures(server, server.run(graph), saved)[0], made)


def test_cancel_stops_while_words_are_revealed(server, graph):
    node = words(graph, "DDiTCaption", question="", length=512, steps=512, seed=99)
    shown, ends = show(graph, node), []

    def post():
        try:
            ends.append(server.run(graph, client=page.client))
        except FailedError as error:
            ends.append(str(error))

    with Listener(server.url) as page:
        poster = threading.Thread(target=post)
        poster.start()
        page.wait(lambda m: m.kind == "progress" and m.data["value"] >= 3, 300)
        server.interrupt()
        asked = len(revealed(page, node))
        stopped = page.wait(lambda m: m.kind == "execution_interrupted", 120)
        poster.join(120)
    assert not poster.is_alive() and ends == ["DDiTCaption: interrupted"]
    assert stopped.data["node_type"] == "DDiTCaption"
    assert len(revealed(page, node)) - asked <= 2
    quick = changed(graph, node, length=40, steps=2)
    assert texts(server.run(quick), shown)[0]


def failure(server, graph, *parts: str) -> None:
    """The graph stops with a message that holds every part, and the server lives on."""
    with pytest.raises(FailedError) as caught:
        server.run(graph)
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert server.alive()


@pytest.fixture(scope="module")
def wrong(server):
    """Files of other kinds in every folder, by what they are."""
    tensors = {
        "t5": ddit_files.t5_tensors(width=32),
        "sdxl": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(320, 4, 3, 3),
                 "model.diffusion_model.label_emb.0.0.weight": torch.ones(1280, 2816)},
        "sd3": {f"joint_blocks.0.{part}_block.attn.qkv.weight": torch.ones(2, 4)
                for part in ("context", "x")},
    }  # fmt: skip
    for folder in ("diffusion_models", "text_encoders", "vae"):
        for name, content in tensors.items():
            save_file(content, server.folder / "models" / folder / f"wrong_{name}.safetensors")
        target = server.folder / "models" / folder / "wrong_jodi.safetensors"
        target.write_bytes(JODI.read_bytes())
        (target.parent / "wrong_page.safetensors").write_bytes(b"<html>not found</html>")
    torch.save(torch.ones(7), server.folder / "models" / "text_encoders" / "wrong_vector.pth")


@pytest.mark.parametrize(
    ("entry", "file", "parts"),
    [
        ("model", "wrong_jodi.safetensors", ("Jodi transformer", "Load Jodi Model")),
        ("model", "wrong_t5.safetensors", ("T5 text encoder", "models/text_encoders")),
        ("model", "wrong_sd3.safetensors", ("Stable Diffusion 3",)),
        ("model", "wrong_sdxl.safetensors", ("wrong_sdxl.safetensors", "choose another file")),
        ("model", "wrong_page.safetensors", ("wrong_page.safetensors",)),
        ("text_encoder", "wrong_t5.safetensors", ("(48,)", "of 32 channels", "T5-v1.1-XXL")),
        ("text_encoder", "wrong_jodi.safetensors", ("T5", "Load Jodi Model")),
        ("mask_vector", "wrong_vector.pth", ("(7,)", "(48,)", "mask_token_emb")),
        ("mask_vector", "wrong_t5.safetensors", ("the mask vector alone",)),
        ("vae", "wrong_sd3.safetensors", ("expected a VAE",)),
        ("vae", "wrong_jodi.safetensors", ("expected a VAE", "Load Jodi Model")),
    ],
)
def test_wrong_files_are_explained(server, graph, wrong, entry, file, parts):
    painting(graph)
    failure(server, changed(graph, "1", **{entry: file}), "DDiTLoad", *parts)


def test_wrong_words_are_explained_before_anything_runs(server, graph):
    asked = words(graph, "DDiTAsk", question="", short=True, answer_tokens=0)
    show(graph, asked)
    failure(server, graph, "DDiTAsk", "question is empty")
    failure(server, changed(graph, asked, question="why " * 90), "tokens, where", "Shorten it by")
    failure(server, changed(graph, asked, question="is ~ it?"), "no token for: ~")
    _, saved = painting(graph, text="bus " * 70)
    failure(server, only(graph, saved), "prompt is too long")
    shown = show(graph, asked)
    bare = changed(changed(graph, "1", mask_vector="none"), asked, question="Is it red?")
    bare = only(bare, shown)
    failure(server, bare, "DDiTAsk", "mask_token_emb.00-of-01.pth", "models/text_encoders")
