"""The loader nodes, with files in ComfyUI's own folders. Run by test_nodes.py in a ComfyUI."""

import asyncio
import json
import os

import comfy.sd
import execution
import folder_paths
import jodi_pack
import torch
from jodi_pack.cli.info import describe
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.embedded import AUTOENCODER, TRANSFORMER
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.facts import VAEFacts, read_facts
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.jodi_core.training.export import Parts, export
from jodi_pack.kit.errors import CheckpointError, JodiError, RoleError, ShapeError
from jodi_pack.kit.sampling import draw_noise
from jodi_pack.kit.weights.read import read_state_dict
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.nodes.host.dcae import load_vae
from jodi_pack.nodes.host.jodi_load import load_model
from jodi_pack.nodes.host.jodi_text import load_text
from jodi_pack.nodes.jodi import loaders
from jodi_pack.nodes.jodi.text import JodiTextEncode
from jodi_pack.nodes.wires import agreement
from jodi_pack.nodes.wires.agreement import check_vae_wire
from jodi_pack.tests.helpers import TINY, tiny_autoencoder, tiny_transformer
from jodi_pack.tests.nodes.jobs import relative
from jodi_pack.tests.nodes.parts import AE, raises
from safetensors.torch import save_file


def place(folder, name, kind, write):
    """A file in one of the host's model folders."""
    target = folder / kind
    target.mkdir(exist_ok=True)
    folder_paths.add_model_folder_path(kind, str(target))
    write(target / name)
    folder_paths.filename_list_cache.clear()
    return name


def transformer(path):
    about = {"config": TINY.to_json(), "native_size": "48", "vae_factor": "8"}
    about["latent_scale"] = str(AE.scaling_factor)
    write_state_dict(path, tiny_transformer(TINY).state_dict(), about)


def autoencoder(path):
    write_state_dict(path, tiny_autoencoder(AE).state_dict(), {"config": AE.to_json()})


def check_every_node_is_offered():
    extension = asyncio.run(jodi_pack.comfy_entrypoint())
    ids = [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]
    jodi = (
        *("Load", "LoadModel", "LoadVAE", "LoadTextEncoder", "TextEncode", "Roles"),
        *("ExtraDomain", "Sampler", "SamplerSelect", "Scheduler", "DecodeLabel", "DecodeAll"),
        *("Depth", "Normal", "Segmentation", "ContactSheet", "Ensemble", "Example", "Perceive"),
        *("PoseKeypoints", "PosePicture", "ClassMasks", "MapForControlNet", "SaveLayersEXR"),
        *("Geometry", "Relight", "LatentTransform"),
    )
    ddit = ("Load", "TextEncode", "Caption", "Ask", "Fill")
    assert sorted(ids) == sorted(
        [*(f"Jodi{name}" for name in jodi), *(f"DDiT{name}" for name in ddit)]
    )


def check_every_input_explains_itself():
    extension = asyncio.run(jodi_pack.comfy_entrypoint())
    for node in asyncio.run(extension.get_node_list()):
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category.startswith("Jodi"), schema.node_id
        silent = [i.id for i in schema.inputs if not i.tooltip]
        silent += [o.display_name for o in schema.outputs if not o.tooltip]
        assert not silent, (schema.node_id, silent)


@torch.inference_mode()
def check_the_built_in_parts_belong_together():
    model, clip, vae = loaders.JodiLoad.execute(
        agreement.BUILT_IN, agreement.BUILT_IN, agreement.BUILT_IN, "default"
    ).args
    assert isinstance(vae, comfy.sd.VAE) and isinstance(clip, comfy.sd.CLIP)
    facts = _host.read_model_facts(model)
    assert facts.title == "jodi-nano" and facts.trained_roles == "any"
    assert facts.latent_scale == vae.latent_scale and facts.vae_factor == vae.factor
    assert clip.cond_stage_model.channels == facts.caption_channels


@torch.inference_mode()
def check_the_built_in_model_equals_the_core_pipeline():
    """From a prompt to a picture through the host's own KSampler machinery, and by the core."""
    built_in = agreement.BUILT_IN
    model, clip, vae = loaders.JodiLoad.execute(built_in, built_in, built_in, "fp32").args
    pipeline = JodiPipeline.embedded()
    plan = pipeline.plan(["image"])
    prompt, negative = (
        [[features, {**extra, "jodi_roles": plan.as_tensor()}]]
        for text in ("a red house under a blue sky", "")
        for ((features, extra),) in JodiTextEncode.execute(clip, text, True).args
    )
    latent = {"samples": torch.zeros(1, vae.latent_channels, 8, 8, 8)}
    result = _host.run_sampler(
        model,
        prompt,
        agreement.apply_prompt_mask(prompt, negative),
        latent,
        noise=draw_noise((1, 8, vae.latent_channels, 8, 8), [4]).transpose(1, 2).contiguous(),
        sampler=_host.make_jodi_sampler(),
        sigmas=_host.make_jodi_sigmas(3),
        guidance=_host.read_model_facts(model).guidance,
    )
    expected = pipeline.run(plan, prompt="a red house under a blue sky", seed=4, steps=3)
    ours = (result * vae.latent_scale).transpose(1, 2)
    assert relative(ours[:, 0], expected.latents[:, 0]) < 1e-4
    raw = _host.decode_domain(vae, result, 0).movedim(-1, 1)
    assert relative(raw, expected.raw["image"]) < 1e-4


def check_single_loaders_and_text_left_out(folder):
    model = place(folder, "tiny.safetensors", "diffusion_models", transformer)
    vae = place(folder, "tiny.safetensors", "vae", autoencoder)
    pickle = place(
        folder,
        "old.pth",
        "diffusion_models",
        lambda path: torch.save({"state_dict": tiny_transformer(TINY).state_dict()}, path),
    )
    for node, kind in ((loaders.JodiLoadModel, model), (loaders.JodiLoadModel, pickle)):
        assert kind in node.GET_SCHEMA().inputs[0].options
    (loaded,) = loaders.JodiLoadModel.execute(model, "fp32").args
    assert _host.read_model_facts(loaded).title == "tiny"
    (loaded,) = loaders.JodiLoadVAE.execute(vae).args
    assert loaded.factor == AE.factor
    _, clip, _ = loaders.JodiLoad.execute(
        agreement.BUILT_IN, agreement.BUILT_IN, "none", "bf16"
    ).args
    assert "text encoder" in clip.message
    with raises(CheckpointError, "old.pth", "shapes alone do not tell"):
        loaders.JodiLoadModel.execute(pickle, "default")


def check_parts_that_do_not_belong_together(folder):
    model = place(folder, "other.safetensors", "diffusion_models", transformer)
    vae = place(folder, "other.safetensors", "vae", autoencoder)
    built_in = agreement.BUILT_IN
    with raises(ShapeError, "other works on latents of 5 channels", "latents of 32", "8 x 8"):
        loaders.JodiLoad.execute(model, built_in, built_in, "default")
    with raises(ShapeError, "jodi-nano works on", "latents of 5", "Load Jodi (built-in jodi-nano)"):
        loaders.JodiLoad.execute(built_in, vae, built_in, "default")
    with raises(JodiError, "other.safetensors reads text of 24", "jodi-nano makes", "none"):
        loaders.JodiLoad.execute(model, vae, built_in, "default")


def check_the_message_names_the_released_vae():
    released = read_facts(JODI_1600M, {}, "jodi")
    with raises(ShapeError, "32 x 32 pixels", "dc-ae-f32c32-sana-1.0 in models/vae"):
        check_vae_wire(released, VAEFacts(32, 8, 1.0))
    check_vae_wire(released, VAEFacts(32, 32, 0.41407))


def check_exported_files_say_which_vae_they_belong_to(folder):
    text = ClosedVocabularyEncoder([f"word{i}" for i in range(10)], TINY.caption_length)
    networks = Parts(tiny_transformer(TINY), tiny_autoencoder(AE), text)
    written = export(networks, folder / "run", native_size=48)
    about = read_state_dict(written["transformer"])[1]
    assert (about["vae_factor"], about["latent_scale"]) == ("8", "0.41407")
    model, vae = load_model(written["transformer"]), load_vae(written["autoencoder"])
    check_vae_wire(_host.read_model_facts(model), _host.read_vae_facts(vae))
    shipped = read_state_dict(TRANSFORMER)[1]
    assert {"vae_factor", "latent_scale"} <= set(shipped)


def check_swapped_files_name_the_right_loader(folder):
    model = place(folder, "vae.safetensors", "diffusion_models", autoencoder)
    vae = place(folder, "model.safetensors", "vae", transformer)
    text = place(folder, "model.safetensors", "text_encoders", transformer)
    with raises(CheckpointError, "DC-AE", "Load Jodi VAE", "models/vae"):
        loaders.JodiLoadModel.execute(model, "default")
    with raises(CheckpointError, "Jodi transformer", "Load Jodi Model"):
        loaders.JodiLoadVAE.execute(vae)
    with raises(CheckpointError, "Jodi transformer", "Load Jodi Model"):
        loaders.JodiLoadTextEncoder.execute(text)


def check_lies_and_faults_are_said_as_by_the_commands(folder):
    state = tiny_transformer(TINY).state_dict()
    name = "blocks.0.attn.qkv.weight"
    broken = state[name].clone()
    broken[0, 0] = float("nan")
    cases = (
        ({}, {"native_size": "-64"}),
        ({}, {"domains": json.dumps(["image", "edge", "lineart", *DOMAIN_NAMES[3:]])}),
        ({}, {"config": TINY.to_json().replace('"depth": 2', '"depth": 100000')}),
        ({name: state[name].long()}, {}),
        ({name: broken}, {}),
        ({"x" * 100_000: torch.ones(1)}, {}),
    )
    path = folder / "fault.safetensors"
    for changed, about in cases:
        about = {"config": TINY.to_json(), **about}
        write_state_dict(path, {**state, **changed}, about, force=True)
        said = set()
        for door in (load_model, lambda path: list(describe(path)), JodiPipeline.from_files):
            try:
                door(path)
                said.add("nothing")
            except CheckpointError as error:
                said.add(str(error))
        assert len(said) == 1 and "nothing" not in said, said
    os.mkfifo(folder / "pipe.safetensors")
    for door in (load_model, load_vae, load_text):
        with raises(CheckpointError, "a pipe, a socket or a device"):
            door(folder / "pipe.safetensors")
    eight = {n: t.to(torch.float8_e4m3fn) if n == name else t for n, t in state.items()}
    save_file(eight, path, {"config": TINY.to_json()})
    assert load_model(path, "bf16") is not None


def check_truncated_files(folder):
    def cut(source, share):
        return lambda path: path.write_bytes(source.read_bytes()[: int(share)])

    size = TRANSFORMER.stat().st_size
    model = place(folder, "cut.safetensors", "diffusion_models", cut(TRANSFORMER, size // 2))
    vae = place(folder, "cut.safetensors", "vae", cut(AUTOENCODER, 40))
    with raises(CheckpointError, "cut.safetensors", "truncated"):
        loaders.JodiLoadModel.execute(model, "default")
    with raises(CheckpointError, "cut.safetensors"):
        loaders.JodiLoadVAE.execute(vae)


def check_an_error_is_named_without_the_folder_of_the_pack():
    extension = asyncio.run(jodi_pack.comfy_entrypoint())
    asyncio.run(extension.get_node_list())
    assert execution.full_type_name(RoleError) == "jodi.RoleError"
    assert execution.full_type_name(JodiError) == "jodi.JodiError"
