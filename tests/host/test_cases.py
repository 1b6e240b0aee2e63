"""Graphs that people sent, posted as the files they are; each is compared with what is right.

They lie beside the reference vectors and take the bundled samples from the input folder.
"""

import json

import pytest
import torch
from jodi_pack.jodi_core.embedded import ASSETS
from jodi_pack.tests.conftest import shared_dir, skip_or_fail
from jodi_pack.tests.host.graphs import changed, pictures
from jodi_pack.tests.host.server import PACK

pytestmark = [pytest.mark.comfyui, pytest.mark.reference]
SAVED = {"CLIPSave": "text_encoders", "ModelSave": "diffusion_models"}


@pytest.fixture(scope="module")
def case():
    folder = shared_dir() / "cases" / "graphs"
    if not folder.is_dir():
        skip_or_fail("reference", f"no graphs at {folder}; set JODI_SHARED")
    return lambda name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def samples(server):
    for file in sorted((ASSETS / "samples").glob("sample*_image.png")):
        server.upload(file)


def shown(server, graph) -> torch.Tensor:
    return pictures(server, server.run(graph), "6")


def test_frames_in_context_windows_are_those_of_the_plain_run(server, samples, case):
    plain = shown(server, case("graph_video18_depth_plain_reference"))
    windows = case("graph_video18_depth_ContextWindowsManual_WRONG_frames")
    assert len(plain) == 18 and (plain[0] - plain[1]).abs().max() > 0.2
    for overlap in (0, 4):
        graph = changed(windows, "9", context_overlap=overlap)
        assert (shown(server, graph) - plain).abs().max() < 1.5 / 255, overlap


def test_uni_pc_makes_a_picture(server, case):
    graph = case("graph_KSampler_uni_pc_t2i_REFUSED_at_decode")
    made = shown(server, graph)
    euler = shown(server, changed(graph, "4", sampler_name="euler"))
    # both solve one equation in 20 steps from one noise
    assert made.std() > 0.05 and (made - euler).abs().mean() < 0.05


def test_renorm_cfg_makes_a_picture(server, case):
    assert shown(server, case("graph_RenormCFG_AttributeError_in_channels")).std() > 0.05


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("graph_CLIPSave_non_contiguous_ValueError", "CLIPSave"),
        ("graph_ModelSave_builtin_then_LoadJodiModel_fails", "ModelSave"),
    ],
)
def test_what_is_saved_loads_back_and_makes_the_same_picture(server, case, name, kind):
    server.run(case(name))
    prefix = case(name)["s"]["inputs"]["filename_prefix"]
    (file,) = (server.folder / "output").glob(f"{prefix}*.safetensors")
    name, target = f"{PACK}_{file.name}", server.folder / "models" / SAVED[kind]
    target.mkdir(exist_ok=True)
    file.replace(target / name)
    graph = case("graph_RenormCFG_AttributeError_in_channels")
    graph = changed(graph, "4", model=["1", 0])
    server.forget()  # lists of files are kept for a moment
    socket = {"CLIPSave": "text_encoder", "ModelSave": "model"}[kind]
    again = shown(server, changed(graph, "1", **{socket: name}))
    assert (again - shown(server, graph)).abs().max() < 1.5 / 255
