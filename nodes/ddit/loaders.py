"""Load D-DiT: the network, its text encoder and its VAE, built in or from files."""

import folder_paths
from comfy_api.latest import io

from ...ddit_core.embedded import TRANSFORMER
from ...jodi_core.embedded import AUTOENCODER
from ..host.dcae import load_vae as load_dcae
from ..host.ddit_load import load_model, load_vae
from ..host.ddit_model import ddit_model
from ..host.ddit_run import check_channels, check_vae
from ..host.ddit_text import ddit_text, load_text
from ..host.ddit_words import load_embedded_text
from ..host.patcher import WEIGHT_DTYPES

CATEGORY = "Jodi/D-DiT"
NO_VECTOR, BUILT_IN = "none", "built-in ddit-nano"
MODELS, VAES, TEXTS = "diffusion_models", "vae", "text_encoders"


class DDiTLoad(io.ComfyNode):
    """The one node to start with."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DDiTLoad",
            display_name="Load D-DiT",
            category=CATEGORY,
            description=(
                "D-DiT (Dual Diffusion): one network that makes pictures from text, and captions "
                "and answers from pictures. The built-in ddit-nano needs no download and knows "
                "simple scenes; for the released model choose its files."
            ),
            inputs=[
                _file(
                    "model",
                    MODELS,
                    [BUILT_IN],
                    "The transformer: the small built-in one, or a D-DiT file in "
                    "models/diffusion_models.",
                ),
                _file(
                    "text_encoder",
                    TEXTS,
                    [BUILT_IN],
                    "What reads words: built-in with the built-in model; with the released one "
                    "T5-v1.1-XXL (the encoder) in models/text_encoders, for example "
                    "t5xxl_fp16.safetensors. It is kept in bfloat16; a file of eight-bit weights "
                    "stays as it is.",
                ),
                _file(
                    "mask_vector",
                    TEXTS,
                    [NO_VECTOR],
                    "mask_token_emb.00-of-01.pth of aligned_t5_mask_emb, in models/text_encoders. "
                    "Captions and answers by T5 need it. none: enough for pictures from text, and "
                    "for the built-in model.",
                ),
                _file(
                    "vae",
                    VAES,
                    [BUILT_IN],
                    "Built-in with the built-in model; with the released one the VAE of Stable "
                    "Diffusion 3 in models/vae. Flux's VAE has the same form and gives wrong "
                    "pictures.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="How the transformer's weights are kept: default lets ComfyUI choose "
                    "for this machine. fp8 halves the memory again for slightly different results.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For KSampler, and for the nodes of D-DiT."),
                io.Clip.Output(tooltip="For D-DiT Text Encode, Caption, Ask and Fill."),
                io.Vae.Output(tooltip="For VAE Decode, D-DiT Caption, Ask and Fill."),
            ],
        )

    @classmethod
    def execute(cls, model, text_encoder, mask_vector, vae, weight_dtype) -> io.NodeOutput:
        vector = None if mask_vector == NO_VECTOR else _path(TEXTS, mask_vector)
        patcher = load_model(_path(MODELS, model, TRANSFORMER), weight_dtype)
        if text_encoder == BUILT_IN:
            clip = load_embedded_text()
        else:
            clip = load_text(_path(TEXTS, text_encoder), vector)
        check_channels(ddit_model(patcher), ddit_text(clip))
        if vae == BUILT_IN:
            autoencoder = load_dcae(AUTOENCODER)
        else:
            autoencoder = load_vae(_path(VAES, vae))
        check_vae(ddit_model(patcher), autoencoder)
        return io.NodeOutput(patcher, clip, autoencoder)


def _file(id: str, folder: str, first: list[str], tooltip: str) -> io.Combo.Input:
    options = [*first, *folder_paths.get_filename_list(folder)]
    return io.Combo.Input(id, options=options, tooltip=tooltip)


def _path(folder: str, name: str, built_in=None):
    if name == BUILT_IN:
        return built_in
    return folder_paths.get_full_path_or_raise(folder, name)


NODES = [DDiTLoad]
