"""LoRA files of ours in the host's loaders, its Train LoRA node, and domains that were added.

Run by test_nodes.py inside a ComfyUI.
"""

import comfy.utils
import folder_paths
import torch
from comfy_extras import nodes_train
from jodi_pack.jodi_core.embedded import AUTOENCODER, TRANSFORMER
from jodi_pack.jodi_core.model.checkpoint import load_transformer
from jodi_pack.jodi_core.model.facts import read_facts, write_facts
from jodi_pack.jodi_core.training.config import LoraConfig
from jodi_pack.jodi_core.training.extend import extend_facts, extend_model
from jodi_pack.jodi_core.training.network import TrainedJodi
from jodi_pack.jodi_core.training.result import write_adapters, write_model
from jodi_pack.kit.training.lora import add_adapters, merge_adapters, read_adapter_scales
from jodi_pack.nodes.host import jodi_load as host_load
from jodi_pack.nodes.host.dcae import load_vae
from jodi_pack.nodes.host.sampler import read_model_facts
from jodi_pack.nodes.jodi.decode import JodiDecodeLabel
from jodi_pack.nodes.jodi.overview import JodiContactSheet
from jodi_pack.nodes.jodi.roles import JodiExtraDomain, JodiRoles
from jodi_pack.nodes.jodi.sampling import JodiSampler
from jodi_pack.tests.helpers import relative_rms
from jodi_pack.tests.nodes.parts import image, parts, text

import nodes

MODEL, VAE, PIPELINE = parts()
FACTS = read_model_facts(MODEL)


def run(model):
    wires = JodiRoles.execute(model, VAE, text(), text(seed=8), depth=image(1, 48, 48)).args[:3]
    return JodiSampler.execute(model, *wires, 0, 2, 2.0).args[0]["samples"]


def trained_adapters():
    """The model with adapters on every layer that may have one, as if trained."""
    model = TrainedJodi.of(PIPELINE.transformer)
    add_adapters(model, LoraConfig().targets, 2, 3.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return model


def check_every_loader_gives_the_merged_weights(folder):
    trained = trained_adapters()
    state, scales = trained.state_dict(), read_adapter_scales(trained)
    write_adapters(folder / "ours.safetensors", state, scales, FACTS, torch.float32)
    metadata = {"format": "pt", **write_facts(trained.config, FACTS)}
    merged_file = folder / "merged.safetensors"
    write_model(merged_file, merge_adapters(state, scales), metadata, torch.float32)
    merged = run(host_load.load_model(merged_file, "fp32"))
    assert relative_rms(run(MODEL), merged) > 0.01, "the adapters must matter"

    folder_paths.add_model_folder_path("loras", str(folder))
    lora = comfy.utils.load_torch_file(str(folder / "ours.safetensors"), safe_load=True)
    loaded = {
        "model only": nodes.LoraLoaderModelOnly().load_lora_model_only(
            MODEL, "ours.safetensors", 1.0
        )[0],
        "model and text": nodes.LoraLoader().load_lora(MODEL, None, "ours.safetensors", 1.0, 0.0)[
            0
        ],
        "trained": nodes_train.LoraModelLoader.execute(MODEL, lora, 1.0).args[0],
    }
    for name, model in loaded.items():
        assert len(model.patches) == len(scales), (name, len(model.patches))
        error = relative_rms(run(model), merged)
        assert error < 1e-5, (name, error)


def check_train_lora_of_the_host_trains_ours(folder):
    # From a file that stays: the node loads the model anew, so as not to change the one it got.
    file, about = folder / "base.safetensors", write_facts(PIPELINE.transformer.config, FACTS)
    write_model(file, PIPELINE.transformer.state_dict(), {"format": "pt", **about}, torch.float32)
    base = host_load.load_model(file, "fp32")
    wires = JodiRoles.execute(base, VAE, text(), text(seed=8), depth=image(1, 48, 48)).args[:3]
    positive, _, latent = wires
    schema = nodes_train.TrainLoraNode.GET_SCHEMA()
    options = {i.id: [getattr(i, "default", None)] for i in schema.inputs}
    options |= {"model": [base], "latents": [latent], "positive": [positive]}
    options |= {"steps": [2], "rank": [2], "existing_lora": ["[None]"], "seed": [1]}
    options |= {"training_dtype": ["fp32"], "lora_dtype": ["fp32"], "learning_rate": [0.01]}
    before = run(base)
    outputs = nodes_train.TrainLoraNode.execute(**options).args
    lora = next(o for o in outputs if isinstance(o, dict) and "loss" not in o)
    assert any(t.any() for t in lora.values()) and all(t.isfinite().all() for t in lora.values())
    model = nodes_train.LoraModelLoader.execute(base, lora, 1.0).args[0]
    after = run(model)
    assert after.isfinite().all() and relative_rms(after, before) > 1e-6
    assert torch.equal(run(base), before), "the model itself must stay as it is"


def check_an_added_domain_is_made_decoded_and_shown(folder):
    transformer, metadata = load_transformer(TRANSFORMER, dtype=torch.float32)
    extended = extend_model(transformer, like=5)
    facts = read_facts(transformer.config, metadata, "nano")
    facts = extend_facts(facts, "shading", extended.config)
    file = folder / "extended.safetensors"
    about = {"format": "pt", **write_facts(extended.config, facts)}
    write_model(file, extended.state_dict(), about, torch.float32)
    model, vae = host_load.load_model(file, "fp32"), load_vae(AUTOENCODER)
    assert read_model_facts(model).names[8] == "shading"
    extra = JodiExtraDomain.execute("Shading", "generate").args[0]
    picture = image(1, 64, 64)
    *wires, _ = JodiRoles.execute(
        model, vae, image=picture, extra=extra, image_role="condition", albedo_role="generate"
    ).args
    made = JodiSampler.execute(model, *wires, 0, 1, 1.0).args[0]
    assert made["jodi"]["names"][8] == "shading" and made["samples"][:, :, 8].any()
    shown = JodiDecodeLabel.execute(made, vae, "shading").args[0]
    assert shown.shape == (1, 64, 64, 3)
    with_it = JodiContactSheet.execute(made, vae).args[0]
    assert with_it.shape[2] > 2 * 64
