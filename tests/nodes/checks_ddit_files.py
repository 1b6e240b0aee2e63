"""The files of D-DiT: what Load D-DiT makes of them, and what it says of wrong ones.

Small random weights of the real key names. Run by test_nodes.py inside a ComfyUI.
"""

import dataclasses
import random

import comfy.ldm.models.autoencoder
import comfy.sample
import comfy.sd
import folder_paths
import torch
from comfy_extras import nodes_model_merging
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from jodi_pack.ddit_core.text.mask_vector import load_mask_vector
from jodi_pack.jodi_core.embedded import TRANSFORMER as JODI
from jodi_pack.kit.errors import CheckpointError, JodiError
from jodi_pack.nodes.ddit.loaders import DDiTLoad
from jodi_pack.nodes.ddit.words import DDiTCaption
from jodi_pack.nodes.host import ddit_load as _host_load
from jodi_pack.nodes.host import ddit_text as _host_text
from jodi_pack.tests.helpers import randn, randomize, relative_rms
from jodi_pack.tests.mutations import mutate
from jodi_pack.tests.nodes import ddit_parts as _parts
from jodi_pack.tests.nodes.parts import image, raises
from safetensors.torch import load_file, save_file

SETTINGS = {"seed": 5, "steps": 2, "length": 32, "temperature": 1.0, "top_p": 1.0}
SETTINGS |= {"order": "random", "whole_picture": False}


def write_vae(path, channels: int = 16):
    """The VAE of Stable Diffusion under its own names, at full size, empty."""
    sizes = {**_parts.VAE_SIZES, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    with torch.device("meta"):
        kl = comfy.ldm.models.autoencoder.AutoencoderKL(
            ddconfig={**sizes, "z_channels": channels}, embed_dim=channels
        )
    shapes = {n: t.shape for n, t in kl.state_dict().items() if "quant_conv" not in n}
    save_file({n: torch.zeros(s, dtype=torch.float16) for n, s in shapes.items()}, path)
    return path


def velocity(patcher, seed: int = 4):
    """One evaluation of the host's model."""
    patcher.model.to(patcher.load_device)
    model = patcher.model
    x, text = randn(1, 16, 8, 8, seed=seed), randn(1, 12, _parts.WIDTH, seed=9)
    sigma = torch.tensor([0.6])
    denoised = model.apply_model(x, sigma, c_crossattn=text, transformer_options={})
    return (x - denoised) / 0.6


@torch.inference_mode()
def check_load_gives_wires_of_the_host(folder):
    _parts.write_transformer(folder / "ddit.safetensors")
    _parts.write_t5(folder / "t5.safetensors")
    _parts.write_mask_vector(folder / "mask_token_emb.00-of-01.pth")
    write_vae(folder / "sd3_vae.safetensors")
    for name in ("diffusion_models", "text_encoders", "vae"):
        folder_paths.add_model_folder_path(name, str(folder))
    names = ("ddit.safetensors", "t5.safetensors", "mask_token_emb.00-of-01.pth")
    model, clip, vae = DDiTLoad.execute(*names, "sd3_vae.safetensors", "fp32").args
    assert isinstance(clip, comfy.sd.CLIP) and isinstance(vae, comfy.sd.VAE)
    assert torch.equal(clip.cond_stage_model.require_mask_vector(), _parts.mask_vector())
    expected = _parts.network()(
        randn(1, 16, 8, 8, seed=4), torch.tensor([600.0]), randn(1, 12, _parts.WIDTH, seed=9)
    )[0]
    assert relative_rms(velocity(model), expected) < 1e-5
    _, without, _ = DDiTLoad.execute(*names[:2], "none", "sd3_vae.safetensors", "fp32").args
    with raises(JodiError, "mask vector"):
        without.cond_stage_model.require_mask_vector()
    _parts.write_t5(folder / "base.safetensors", _parts.random_t5(width=36))
    with raises(JodiError, "reads text of 48 channels", "gives 36", "T5-v1.1-XXL"):
        DDiTLoad.execute(names[0], "base.safetensors", "none", "sd3_vae.safetensors", "fp32")


def check_files_of_other_models_are_named(folder):
    ddit = _parts.write_transformer(folder / "a.safetensors")
    t5 = _parts.write_t5(folder / "b.safetensors")
    with raises(CheckpointError, "is a Jodi transformer", "Load Jodi Model"):
        _host_load.load_model(JODI)
    with raises(CheckpointError, "is a T5 text encoder", "models/text_encoders"):
        _host_load.load_model(t5)
    with raises(CheckpointError, "expected a T5 text encoder", "Load D-DiT"):
        _host_text.load_text(ddit)
    with raises(CheckpointError, "expected a VAE", "Load D-DiT"):
        _host_load.load_vae(ddit)
    sd3 = {n: t for n, t in _parts.network().state_dict().items() if "transformer_blocks" in n}
    with raises(CheckpointError, "is a Stable Diffusion 3 transformer"):
        _host_load.load_model(_parts.write_transformer(folder / "sd3.safetensors", sd3))
    with raises(CheckpointError, "channels", "Stable Diffusion 3"):
        _host_load.load_vae(write_vae(folder / "sd1_vae.safetensors", 4))


def check_other_text_encoders_are_named(folder):
    def t5(name, change):
        return _parts.write_t5(folder / name, change=change)

    with raises(CheckpointError, "T5 v1.1", "wi_0"):
        _host_text.load_text(
            t5("c.safetensors", lambda s: {n: t for n, t in s.items() if "wi_0" not in n})
        )
    old = {"encoder.block.0.layer.1.DenseReluDense.wi.weight": torch.ones(80, 48)}
    with raises(CheckpointError, "first T5", "T5 v1.1"):
        _host_text.load_text(t5("d.safetensors", lambda s: {**s, **old}))
    bias = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"
    with raises(CheckpointError, "not those of a T5 v1.1 encoder", "block.1"):  # UMT5
        _host_text.load_text(t5("e.safetensors", lambda s: {**s, bias: torch.ones(32, 2)}))
    with raises(CheckpointError, "missing", "encoder.block.1"):
        _host_text.load_text(
            t5(
                "f.safetensors",
                lambda s: {n: t for n, t in s.items() if "1.layer.0.layer" not in n},
            )
        )
    with raises(CheckpointError, "another vocabulary"):
        small = {"shared.weight": torch.ones(900, 48)}
        _host_text.load_text(t5("g.safetensors", lambda s: {**s, **small}))
    with raises(CheckpointError, "not finite"):
        norm = {"encoder.final_layer_norm.weight": torch.full((48,), torch.inf)}
        _host_text.load_text(t5("h.safetensors", lambda s: {**s, **norm}))


def check_a_vae_that_is_not_whole_is_refused(folder):
    """The host would go on with random numbers in place of those that are missing."""
    whole = load_file(write_vae(folder / "whole_vae.safetensors"))
    assert _host_load.load_vae(folder / "whole_vae.safetensors") is not None
    path = folder / "broken_vae.safetensors"

    def broken(*words, **changed):
        save_file({n: t for n, t in {**whole, **changed}.items() if t is not None}, path)
        with raises(CheckpointError, str(path), *words):
            _host_load.load_vae(path)

    name = "decoder.mid.block_1.conv1.weight"
    broken("missing 1 of", name, **{name: None})
    broken("not finite", name, **{name: torch.full_like(whole[name], torch.nan)})
    broken("int32", name, **{name: whole[name].int()})
    broken(**{name: whole[name][:, :3].clone()})


@torch.inference_mode()
def check_mutated_files_are_refused_or_work(folder):
    """The same mutations as for Jodi's files: a sentence, or a model."""
    sizes = dataclasses.replace(
        _parts.CONFIG,
        hidden_size=16,
        depth=1,
        num_heads=2,
        vocab_size=10,
        mlp_size=12,
        position_size=4,
    )
    state = randomize(DDiTTransformer(sizes), 3).state_dict()
    about = {"config": sizes.to_json(), "kind": "ddit"}
    vector = _parts.write_mask_vector(folder / "v.pth")
    wholes = {
        "safetensors": _parts.write_transformer(folder / "n.safetensors", state, about),
        "pth": vector,
    }
    loads = {
        "safetensors": lambda path: _host_load.load_model(path, "fp32"),
        "pth": lambda path: load_mask_vector(path, _parts.WIDTH),
    }
    accepted = 0
    for number in range(60):
        draw = random.Random(f"ddit {number}")
        ending = draw.choice(("safetensors", "safetensors", "pth"))
        path = folder / f"mutated.{ending}"
        path.write_bytes(mutate(wholes[ending].read_bytes(), draw))
        try:
            loads[ending](path)
            accepted += 1
        except JodiError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000, (number, str(error))
        except Exception as error:
            raise AssertionError(f"mutation {number}: {error!r}") from error
    assert accepted < 50


def check_a_wrong_mask_vector_is_refused(folder):
    path = _parts.write_t5(folder / "i.safetensors")
    with raises(CheckpointError, "tensors, expected the mask vector alone"):
        _host_text.load_text(path, path)
    for name, vector in (("long", torch.ones(49)), ("zero", torch.zeros(48))):
        with raises(CheckpointError, "mask vector"):
            _host_text.load_text(path, _parts.write_mask_vector(folder / f"{name}.pth", vector))


@torch.inference_mode()
def check_small_weights_make_pictures_and_words(folder):
    """Eight-bit weights under arithmetic in more; the exact ones are close by."""
    path = _parts.write_transformer(folder / "j.safetensors")
    small = _host_load.load_model(path, "fp8_e4m3fn")
    large = small.model.diffusion_model.transformer_blocks[0].attn.to_q.weight
    assert large.dtype == torch.float8_e4m3fn
    error = relative_rms(velocity(small), velocity(_parts.model()))
    assert 1e-4 < error < 0.2, error
    wires = small, _parts.clip(), _parts.PooledVAE()
    assert DDiTCaption.execute(*wires, image(1, 64, 64), "", **SETTINGS).args[0][0]


@torch.inference_mode()
def check_a_saved_model_is_the_same(folder):
    """Heads of another width, which shapes do not tell, go with the file."""
    config = dataclasses.replace(_parts.CONFIG, num_heads=4)
    network = randomize(DDiTTransformer(config), 3)
    about = {"config": config.to_json()}
    path = _parts.write_transformer(folder / "k.safetensors", network.state_dict(), about)
    model = _host_load.load_model(path, "fp32")
    before, folder_paths.output_directory = folder_paths.output_directory, str(folder)
    try:
        nodes_model_merging.ModelSave().save(model=model, filename_prefix="ddit_saved")
    finally:
        folder_paths.output_directory = before
    (file,) = folder.glob("ddit_saved*.safetensors")
    again = _host_load.load_model(file, "fp32")
    assert torch.equal(velocity(again), velocity(model))


def check_the_plain_patchers_can_be_had(folder):
    model = _host_load.load_model(_parts.write_transformer(folder / "l.safetensors"))
    text = _host_text.load_text(_parts.write_t5(folder / "m.safetensors"))
    for patcher in (model, text.patcher):
        make, arguments = patcher.cached_patcher_init
        assert make(*arguments).model is not None
