"""Weights under the host's care: LoRA, eight bits, offload. Run by test_nodes.py in a ComfyUI."""

import dataclasses

import comfy.lora
import comfy.model_management
import comfy.sd
import torch
from jodi_pack.jodi_core.model.checkpoint import load_transformer
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.nodes.host import jodi_load as _host_load
from jodi_pack.nodes.host import patcher
from jodi_pack.nodes.host import sampler as _host
from jodi_pack.tests.helpers import TINY, randn, tiny_transformer
from jodi_pack.tests.nodes.jobs import by_the_core, job, noise_like, relative, sample
from jodi_pack.tests.nodes.parts import AE, parts
from safetensors import safe_open
from safetensors.torch import save_file

LAYERS = ("blocks.0.attn.qkv", "blocks.1.cross_attn.kv_linear", "final_layers.3.linear")
RANK, ALPHA, STRENGTH = 4, 2.0, 0.8


def adapter(down_key: str, up_key: str) -> tuple[dict, dict]:
    """A LoRA under two key endings, and what it adds to each weight: half the weight's own size.

    Much larger ones throw the network so far off that it magnifies the rounding of the last digit.
    """
    weights = parts()[2].transformer.state_dict()
    lora, added = {}, {}
    for i, layer in enumerate(LAYERS):
        weight = weights[f"{layer}.weight"]
        rows, columns = weight.shape
        down, up = randn(RANK, columns, seed=i), randn(rows, RANK, seed=40 + i)
        down *= weight.std() / (2 * (up @ down).std())
        lora |= {
            down_key.format(layer, layer.replace(".", "_")): down,
            up_key.format(layer, layer.replace(".", "_")): up,
        }
        scale = ALPHA / RANK if "lora_unet" in down_key else 1.0
        if "lora_unet" in down_key:
            lora[f"lora_unet_{layer.replace('.', '_')}.alpha"] = torch.tensor(ALPHA)
        added[f"{layer}.weight"] = STRENGTH * scale * up @ down
    return lora, added


def check_lora_is_what_the_arithmetic_says():
    model, _, pipeline = parts()
    plan, positive, negative, latent, clean = job(["image", "depth"], ["edge"])
    before = sample(positive, negative, latent)
    forms = (
        ("lora_unet_{1}.lora_down.weight", "lora_unet_{1}.lora_up.weight"),
        ("diffusion_model.{0}.lora_A.weight", "diffusion_model.{0}.lora_B.weight"),
    )
    for form in forms:
        lora, added = adapter(*form)
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, STRENGTH, 0)
        assert len(patched.patches) == len(LAYERS)
        result = sample(positive, negative, latent, model=patched)
        state = {
            name: tensor + added.get(name, 0)
            for name, tensor in pipeline.transformer.state_dict().items()
        }
        changed = tiny_transformer(TINY)
        changed.load_state_dict(state)
        expected = by_the_core(
            plan,
            positive,
            negative,
            clean,
            noise_like(latent),
            pipeline=JodiPipeline(changed, pipeline.autoencoder, None, pipeline.metadata),
        )
        assert relative(result, expected) < 1e-5
        assert relative(result, before) > 1e-3
        # The same model without the adapter is as before: nothing was kept from the other run.
        assert torch.equal(sample(positive, negative, latent), before)


def check_every_layer_can_be_reached_by_lora():
    model = parts()[0].model
    keys = comfy.lora.model_lora_keys_unet(model, {})
    weights = {k for k in model.state_dict() if k.startswith("diffusion_model.blocks.0.")}
    reached = {v for v in keys.values() if isinstance(v, str)}
    assert weights <= reached
    assert keys["lora_unet_blocks_0_mlp_inverted_conv_conv"].endswith("inverted_conv.conv.weight")


def check_a_partial_load_gives_equal_results():
    model = parts()[0].clone()
    _, positive, negative, latent, _ = job(["image", "depth"], ["edge"])
    expected = sample(positive, negative, latent)
    offloaded = []

    def offload_first(apply_model, args):
        if not offloaded:
            cpu = comfy.model_management.get_torch_device()
            patcher = model.model.current_patcher
            patcher.unpatch_model(patcher.offload_device)
            patcher.load(cpu, lowvram_model_memory=patcher.model_size() // 3)
            offloaded.extend(
                n for n, m in model.model.named_modules() if getattr(m, "comfy_cast_weights", False)
            )
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(offload_first)
    try:
        result = sample(positive, negative, latent, model=model)
    finally:
        model.detach()
    assert len(offloaded) > 4 and model.model.model_loaded_weight_memory == 0
    assert relative(result, expected) < 1e-6
    lora, _ = adapter("diffusion_model.{0}.lora_A.weight", "diffusion_model.{0}.lora_B.weight")
    patched, _ = comfy.sd.load_lora_for_models(parts()[0], None, lora, STRENGTH, 0)
    whole = sample(positive, negative, latent, model=patched)
    offloaded.clear()
    model = patched
    patched.set_model_unet_function_wrapper(offload_first)
    try:
        assert relative(sample(positive, negative, latent, model=patched), whole) < 1e-5
    finally:
        patched.detach()
    assert offloaded


def saved(folder, name="model.safetensors", **metadata):
    path = folder / name
    transformer = tiny_transformer(TINY)
    about = {"config": TINY.to_json(), "native_size": "48", "latent_scale": str(AE.scaling_factor)}
    write_state_dict(path, transformer.state_dict(), about | metadata)
    return path


def check_eight_bits_are_close(folder):
    path = saved(folder)
    _, positive, negative, latent, _ = job(["image", "depth"], ["edge"])
    expected = sample(positive, negative, latent)
    # Rounding moves a weight by up to 1/16 of itself in e4m3 and 1/8 in e5m2.
    bounds = {"fp8_e4m3fn": 1 / 10, "fp8_e5m2": 1 / 5, "bf16": 0.01, "fp16": 0.002}
    for name, bound in bounds.items():
        model = _host_load.load_model(path, name)
        dtype = patcher.WEIGHT_DTYPES[name]
        network = model.model.diffusion_model
        assert model.model_dtype() == network.blocks[0].attn.qkv.weight.dtype == dtype
        if name.startswith("fp8"):
            assert network.domain_embedding.dtype == network.blocks[0].attn.proj.bias.dtype
            assert network.final_layers[0].linear.weight.dtype == torch.float32
        error = relative(sample(positive, negative, latent, model=model), expected)
        assert 0 < error < bound, (name, error)
        # LoRA goes onto such weights too.
        lora, _ = adapter("diffusion_model.{0}.lora_A.weight", "diffusion_model.{0}.lora_B.weight")
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, STRENGTH, 0)
        assert sample(positive, negative, latent, model=patched).isfinite().all()


def check_files_that_are_eight_bit_already(folder):
    path = saved(folder, "source.safetensors")
    source, metadata = load_transformer(path)
    state = {
        name: t.to(torch.float8_e4m3fn) if name.endswith("qkv.weight") else t
        for name, t in source.state_dict().items()
    }
    small = folder / "small.safetensors"
    save_file(state, small, metadata)
    with safe_open(small, "pt") as file:
        assert file.get_tensor("blocks.0.attn.qkv.weight").dtype == torch.float8_e4m3fn
    _, positive, negative, latent, _ = job(["image"])
    error = relative(
        sample(positive, negative, latent, model=_host_load.load_model(small, "fp32")),
        sample(positive, negative, latent),
    )
    assert 0 < error < 0.05


def check_the_plain_patcher_can_be_had(folder):
    """Newer hosts reload a model from its file when they need it outside of dynamic memory."""
    model = _host_load.load_model(saved(folder, "again.safetensors"), "fp32")
    make, arguments = model.cached_patcher_init
    again = make(*arguments, disable_dynamic=True)
    _, positive, negative, latent, _ = job(["image"])
    assert torch.equal(
        sample(positive, negative, latent, model=again),
        sample(positive, negative, latent, model=model),
    )


def check_facts_of_files_without_metadata(folder):
    """With Gemma's text they are the released model's: 1024 pixels, 32 to a cell, its scale."""
    path = folder / "bare.safetensors"
    config = dataclasses.replace(TINY, caption_channels=2304)
    write_state_dict(path, tiny_transformer(config).state_dict(), {"config": config.to_json()})
    facts = _host.read_model_facts(_host_load.load_model(path))
    assert (facts.vae_factor, facts.latent_scale, facts.native_size) == (32, 0.41407, (1024, 1024))
    assert (facts.guidance, facts.trained_roles, facts.title) == (4.5, "published", "bare")
    told = saved(folder, "told.safetensors", vae_factor="16", latent_scale="0.5")
    facts = _host.read_model_facts(_host_load.load_model(told))
    assert (facts.vae_factor, facts.factor, facts.latent_scale) == (16, 16, 0.5)
    embedded = saved(folder, "embedded.safetensors", native_size="64")
    assert _host.read_model_facts(_host_load.load_model(embedded)).vae_factor == 8
