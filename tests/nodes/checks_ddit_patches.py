"""D-DiT under the host's own nodes for a MODEL: LoRA, masks, previews, little memory, patches.

Run by test_nodes.py inside a ComfyUI, on the small random weights of `ddit_parts`.
"""

import contextlib
import functools
import itertools

import comfy.controlnet
import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy_extras.nodes_cfg as cfg_nodes
import comfy_extras.nodes_differential_diffusion as differential
import comfy_extras.nodes_easycache as easycache
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_model_downscale as downscale
import comfy_extras.nodes_pag as pag
import comfy_extras.nodes_sag as sag
import comfy_extras.nodes_slg as slg
import comfy_extras.nodes_tomesd as tomesd
import folder_paths
import latent_preview
import torch
from comfy.cli_args import LatentPreviewMethod
from comfy_extras import nodes_apg, nodes_mahiro, nodes_model_merging, nodes_tcfg
from jodi_pack.ddit_core.model.denoiser import make_published_sigmas, prepare_denoiser
from jodi_pack.ddit_core.model.facts import RELEASED
from jodi_pack.kit.errors import JodiError
from jodi_pack.nodes.ddit.text import DDiTTextEncode
from jodi_pack.nodes.ddit.words import DDiTCaption
from jodi_pack.nodes.host import ddit_load as _host_load
from jodi_pack.tests.helpers import randn, relative_rms
from jodi_pack.tests.nodes import ddit_parts as _parts
from jodi_pack.tests.nodes.parts import image, raises
from safetensors.torch import save_file

import nodes as host_nodes

SETTINGS = {"seed": 5, "steps": 3, "length": 40, "temperature": 1.0, "top_p": 1.0}
SETTINGS |= {"order": "random", "whole_picture": False}
VAE, RANK, STRENGTH = _parts.PooledVAE(), 4, 0.7


def node(cls, *args, **kwargs):
    """The result of one of the host's nodes, old or new."""
    if hasattr(cls, "define_schema"):
        result = cls.execute(*args, **kwargs)
        return getattr(result, "args", result)[0]
    return getattr(cls(), cls.FUNCTION)(*args, **kwargs)[0]


def prompt(text: str) -> list:
    return DDiTTextEncode.execute(_parts.clip(), text, 40).args[0]


POSITIVE, NEGATIVE = prompt("a red bus"), prompt("")


def ksampler(model, latent=None, steps=3, cfg=3.0, denoise=1.0) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 16, 8, 8)} if latent is None else latent
    scheme = (3, steps, cfg, "euler", "normal", POSITIVE, NEGATIVE, latent, denoise)
    return host_nodes.KSampler().sample(model, *scheme)[0]["samples"]


def caption(model) -> list[str]:
    wires = model, _parts.clip(), VAE, image(1, 64, 64)
    return DDiTCaption.execute(*wires, "", **SETTINGS).args[0]


def core_denoiser(network, sigmas, cfg=3.0):
    texts = POSITIVE[0][0], NEGATIVE[0][0]
    return prepare_denoiser(network, *texts, rows=1, sigmas=sigmas, guidance=cfg)


def adapter(naming: str) -> tuple[dict, dict]:
    """A LoRA of every matrix in the blocks and the heads, and the weights that it makes."""
    weights, lora, merged = _parts.network().state_dict(), {}, {}
    for i, (name, weight) in enumerate(weights.items()):
        layer = name.removesuffix(".weight")
        if layer == name or weight.ndim != 2:
            continue
        down, up = randn(RANK, weight.shape[1], seed=i), randn(weight.shape[0], RANK, seed=i + 500)
        down *= weight.std() / (3 * (up @ down).std())
        stem, ends = f"diffusion_model.{layer}", ("lora_A", "lora_B")
        if naming == "kohya":
            stem, ends = f"lora_unet_{layer.replace('.', '_')}", ("lora_down", "lora_up")
        lora |= {f"{stem}.{end}.weight": m for end, m in zip(ends, (down, up), strict=True)}
        merged[name] = weight + STRENGTH * up @ down
    return lora, {**weights, **merged}


@torch.inference_mode()
def check_the_hosts_lora_nodes_give_the_merged_weights(folder):
    """Files in models/loras by both namings that trainers write, every layer of the network."""
    folder_paths.add_model_folder_path("loras", str(folder))
    for naming in ("peft", "kohya"):
        lora, merged = adapter(naming)
        save_file(lora, folder / f"ddit_{naming}.safetensors")
        expected = _host_load.load_model(
            _parts.write_transformer(folder / f"merged_{naming}.safetensors", merged), "fp32"
        )
        loader = host_nodes.LoraLoaderModelOnly()
        name = f"ddit_{naming}.safetensors"
        (patched,) = loader.load_lora_model_only(_parts.model(), name, STRENGTH)
        assert len(patched.patches) == len(lora) // 2
        plain = ksampler(_parts.model())
        assert relative_rms(ksampler(patched), ksampler(expected)) < 1e-4
        assert relative_rms(ksampler(expected), plain) > 1e-2
        assert caption(patched) == caption(expected) != caption(_parts.model())
        assert torch.equal(ksampler(_parts.model()), plain)


@torch.inference_mode()
def check_a_mask_repaints_as_the_formula_says():
    """Before each step what is not masked gets the picture at that step's noise; after, itself."""
    picture = {"samples": randn(1, 16, 8, 8, seed=21)}
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    masked = node(host_nodes.SetLatentNoiseMask, picture, mask)
    ours = ksampler(_parts.model(), masked)
    sigmas = make_published_sigmas(3)
    clean, cells = RELEASED.scale_latents(picture["samples"]), mask[:, None, ::8, ::8]
    noise = comfy.sample.prepare_noise(picture["samples"], 3)
    denoise, x = core_denoiser(_parts.network(), sigmas), noise
    for level, following in itertools.pairwise(sigmas):
        x = x * cells + (level * noise + (1 - level) * clean) * (1 - cells)
        estimate = denoise(x, level) * cells + clean * (1 - cells)
        x = x + (following - level) * (x - estimate) / level
    assert relative_rms(ours, RELEASED.unscale_latents(x)) < 1e-4
    assert torch.allclose(ours[..., :4], picture["samples"][..., :4], atol=1e-4)
    assert relative_rms(ours[..., 4:], picture["samples"][..., 4:]) > 0.1


@torch.inference_mode()
def check_differential_diffusion_keeps_what_is_black():
    model = node(differential.DifferentialDiffusion, _parts.model())
    picture = {"samples": randn(1, 16, 8, 8, seed=21)}
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = torch.linspace(0, 1, 32)
    made = ksampler(model, node(host_nodes.SetLatentNoiseMask, picture, mask), steps=6)
    change = (made - picture["samples"]).abs()
    assert change[..., :4].max() < 1e-4 < change[..., 7].mean()
    assert change[..., 7].mean() > 2 * change[..., 4].mean()


@torch.inference_mode()
def check_partial_denoise_starts_from_the_picture():
    picture = {"samples": randn(1, 16, 8, 8, seed=21)}
    ours = ksampler(_parts.model(), picture, steps=4, denoise=0.5)
    sigmas = make_published_sigmas(8)[-5:]
    noise = comfy.sample.prepare_noise(picture["samples"], 3)
    x = sigmas[0] * noise + (1 - sigmas[0]) * RELEASED.scale_latents(picture["samples"])
    denoise = core_denoiser(_parts.network(), sigmas)
    for level, following in itertools.pairwise(sigmas):
        x = x + (following - level) * (x - denoise(x, level)) / level
    assert relative_rms(ours, RELEASED.unscale_latents(x)) < 1e-4


@torch.inference_mode()
def check_previews_are_those_of_stable_diffusion_3():
    """Colours from latents at every step, by the host's own factors."""
    model, shown = _parts.model(), []
    before = latent_preview.args.preview_method
    latent_preview.args.preview_method = LatentPreviewMethod.Auto
    try:
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        assert model.model.latent_format.taesd_decoder_name == "taesd3_decoder"
        latent = torch.zeros(1, 16, 8, 12)
        noise = comfy.sample.prepare_noise(latent, 3)

        def see(step, denoised, x, total):
            shown.append(previewer.decode_latent_to_preview_image("JPEG", denoised)[1])

        scheme = (model, noise, 3, 3.0, "euler", "normal", POSITIVE, NEGATIVE, latent)
        comfy.sample.sample(*scheme, callback=see, seed=3)
    finally:
        latent_preview.args.preview_method = before
    assert [picture.size for picture in shown] == [(12, 8)] * 3
    assert len({picture.tobytes() for picture in shown}) > 1


@torch.inference_mode()
def check_a_partial_load_gives_equal_pictures_and_words():
    """Most weights stay where they are stored, and are cast at each use; LoRA too."""
    patched, _ = comfy.sd.load_lora_for_models(_parts.model(), None, adapter("peft")[0], 1.0, 0)
    for origin in (_parts.model(), patched):
        picture, words = ksampler(origin), caption(origin)
        model, offloaded = origin.clone(), []
        model.set_model_unet_function_wrapper(functools.partial(offload_first, model, offloaded))
        try:
            assert relative_rms(ksampler(model), picture) < 1e-5
            with little_memory(model) as kept:
                assert caption(model) == words
        finally:
            model.detach()
        assert len(offloaded) > 8 and len(kept) > 8


def offload(model) -> list[str]:
    """Leave three quarters of a loaded model's weights in its store; names of their layers."""
    patcher = model.model.current_patcher or model
    patcher.unpatch_model(patcher.offload_device)
    patcher.load(patcher.load_device, lowvram_model_memory=patcher.model_size() // 4)
    layers = model.model.named_modules()
    return [name for name, layer in layers if getattr(layer, "comfy_cast_weights", False)]


def offload_first(model, offloaded: list[str], apply_model, args):
    if not offloaded:
        offloaded.extend(offload(model))
    return apply_model(args["input"], args["timestep"], **args["c"])


@contextlib.contextmanager
def little_memory(model):
    """The host loads this model in part only; yields the names of layers that stay outside."""
    kept, load = [], comfy.model_management.load_models_gpu

    def load_part(models, **kwargs):
        load(models, **kwargs)
        if model in models:
            kept.extend(offload(model))

    comfy.model_management.load_models_gpu = load_part
    try:
        yield kept
    finally:
        comfy.model_management.load_models_gpu = load


@torch.inference_mode()
def check_eight_bits_sample_close_by(folder):
    path = _parts.write_transformer(folder / "ddit.safetensors")
    exact = ksampler(_parts.model())
    for kind, bound in {"fp8_e4m3fn": 0.2, "fp8_e5m2": 0.4, "bf16": 0.05, "fp16": 0.01}.items():
        model = _host_load.load_model(path, kind)
        assert 1e-5 < relative_rms(ksampler(model), exact) < bound, kind
        again = _host_load.load_model(saved(folder, model, kind), kind)
        assert torch.equal(ksampler(again), ksampler(model)), kind


def saved(folder, model, name: str):
    """The one file that ModelSave writes."""
    before, folder_paths.output_directory = folder_paths.output_directory, str(folder)
    try:
        nodes_model_merging.ModelSave().save(model=model, filename_prefix=f"saved_{name}")
    finally:
        folder_paths.output_directory = before
    (file,) = folder.glob(f"saved_{name}*.safetensors")
    return file


def stored(model) -> dict:
    return dict(model.model.diffusion_model.state_dict())


@torch.inference_mode()
def check_a_merge_is_saved_and_loads_back(folder):
    _, other = adapter("peft")
    second = _host_load.load_model(
        _parts.write_transformer(folder / "b.safetensors", other), "fp32"
    )
    merged = node(nodes_model_merging.ModelMergeSimple, _parts.model(), second, 0.25)
    again = _host_load.load_model(saved(folder, merged, "merge"), "fp32")
    assert relative_rms(ksampler(again), ksampler(merged)) < 1e-5
    name = "transformer_blocks.0.attn.to_q.weight"
    mean = 0.25 * _parts.network().state_dict()[name] + 0.75 * other[name]
    assert torch.allclose(stored(again)[name], mean, atol=1e-6)
    assert caption(again) == caption(merged)


@torch.inference_mode()
def check_guidance_and_sampling_patches_run():
    model = _parts.model()
    patched = {
        cls.__name__: cls.execute(
            model, **{i.id: i.default for i in cls.GET_SCHEMA().inputs[1:]}
        ).args[0]
        for cls in (
            *(cfg_nodes.CFGZeroStar, cfg_nodes.CFGNorm, nodes_apg.APG, nodes_tcfg.TCFG),
            *(nodes_mahiro.Mahiro, easycache.EasyCacheNode, easycache.LazyCacheNode),
        )
    }
    patched["RescaleCFG"] = node(advanced.RescaleCFG, model, 0.7)
    patched["ModelSamplingSD3"] = node(advanced.ModelSamplingSD3, model, 1.5)
    for name, changed in patched.items():
        made = ksampler(changed)
        assert made.isfinite().all() and made.std() > 0.01, name
    assert relative_rms(ksampler(patched["ModelSamplingSD3"]), ksampler(model)) > 1e-2


@torch.inference_mode()
def check_patches_of_other_networks_say_so():
    """Nodes for U-Nets and for Stable Diffusion 3's layers: a sentence, not a silent nothing."""
    model = _parts.model()
    for cls in (freelunch.FreeU, freelunch.FreeU_V2):
        with raises(JodiError, "model_channels", "U-Net", "D-DiT"):
            node(cls, model, 1.1, 1.2, 0.9, 0.2)
    others = {
        "PAG": node(pag.PerturbedAttentionGuidance, model, 3.0),
        "SAG": node(sag.SelfAttentionGuidance, model, 0.5, 2.0),
        "ToMe": node(tomesd.TomePatchModel, model, 0.3),
        "HyperTile": node(hypertile.HyperTile, model, 256, 2, 0, False),
        "Deep Shrink": node(
            downscale.PatchModelAddDownscale, model, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"
        ),
        "SLG": node(slg.SkipLayerGuidanceDiT, model, 3.0, 0.0, 1.0, "0", ""),
    }
    for name, changed in others.items():
        try:
            ksampler(changed)
        except JodiError as error:
            assert "D-DiT" in str(error) and "Take it away from the MODEL" in str(error), error
        else:
            raise AssertionError(name)
    assert ksampler(model).isfinite().all()


@torch.inference_mode()
def check_a_control_net_of_another_model_says_so():
    class Control(comfy.controlnet.ControlBase):
        def get_control(self, *args):
            return {"output": [torch.zeros(1)]}

    entry = [[POSITIVE[0][0], {**POSITIVE[0][1], "control": Control()}]]
    latent = torch.zeros(1, 16, 8, 8)
    with raises(JodiError, "ControlNet", "D-DiT"):
        host_nodes.common_ksampler(
            _parts.model(), 3, 2, 3.0, "euler", "normal", entry, NEGATIVE, {"samples": latent}
        )


def check_every_layer_can_be_reached_by_lora():
    keys = comfy.lora.model_lora_keys_unet(_parts.model().model, {})
    weights = {k for k in _parts.model().model.state_dict() if k.endswith(".weight")}
    assert weights <= {v for v in keys.values() if isinstance(v, str)}
    # The names of Stable Diffusion 3's trainers are not known, as the help page says.
    assert "transformer.transformer_blocks.0.attn.to_q" not in keys
