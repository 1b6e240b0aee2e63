"""Text encoders as CLIP of the host: the built-in one, and Gemma 2 2B for the released model.

Both give features (1, S, Cc) with an attention mask (1, S). Prompts are taken literally: the
released model knows no `(word:1.2)` weights and no embeddings.
"""

import functools
import re
from pathlib import Path

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.llama
import comfy.text_encoders.spiece_tokenizer
import torch
from torch import Tensor

from ...jodi_core.embedded import describe_text_encoder, load_text_encoder, read_text_encoder
from ...jodi_core.model.config import JODI_1600M
from ...jodi_core.text import ClosedVocabularyEncoder, take_negative_window, take_prompt_window
from ...kit.errors import CheckpointError, JodiError
from ...kit.weights.kinds import GEMMA, WORDS
from ...kit.weights.loading import FLOATS, FP8, check_dtypes, name_source
from ...kit.weights.read import pack_metadata
from ..wires.texts import ENCODED
from .clip import ClipTarget, Tokens, build_clip, check_tensors, weigh_tokens
from .weight_files import read_kind

WINDOW = JODI_1600M.caption_length
TOKENIZER, WEIGHTS = "spiece_model", "gemma2_2b"
PAD = 0
_WHOLE = "Use a complete file in fp16, bf16 or fp32 (quantised ones hold extra tensors)."
_ONE_ENCODER = (
    "it reads one prompt, and the node asks for those of another model (CLIPTextEncodeSDXL, Flux "
    "or SD3). Use Jodi Text Encode"
)


def load_embedded_text():
    """CLIP of the built-in model."""
    return _word_clip(load_text_encoder())


def load_text(path):
    """CLIP of a text encoder's file: Gemma 2 2B with its tokenizer, or one of a closed vocabulary.

    Raises: CheckpointError for another model's file, or one that is not whole.
    """
    content, kind = read_kind(path, (GEMMA, WORDS))
    if kind is WORDS:
        return _word_clip(read_text_encoder(content, str(path)))
    return _gemma_clip(content.tensors, Path(path))


def load_gemma(path, disable_dynamic: bool = False):
    """CLIP of a Gemma 2 2B file that brings its tokenizer, as made for Lumina 2 or PixelDiT.

    Raises: CheckpointError for another model's file, one without tokenizer, or an incomplete one.
    """
    content, _ = read_kind(path, (GEMMA,))
    return _gemma_clip(content.tensors, Path(path), disable_dynamic)


def _gemma_clip(state: dict[str, Tensor], path: Path, disable_dynamic: bool = False):
    if TOKENIZER not in state:
        raise CheckpointError(
            f"{path} is Gemma 2 without its tokenizer (tensor `{TOKENIZER}`). Use the single file "
            "made for ComfyUI, gemma_2_2b_fp16.safetensors, which Lumina 2 and PixelDiT read too."
        )
    tokenizer = state.pop(TOKENIZER)
    weights = {f"model.{_plain(name)}": t for name, t in state.items() if "lm_head" not in name}
    with name_source(str(path)):
        check_dtypes(weights, (*FLOATS, *FP8))
    sizes = _sizes(weights, path)

    def build(**arguments):
        return GemmaText(sizes, **arguments)

    clip = build_clip(
        ClipTarget(build, GemmaTokenizer),
        weights,
        weights["model.norm.weight"].dtype,
        disable_dynamic=disable_dynamic,
        tokenizer_data={TOKENIZER: tokenizer},
    )
    network = getattr(clip.cond_stage_model, WEIGHTS).transformer
    with name_source(str(path)):
        check_tensors(network, weights, "a plain Gemma 2", _WHOLE)
    clip.load_sd(weights)
    clip.patcher.cached_patcher_init = (_gemma_patcher, (path,))
    return clip


def encode_text(clip, text: str, instruction: bool = True) -> list:
    """CONDITIONING of one prompt.

    instruction: put the published instruction in front, as for every prompt; negatives are read
    without it. The built-in encoder has none.
    Raises: JodiError when the CLIP is not one of Jodi's.
    """
    if not isinstance(getattr(clip, "cond_stage_model", None), (WordText, GemmaText)):
        raise JodiError(
            "this CLIP reads prompts for another model (another layer, or none of the published "
            "window); connect Load Jodi or Load Jodi Text Encoder"
        )
    tokens = clip.tokenize(text, jodi_instruction=instruction)
    return clip.encode_from_tokens_scheduled(tokens)


class GemmaTokenizer:
    """Prompt -> the published token window, in the form that the host's encoders take."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pieces = comfy.text_encoders.spiece_tokenizer.SPieceTokenizer
        try:
            self.tokenizer = pieces.from_pretrained(
                tokenizer_data[TOKENIZER], add_bos=True, add_eos=False
            )
        except (RuntimeError, ValueError, TypeError, AttributeError, OSError) as error:
            raise CheckpointError(
                f"the tokenizer inside the Gemma 2 file cannot be read ({str(error)[:80]}). Use "
                "the single file made for ComfyUI, gemma_2_2b_fp16.safetensors."
            ) from error

    def tokenize_with_weights(
        self, text: str, return_word_ids=False, jodi_instruction: bool | None = None, **_
    ) -> dict:
        """jodi_instruction: None puts it in front of everything but an empty text."""
        if jodi_instruction is None:
            jodi_instruction = bool(text.strip())
        window = take_prompt_window if jodi_instruction else take_negative_window
        ids = window(text, self._ids, pad_id=PAD, length=WINDOW).ids
        return Tokens(WEIGHTS, weigh_tokens(ids, return_word_ids), _ONE_ENCODER)

    def untokenize(self, token_weight_pair):
        pieces = self.tokenizer.tokenizer
        return [(pair, pieces.id_to_piece(pair[0])) for pair in token_weight_pair]

    def state_dict(self) -> dict:
        return {TOKENIZER: self.tokenizer.serialize_model()}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]


class GemmaText(comfy.sd1_clip.SD1ClipModel):
    """Gemma 2 by the host's own layers: last hidden state, no soft-capping, the kept window."""

    def __init__(self, sizes: dict, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            name=WEIGHTS,
            clip_model=_GemmaModel,
            model_options=model_options or {},
            textmodel_json_config=sizes,
        )
        self.channels = sizes["hidden_size"]

    def encode_token_weights(self, token_weight_pairs):
        cond, pooled, extra = super().encode_token_weights(token_weight_pairs)
        if cond.shape[1] > WINDOW:
            # The begin token and the last positions: the window over the prompt itself.
            keep = torch.cat(
                [torch.zeros(1), torch.arange(cond.shape[1] + 1 - WINDOW, cond.shape[1])]
            )
            keep = keep.long().to(cond.device)
            cond = cond[:, keep]
            extra["attention_mask"] = extra["attention_mask"][
                :, keep.to(extra["attention_mask"].device)
            ]
        ENCODED.remember(cond, extra["attention_mask"])
        return cond, pooled, extra


class _GemmaModel(comfy.sd1_clip.SDClipModel):
    def __init__(self, **arguments):
        super().__init__(
            layer="last",
            special_tokens={"start": 2, "pad": PAD},
            layer_norm_hidden_state=False,
            model_class=comfy.text_encoders.llama.Gemma2_2B,
            enable_attention_masks=True,
            return_attention_masks=True,
            **arguments,
        )


class WordTokenizer:
    """The built-in encoder takes the prompt itself, as one token."""

    def __init__(
        self, encoder: ClosedVocabularyEncoder, embedding_directory=None, tokenizer_data=None
    ):
        self._about = describe_text_encoder(encoder)

    def tokenize_with_weights(self, text: str, return_word_ids=False, **_) -> dict:
        return Tokens("jodi_nano", weigh_tokens([text], return_word_ids), _ONE_ENCODER)

    def untokenize(self, token_weight_pair):
        return [(pair, pair[0]) for pair in token_weight_pair]

    def state_dict(self) -> dict:
        """The words, which CLIPSave writes beside the table: the table is useless without them."""
        return pack_metadata(self._about)


class WordText(torch.nn.Module):
    """`ClosedVocabularyEncoder` under the protocol of the host's text encoders."""

    def __init__(self, encoder: ClosedVocabularyEncoder):
        super().__init__()
        self.encoder = encoder
        self.channels = encoder.channels
        self.dtypes = {torch.float32}

    def encode_token_weights(self, token_weight_pairs) -> tuple[Tensor, None, dict]:
        prompts = [pair[0] for pairs in token_weight_pairs["jodi_nano"] for pair in pairs]
        features = self.encoder([" ".join(prompts)])
        cond, mask = features.caption[:, 0].cpu(), features.mask.cpu()
        ENCODED.remember(cond, mask)
        return cond, None, {"attention_mask": mask}

    def set_clip_options(self, options) -> None:
        pass

    def reset_clip_options(self) -> None:
        pass

    def load_sd(self, sd):
        return self.load_state_dict(sd)


def _word_clip(encoder: ClosedVocabularyEncoder):
    def build(device="cpu", dtype=None, model_options=None) -> WordText:
        return WordText(encoder).to(device)

    return comfy.sd.CLIP(ClipTarget(build, functools.partial(WordTokenizer, encoder)))


def _gemma_patcher(path, disable_dynamic: bool = False):
    return load_gemma(path, disable_dynamic).patcher


def _plain(name: str) -> str:
    """A tensor's name without its prefix: model., text_model., or none."""
    found = re.search(r"(layers\.\d+\..+|embed_tokens\.weight|norm\.weight)$", name)
    return found.group(1) if found else name


def _sizes(weights: dict[str, Tensor], path: Path) -> dict[str, int]:
    """The sizes that the host's Gemma needs, from shapes; heads are 256 wide in this family."""
    try:
        query = weights["model.layers.0.self_attn.q_proj.weight"]
        key = weights["model.layers.0.self_attn.k_proj.weight"]
        vocabulary, width = weights["model.embed_tokens.weight"].shape
        inner = weights["model.layers.0.mlp.gate_proj.weight"].shape[0]
        heads = query.shape[0], key.shape[0]
        weights["model.norm.weight"]
    except KeyError as error:
        raise CheckpointError(
            f"{path}: Gemma 2 needs {error.args[0]}, which is missing. Use the complete file."
        ) from None
    except (ValueError, IndexError):
        raise CheckpointError(
            f"{path}: the first layer and the table of Gemma 2 must be matrices. The file is "
            "damaged: use the complete file."
        ) from None
    head = comfy.text_encoders.llama.Gemma2_2B_Config.head_dim
    if min(heads) < head or any(rows % head for rows in heads):
        raise CheckpointError(
            f"{path}: its queries and keys have {heads[0]} and {heads[1]} rows, expected multiples "
            f"of {head}, as in every Gemma 2. Use the complete file."
        )
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads[0] // head,
        "num_key_value_heads": heads[1] // head,
    }
