"""Which model a set of weights belongs to, judged by the names of its tensors.

One table row per kind of file that people are known to mix up. Here a file is only named; each
front end says where such a file belongs.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError, shorten

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class FileKind:
    """What a weight file is: a short name, and a title for people."""

    name: str
    title: str


class WrongKindError(CheckpointError):
    """A file of another kind than was asked for. kind: what it is; wanted: what was asked for."""

    def __init__(self, message: str, kind: FileKind, wanted: FileKind):
        super().__init__(message)
        self.kind, self.wanted = kind, wanted


JODI = FileKind("jodi", "a Jodi transformer")
DCAE = FileKind("dcae", "a DC-AE autoencoder (mit-han-lab names)")
DCAE_DIFFUSERS = FileKind("dcae-diffusers", "a DC-AE autoencoder (diffusers names)")
GEMMA = FileKind("gemma", "a Gemma 2 text encoder")
WORDS = FileKind("words", "a text encoder of a closed vocabulary")
WORD_TOKENS = FileKind("word-tokens", "a text encoder of a closed vocabulary, for a small D-DiT")
DDIT = FileKind("ddit", "the transformer of D-DiT (Dual Diffusion)")
KL_VAE = FileKind("kl-vae", "a VAE of Stable Diffusion, Flux or a relative (KL autoencoder)")
T5 = FileKind("t5", "a T5 text encoder")
UNKNOWN = FileKind("unknown", "a model that is not known here")


def identify(state: State) -> FileKind:
    """The kind of model that `state` holds; `UNKNOWN` when nothing fits.

    Reads names, and a few shapes where names are the same; broken and incomplete files are still
    recognised by what is left of them.
    """
    for kind, fits in _KINDS:
        if fits(state):
            return kind
    return UNKNOWN


def require_kind(state: State, wanted: tuple[FileKind, ...], source: str) -> FileKind:
    """The kind of `state`, if it is one of the wanted kinds.

    Raises: WrongKindError that says what the file is instead.
    """
    kind = identify(state)
    if kind in wanted:
        return kind
    told = f"expected {wanted[0].title}, but {source} is {kind.title}."
    if kind is UNKNOWN:
        told += f" It holds {len(state)} tensors: {shorten(state)}."
    raise WrongKindError(told, kind, wanted[0])


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


_BUNDLE = FileKind(
    "bundle", "a whole checkpoint in which a Jodi transformer lies beside other models"
)
_LORA = FileKind("lora", "a LoRA or another adapter")
_CONTROLNET = FileKind("controlnet", "a ControlNet")
_SANA = FileKind("sana", "a Sana transformer")
_PIXART = FileKind("pixart", "a PixArt transformer or a relative of it")
_SD3 = FileKind("sd3", "a Stable Diffusion 3 transformer")
_FLUX = FileKind("flux", "a Flux transformer")
_SDXL = FileKind("sdxl", "a Stable Diffusion XL model")
_SD2 = FileKind("sd2", "a Stable Diffusion 2 model")
_SD1 = FileKind("sd1", "a Stable Diffusion 1.5 model")
_UNET = FileKind("unet", "a Stable Diffusion U-Net")
_LLM = FileKind("llm", "a language model (text encoder)")
_CLIP = FileKind("clip", "a CLIP text encoder")

_DCAE_STAGE = (
    r"^(encoder|decoder)\.stages\.\d+\.op_list\.\d+\..|"
    r"^encoder\.project_(in\.conv|out\.main\.op_list\.0\.conv)\.|"
    r"^decoder\.project_(in\.main\.conv|out\.op_list\.\d(\.conv)?)\."
)
# The U-Net's blocks have one more word, resnets or attentions, before their number.
_DCAE_DIFFUSERS_STAGE = r"^(encoder\.down|decoder\.up)_blocks\.\d+\.\d+\.."
_LDM = r"(^|\.)(input_blocks|output_blocks|middle_block)\.\d"
_DIFFUSERS_UNET = r"(^|\.)(down_blocks|up_blocks)\.\d+\.(resnets|attentions)\."
_IS_UNET = _any(f"{_LDM}|^(?!encoder|decoder).*{_DIFFUSERS_UNET}")
_TO_TEXT = r"attn2\.to_k\.weight$"

# As written by the training's export, and by a host that saves the encoder it loaded.
_WORD_TABLES = ({"table"}, {"encoder.table"})
_TOKEN_TABLES = ({"words", "positions"}, {"encoder.words", "encoder.positions"})

# The first row that fits decides, so narrower rows stand above wider ones.
_KINDS: tuple[tuple[FileKind, Callable[[State], bool]], ...] = (
    (_LORA, _any(r"lora_(unet|te|up|down|A|B)|\.lora\.|\.lok?r_|\.hada_|\.oft_|\.dora_scale$")),
    (_BUNDLE, _any(r"\.domain_embedding$")),
    (JODI, _any(r"^(domain_embedding$|role_(embedder|block)\.|(x_embedders|final_layers)\.\d)")),
    (DCAE, _any(_DCAE_STAGE)),
    (DCAE_DIFFUSERS, _any(_DCAE_DIFFUSERS_STAGE)),
    (WORDS, lambda state: set(state) in _WORD_TABLES),
    (WORD_TOKENS, lambda state: set(state) in _TOKEN_TABLES),
    (_CONTROLNET, _any(r"input_hint_block|controlnet_|^control_model\.")),
    (DDIT, _any(r"^(text_proj_out|null_image_embd)")),
    (_SANA, _any(r"blocks\.\d+\.(mlp\.inverted_conv|ff\.conv_inverted)\.")),
    (_PIXART, _any(r"adaln_single\.|cross_attn\.(q|kv)_linear")),
    (_FLUX, _any(r"(double_blocks|single_transformer_blocks)\.\d+\.")),
    (_SD3, _any(r"joint_blocks\.\d+\.|transformer_blocks\.\d+\.attn\.add_q_proj")),
    (_SDXL, _any(r"conditioner\.embedders\.|(^|\.)label_emb\.0\.0\.|(^|\.)add_embedding\.")),
    (_SD2, lambda state: _IS_UNET(state) and _width_of(_TO_TEXT, 1024)(state)),
    (_SD1, lambda state: _IS_UNET(state) and _width_of(_TO_TEXT, 768)(state)),
    (_UNET, _IS_UNET),
    (KL_VAE, _any(r"(en|de)coder\.((down|up)\.\d+\.|(down|up)_blocks\.\d+\.resnets|mid)")),
    (T5, _any(r"(encoder|decoder)\.block\.\d+\.layer\.\d+\.")),
    (GEMMA, _all(r"layers\.\d+\.self_attn\.", r"\.pre_feedforward_layernorm\.")),
    (_LLM, _any(r"layers\.\d+\.(self_attn\.q_proj|mlp\.gate_proj)|embed_tokens\.weight$")),
    (_CLIP, _any(r"text_model\.|text_projection|transformer\.resblocks\.")),
)
