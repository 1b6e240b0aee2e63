"""Which model a set of weights belongs to, told by the names of its tensors.

One table row per kind of file that people are known to mix up with Jodi's own.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..autoencoder import keys as autoencoder_keys
from ..errors import CheckpointError
from .read import few

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class FileKind:
    """What a weight file is, for people, and where it belongs."""

    name: str
    title: str
    advice: str


JODI = FileKind(
    "jodi",
    "a Jodi transformer",
    "It belongs where the model is asked for: `--model`, or load_transformer.",
)
DCAE = FileKind(
    "dcae",
    "a DC-AE autoencoder (mit-han-lab names)",
    "It belongs where the autoencoder is asked for: `--vae`, or load_autoencoder.",
)
DCAE_DIFFUSERS = FileKind(
    "dcae-diffusers",
    "a DC-AE autoencoder (diffusers names)",
    DCAE.advice,
)
_GIVE = {
    JODI: "Give the Jodi transformer here: Jodi.pth of the release, or what `jodi convert` made.",
    DCAE: "Give the DC-AE here: dc-ae-f32c32-sana-1.0, under either naming.",
}
UNKNOWN = FileKind("unknown", "a model that is not known here", "")


def identify(state: State) -> FileKind:
    """The kind of model that `state` holds; `UNKNOWN` when nothing fits.

    Reads names, and a few shapes where names are the same; broken and incomplete files are still
    recognised by what is left of them.
    """
    for kind, fits in _KINDS:
        if fits(state):
            return kind
    return UNKNOWN


def require_kind(state: State, wanted: tuple[FileKind, ...], source: str):
    """Pass when `state` is of a wanted kind.

    Raises: CheckpointError that says what the file is instead and where it belongs.
    """
    kind = identify(state)
    if kind in wanted:
        return
    told = kind.advice
    if kind is UNKNOWN:
        told = f"It holds {len(state)} tensors: {few(state)}."
    advice = f"{told} {_GIVE[wanted[0]]}".strip()
    raise CheckpointError(f"expected {wanted[0].title}, but {source} is {kind.title}. {advice}")


def _any(pattern: str) -> Callable[[State], bool]:
    search = re.compile(pattern).search
    return lambda state: any(search(name) for name in state)


def _all(*patterns: str) -> Callable[[State], bool]:
    tests = [_any(pattern) for pattern in patterns]
    return lambda state: all(test(state) for test in tests)


def _width_of(pattern: str, *widths: int) -> Callable[[State], bool]:
    """Whether a matrix so named reads one of these widths."""
    search = re.compile(pattern).search
    return lambda state: any(
        t.ndim == 2 and t.shape[1] in widths for name, t in state.items() if search(name)
    )


def _has_naming(naming: str) -> Callable[[State], bool]:
    return lambda state: autoencoder_keys.naming_of(state) == naming


_TEXT_ADVICE = (
    "In ComfyUI, load it with a CLIP loader; the command line takes stored features "
    "(`--text-features`) instead of a text encoder."
)
_BUNDLE = FileKind(
    "bundle",
    "a whole checkpoint in which a Jodi transformer lies beside other models",
    "Take the transformer's tensors out into a file of their own.",
)
_LORA = FileKind("lora", "a LoRA or another adapter", "Apply it on top of a model (LoRA loader).")
_CONTROLNET = FileKind(
    "controlnet", "a ControlNet", "Jodi needs none: its label maps are conditions of the model."
)
_DDIT = FileKind("ddit", "the transformer of D-DiT (Dual Diffusion)", "It is the other model's.")
_SANA = FileKind(
    "sana",
    "a Sana transformer",
    "Jodi grew out of Sana but has eight domains, each with its own input and output layer, so "
    "Sana's weights alone do not make a Jodi.",
)
_PIXART = FileKind("pixart", "a PixArt transformer or a relative of it", "")
_SD3 = FileKind("sd3", "a Stable Diffusion 3 transformer", "")
_FLUX = FileKind("flux", "a Flux transformer", "")
_SDXL = FileKind("sdxl", "a Stable Diffusion XL model", "")
_SD2 = FileKind("sd2", "a Stable Diffusion 2 model", "")
_SD1 = FileKind("sd1", "a Stable Diffusion 1.5 model", "")
_UNET = FileKind("unet", "a Stable Diffusion U-Net", "")
_KL_VAE = FileKind(
    "kl-vae",
    "a VAE of Stable Diffusion, Flux or a relative (KL autoencoder)",
    "Jodi's latents come from another autoencoder, the DC-AE.",
)
_GEMMA = FileKind("gemma", "a Gemma 2 text encoder", _TEXT_ADVICE)
_LLM = FileKind("llm", "a language model (text encoder)", f"Jodi reads Gemma 2 2B. {_TEXT_ADVICE}")
_T5 = FileKind("t5", "a T5 text encoder", f"Jodi reads Gemma 2 2B. {_TEXT_ADVICE}")
_CLIP = FileKind("clip", "a CLIP text encoder", f"Jodi reads Gemma 2 2B. {_TEXT_ADVICE}")

_LDM = r"(^|\.)(input_blocks|output_blocks|middle_block)\.\d"
_DIFFUSERS_UNET = r"(^|\.)(down_blocks|up_blocks)\.\d+\.(resnets|attentions)\."
_IS_UNET = _any(f"{_LDM}|^(?!encoder|decoder).*{_DIFFUSERS_UNET}")
_TO_TEXT = r"attn2\.to_k\.weight$"

# The first row that fits decides, so narrower rows stand above wider ones.
_KINDS: tuple[tuple[FileKind, Callable[[State], bool]], ...] = (
    (_LORA, _any(r"lora_(unet|te|up|down|A|B)|\.lora\.|\.lok?r_|\.hada_|\.oft_|\.dora_scale$")),
    (_BUNDLE, _any(r"\.domain_embedding$")),
    (JODI, _any(r"^(domain_embedding$|role_(embedder|block)\.|(x_embedders|final_layers)\.\d)")),
    (DCAE, _has_naming(autoencoder_keys.MIT_HAN_LAB)),
    (DCAE_DIFFUSERS, _has_naming(autoencoder_keys.DIFFUSERS)),
    (_CONTROLNET, _any(r"input_hint_block|controlnet_|^control_model\.")),
    (_DDIT, _any(r"^(text_proj_out|null_image_embd)")),
    (_SANA, _any(r"blocks\.\d+\.(mlp\.inverted_conv|ff\.conv_inverted)\.")),
    (_PIXART, _any(r"adaln_single\.|cross_attn\.(q|kv)_linear")),
    (_FLUX, _any(r"(double_blocks|single_transformer_blocks)\.\d+\.")),
    (_SD3, _any(r"joint_blocks\.\d+\.|transformer_blocks\.\d+\.attn\.add_q_proj")),
    (_SDXL, _any(r"conditioner\.embedders\.|(^|\.)label_emb\.0\.0\.|(^|\.)add_embedding\.")),
    (_SD2, lambda state: _IS_UNET(state) and _width_of(_TO_TEXT, 1024)(state)),
    (_SD1, lambda state: _IS_UNET(state) and _width_of(_TO_TEXT, 768)(state)),
    (_UNET, _IS_UNET),
    (_KL_VAE, _any(r"(en|de)coder\.((down|up)\.\d+\.|(down|up)_blocks\.\d+\.resnets|mid)")),
    (_GEMMA, _all(r"layers\.\d+\.self_attn\.", r"\.pre_feedforward_layernorm\.")),
    (_LLM, _any(r"layers\.\d+\.(self_attn\.q_proj|mlp\.gate_proj)|embed_tokens\.weight$")),
    (_T5, _any(r"(encoder|decoder)\.block\.\d+\.layer\.\d+\.")),
    (_CLIP, _any(r"text_model\.|text_projection|transformer\.resblocks\.")),
)
