"""The loaders: all three parts at once, or one file at a time from ComfyUI's own folders."""

import folder_paths
from comfy_api.latest import io

from ...jodi_core.embedded import AUTOENCODER, TRANSFORMER
from ...jodi_core.model.facts import VAEFacts
from ...kit.errors import JodiError
from ..host.dcae import load_vae
from ..host.jodi_load import load_model
from ..host.jodi_text import load_embedded_text, load_text
from ..host.patcher import WEIGHT_DTYPES
from ..host.sampler import block_output, read_model_facts
from ..wires.agreement import BUILT_IN, check_vae_wire

NO_TEXT = "none"
MODELS, VAES, TEXTS = "diffusion_models", "vae", "text_encoders"


class JodiLoad(io.ComfyNode):
    """The one node to start with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiLoad",
            display_name="Load Jodi",
            category="Jodi",
            description=(
                "Model, text encoder and VAE that belong together. The built-in jodi-nano needs no "
                "download and runs anywhere; for the released model choose its three files."
            ),
            inputs=[
                _file(
                    "model",
                    MODELS,
                    [BUILT_IN],
                    "The transformer: the small built-in one, or a Jodi file in "
                    "models/diffusion_models.",
                ),
                _file(
                    "vae",
                    VAES,
                    [BUILT_IN],
                    "The autoencoder of the same release: built-in with the built-in model, the "
                    "DC-AE (dc-ae-f32c32-sana-1.0) in models/vae with the released one.",
                ),
                _file(
                    "text_encoder",
                    TEXTS,
                    [BUILT_IN, NO_TEXT],
                    "The text encoder: built-in with the built-in model, Gemma 2 2B in "
                    "models/text_encoders with the released one. none: enough to read label maps "
                    "from images.",
                ),
                _weight_dtype(),
            ],
            outputs=[
                io.Model.Output(tooltip="For Jodi Roles and the samplers."),
                io.Clip.Output(tooltip="For Jodi Text Encode."),
                io.Vae.Output(tooltip="For Jodi Roles and the decoders."),
            ],
        )

    @classmethod
    def execute(cls, model, vae, text_encoder, weight_dtype) -> io.NodeOutput:
        patcher = load_model(_path(MODELS, model, TRANSFORMER), weight_dtype)
        facts = read_model_facts(patcher)
        autoencoder = load_vae(_path(VAES, vae, AUTOENCODER))
        check_vae_wire(facts, VAEFacts.of(autoencoder.config))
        if text_encoder == NO_TEXT:
            clip = block_output(
                "Load Jodi has no text encoder chosen; choose one to encode prompts"
            )
        elif text_encoder == BUILT_IN:
            clip = load_embedded_text()
        else:
            clip = load_text(_path(TEXTS, text_encoder))
        channels = getattr(getattr(clip, "cond_stage_model", None), "channels", None)
        if channels not in (None, facts.caption_channels):
            raise JodiError(
                f"{model} reads text of {facts.caption_channels} channels, {text_encoder} makes "
                f"{channels}; choose the text encoder of the same release, or none"
            )
        return io.NodeOutput(patcher, clip, autoencoder)


class JodiLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiLoadModel",
            display_name="Load Jodi Model",
            category="Jodi",
            description=(
                "A Jodi transformer from models/diffusion_models. `.pth` files are read as tensors "
                "only; `jodi convert` makes a faster and smaller safetensors file of one."
            ),
            inputs=[
                _file("model", MODELS, [], "The Jodi file. ComfyUI's own loader cannot read it."),
                _weight_dtype(),
            ],
            outputs=[io.Model.Output(tooltip="For Jodi Roles and the samplers.")],
        )

    @classmethod
    def execute(cls, model, weight_dtype) -> io.NodeOutput:
        return io.NodeOutput(load_model(_path(MODELS, model), weight_dtype))


class JodiLoadVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiLoadVAE",
            display_name="Load Jodi VAE (DC-AE)",
            category="Jodi",
            description=(
                "The deep-compression autoencoder from models/vae, under either of its two "
                "published namings (mit-han-lab and diffusers)."
            ),
            inputs=[
                _file(
                    "vae",
                    VAES,
                    [],
                    "dc-ae-f32c32-sana-1.0 for the released model. ComfyUI's own VAE loader "
                    "cannot read it.",
                )
            ],
            outputs=[io.Vae.Output(tooltip="For Jodi Roles, the decoders, VAE Encode and Decode.")],
        )

    @classmethod
    def execute(cls, vae) -> io.NodeOutput:
        return io.NodeOutput(load_vae(_path(VAES, vae)))


class JodiLoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JodiLoadTextEncoder",
            display_name="Load Jodi Text Encoder",
            category="Jodi",
            description=(
                "Gemma 2 2B from models/text_encoders, as Jodi reads it: the last hidden state, "
                "without soft-capping. The file made for Lumina 2 and PixelDiT "
                "(gemma_2_2b_fp16.safetensors) is the right one; it brings its tokenizer."
            ),
            inputs=[
                _file("text_encoder", TEXTS, [], "A single Gemma 2 2B file with its tokenizer.")
            ],
            outputs=[io.Clip.Output(tooltip="For Jodi Text Encode.")],
        )

    @classmethod
    def execute(cls, text_encoder) -> io.NodeOutput:
        return io.NodeOutput(load_text(_path(TEXTS, text_encoder)))


def _file(id: str, folder: str, first: list[str], tooltip: str) -> io.Combo.Input:
    options = [*first, *folder_paths.get_filename_list(folder)]
    return io.Combo.Input(id, options=options, tooltip=tooltip)


def _weight_dtype() -> io.Combo.Input:
    return io.Combo.Input(
        "weight_dtype",
        options=list(WEIGHT_DTYPES),
        default="default",
        tooltip="How weights are kept: default lets ComfyUI choose for this machine. fp8 halves "
        "the memory again for slightly different results; arithmetic stays in 16 or 32 bits.",
    )


def _path(folder: str, name: str, built_in=None):
    if name == BUILT_IN:
        return built_in
    return folder_paths.get_full_path_or_raise(folder, name)


NODES = [JodiLoad, JodiLoadModel, JodiLoadVAE, JodiLoadTextEncoder]
