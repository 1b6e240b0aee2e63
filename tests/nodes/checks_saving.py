"""Models saved by ComfyUI's own save nodes load back whole. Run by test_nodes.py in a ComfyUI."""

import comfy.sd
import folder_paths
import torch
from comfy_extras import nodes_model_merging
from jodi_pack.cli.info import describe
from jodi_pack.jodi_core.embedded import load_text_encoder
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.nodes.host.dcae import load_vae
from jodi_pack.nodes.host.jodi_load import load_model
from jodi_pack.nodes.host.jodi_text import encode_text, load_text
from jodi_pack.nodes.jodi import loaders
from jodi_pack.nodes.wires.agreement import BUILT_IN, check_vae_wire
from jodi_pack.tests.nodes.parts import parts


def saved(folder, node, name, **wires):
    """The one file that a save node of the host writes."""
    before, folder_paths.output_directory = folder_paths.output_directory, str(folder)
    try:
        node().save(**wires, filename_prefix=name)
    finally:
        folder_paths.output_directory = before
    (file,) = folder.glob(f"{name}*.safetensors")
    return file


def built_in():
    return loaders.JodiLoad.execute(BUILT_IN, BUILT_IN, BUILT_IN, "fp32").args


def check_a_saved_model_loads_back(folder):
    model, _, _ = built_in()
    file = saved(folder, nodes_model_merging.ModelSave, "model", model=model)
    again = load_model(file, "fp32")
    assert _host.read_model_facts(again) == _host.read_model_facts(model)
    before, after = model.model.state_dict(), again.model.state_dict()
    assert set(before) == set(after)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any("jodi-nano" in str(value) for _, value in describe(file))


def check_a_merge_loads_back(folder):
    model, _, _ = built_in()
    name = "diffusion_model.blocks.0.attn.qkv.weight"
    ours = model.model.state_dict()[name].clone()  # a merge is written over it
    merge = nodes_model_merging.ModelMergeSimple()
    other = load_model(saved(folder, nodes_model_merging.ModelSave, "same", model=model), "fp32")
    with torch.inference_mode():
        for tensor in other.model.diffusion_model.state_dict().values():
            tensor.mul_(3)
    (merged,) = merge.merge(model, other, 0.5)
    file = saved(folder, nodes_model_merging.ModelSave, "merged", model=merged)
    again = load_model(file, "fp32")
    assert torch.allclose(again.model.state_dict()[name], 2 * ours, rtol=1e-5, atol=1e-7)
    assert _host.read_model_facts(again) == _host.read_model_facts(model)


def check_a_model_of_other_sizes_loads_back(folder):
    model, vae, _ = parts(3, ("image", "depth", "normal", "thermal"), "any", 0.7)
    file = saved(folder, nodes_model_merging.ModelSave, "tiny", model=model)
    assert _host.read_model_facts(load_model(file)) == _host.read_model_facts(model)
    kept = load_vae(saved(folder, nodes_model_merging.VAESave, "tinyvae", vae=vae))
    check_vae_wire(_host.read_model_facts(model), _host.read_vae_facts(kept))


def check_a_saved_vae_loads_back(folder):
    _, _, vae = built_in()
    file = saved(folder, nodes_model_merging.VAESave, "vae", vae=vae)
    again = load_vae(file)
    assert again.config == vae.config
    before, after = vae.first_stage_model.state_dict(), again.first_stage_model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def check_a_saved_text_encoder_loads_back(folder):
    _, clip, _ = built_in()
    file = saved(folder, nodes_model_merging.CLIPSave, "clip", clip=clip)
    again = load_text(file)
    assert isinstance(again, comfy.sd.CLIP)
    prompt = "a red house under a blue sky"
    ((before, _),), ((after, _),) = encode_text(clip, prompt), encode_text(again, prompt)
    assert torch.equal(before, after)
    ours = load_text_encoder()
    assert torch.equal(load_text_encoder(file)([prompt]).caption, ours([prompt]).caption)


def check_saved_parts_make_a_pipeline(folder):
    model, _, vae = built_in()
    file = saved(folder, nodes_model_merging.ModelSave, "one", model=model)
    latents = saved(folder, nodes_model_merging.VAESave, "two", vae=vae)
    pipeline = JodiPipeline.from_files(file, latents)
    assert pipeline.facts == JodiPipeline.embedded().facts
