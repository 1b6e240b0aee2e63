"""T5-v1.1-XXL as CLIP of the host, the way D-DiT reads it.

Sequences have a fixed length and are padded with the end token, without any mask: the network was
trained so. Words are taken literally: no `(word:1.2)` weights and no embeddings. Arithmetic is in
bfloat16 where the device has it, else float32; float16 is too narrow for this encoder.
Shapes: R rows, L text tokens, D channels.
"""

import functools
import re
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import torch
from torch import Tensor

from ...ddit_core.embedded import read_word_encoder
from ...ddit_core.model.facts import RELEASED
from ...ddit_core.text.draft import Tokenizer, tokenize_prompt
from ...ddit_core.text.mask_vector import embed_masked, load_mask_vector
from ...ddit_core.text.vocabulary import T5_VOCABULARY
from ...kit.errors import CheckpointError, JodiError
from ...kit.weights.kinds import T5, WORD_TOKENS
from ...kit.weights.loading import FLOATS, FP8, cast, check_dtypes, name_source
from .clip import ClipTarget, Tokens, build_clip, check_tensors, weigh_tokens
from .ddit_words import WordText, build_word_clip
from .weight_files import read_kind

WEIGHTS = "t5xxl"
END = T5_VOCABULARY.end
# Not read: the table under its second name, and the decoder that a file of the whole T5 holds.
_EXTRA = re.compile(r"encoder\.embed_tokens\.weight|decoder\..*|lm_head\.weight|logit_scale")
_ADVICE = (
    "Use t5xxl_fp16.safetensors, t5xxl_fp8_e4m3fn.safetensors, or one file of the release's "
    "text_encoder"
)
_WHOLE = f"{_ADVICE} (scaled and quantised files hold extra tensors, shards lack some)."
_ONE_ENCODER = (
    "D-DiT reads T5 alone, and the node asks for those of another model (CLIPTextEncodeSDXL, Flux "
    "or SD3). Use D-DiT Text Encode"
)


def load_text(path, mask_vector=None, disable_dynamic: bool = False):
    """CLIP of a T5 v1.1 encoder file, or of one of a closed vocabulary.

    mask_vector: the file of the aligned embedding of masked places. Without it prompts for pictures
    are encoded, and texts are refused: it is never replaced by the stock row.
    Raises: CheckpointError for another model's file, an incomplete one, and a file that holds no
        such vector.
    """
    path = Path(path)
    content, kind = read_kind(path, (T5, WORD_TOKENS))
    if kind is WORD_TOKENS:
        return build_word_clip(read_word_encoder(content, str(path)))
    weights = {name: t for name, t in content.tensors.items() if not _EXTRA.fullmatch(name)}
    if "shared.weight" not in weights and "encoder.embed_tokens.weight" in content.tensors:
        weights["shared.weight"] = content.tensors["encoder.embed_tokens.weight"]
    with name_source(str(path)):
        sizes = read_t5_sizes(weights)
        check_dtypes(weights, (*FLOATS, *FP8))
    vector = None if mask_vector is None else load_mask_vector(mask_vector, sizes["d_model"])
    stored = weights["encoder.block.0.layer.0.SelfAttention.q.weight"].dtype
    dtype = stored if stored in FP8 else torch.bfloat16
    clip = build_clip(
        ClipTarget(functools.partial(DDiTText, sizes, vector), DDiTTokenizer),
        weights,
        dtype,
        disable_dynamic=disable_dynamic,
    )
    _fill(clip, weights, str(path))
    clip.patcher.set_model_compute_dtype(arithmetic(clip.patcher.load_device))
    clip.patcher.cached_patcher_init = (_text_patcher, (path, mask_vector))
    return clip


def encode_prompt(clip, text: str, length: int = RELEASED.picture_length) -> list:
    """CONDITIONING of one prompt of `length` tokens.

    Raises: JodiError when the CLIP is not one of Load D-DiT; TextError for a prompt that does not
        fit, and characters that T5 does not know.
    """
    length = choose_length(clip, length)
    return clip.encode_from_tokens_scheduled(clip.tokenize(text, ddit_length=length))


def choose_length(clip, length: int) -> int:
    """Tokens of a text for this CLIP: as asked for, or the one number its model was trained on.

    Raises: as `ddit_text`.
    """
    encoder = ddit_text(clip)
    return encoder.encoder.length if isinstance(encoder, WordText) else length


def ddit_text(clip) -> "DDiTText | WordText":
    """The encoder behind a CLIP wire. Raises: JodiError, naming the loader, when it is another."""
    encoder = getattr(clip, "cond_stage_model", None)
    if isinstance(encoder, (DDiTText, WordText)):
        return encoder
    raise JodiError(
        "this CLIP reads prompts for another model (padded otherwise, or by another encoder); "
        "connect the CLIP of Load D-DiT"
    )


def ddit_tokenizer(clip) -> Tokenizer:
    """The tokenizer of a CLIP wire. Raises: as `ddit_text`."""
    ddit_text(clip)
    return clip.tokenizer.words


class DDiTTokenizer:
    """Prompt -> ids of the full length, in the form that the host's encoders take."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pieces = comfy.text_encoders.sd3_clip.T5XXLTokenizer().tokenizer
        self.words = Tokenizer(
            ids=lambda text: pieces(text, add_special_tokens=False, verbose=False)["input_ids"],
            text=lambda ids: pieces.decode(list(ids)),
            vocabulary=T5_VOCABULARY,
        )

    def tokenize_with_weights(
        self, text: str, return_word_ids=False, ddit_length: int = RELEASED.picture_length, **_
    ) -> dict:
        ids = tokenize_prompt(text, ddit_length, self.words)
        return Tokens(WEIGHTS, weigh_tokens(ids, return_word_ids), _ONE_ENCODER)

    def untokenize(self, token_weight_pair):
        return [(pair, self.words.text([pair[0]])) for pair in token_weight_pair]

    def state_dict(self) -> dict:
        return {}


class DDiTText(comfy.sd1_clip.SD1ClipModel):
    """T5's encoder by the host's own layers, without a mask, with the model's own masked places."""

    def __init__(
        self,
        sizes: dict,
        mask_vector: Tensor | None,
        device="cpu",
        dtype=None,
        model_options=None,
    ):
        super().__init__(
            device=device,
            dtype=dtype,
            name=WEIGHTS,
            clip_model=_T5Model,
            model_options=model_options or {},
            textmodel_json_config=sizes,
        )
        self.channels = sizes["d_model"]
        self.register_buffer("mask_vector", mask_vector, persistent=False)

    def encode_token_weights(self, token_weight_pairs):
        ids = [[pair[0] for pair in row] for row in token_weight_pairs[WEIGHTS]]
        features = self.encode(torch.tensor(ids))
        return features.float().to(comfy.model_management.intermediate_device()), None

    def encode(self, ids: Tensor) -> Tensor:
        """ids (R, L), the mask id at masked places -> features (R, L, D) on the device.

        Raises: JodiError where a place is masked and no mask vector was loaded.
        """
        encoder = self.t5xxl
        device = encoder.execution_device
        if device is None:
            device = encoder.transformer.shared.weight.device
        dtype = arithmetic(device)
        embedded = encoder.transformer.shared(ids.to(device), out_dtype=dtype)
        if (ids == T5_VOCABULARY.mask).any():
            embedded = embed_masked(embedded, ids, self.require_mask_vector(), T5_VOCABULARY.mask)
        # The inner network, since the wrapper around it always computes in float32.
        return encoder.transformer(None, None, embeds=embedded, dtype=dtype)[0]

    def require_mask_vector(self) -> Tensor:
        """The vector of masked places (D,). Raises: JodiError where none was loaded."""
        if self.mask_vector is None:
            raise JodiError(
                "texts need the mask vector, and Load D-DiT has none chosen. Put "
                "mask_token_emb.00-of-01.pth of aligned_t5_mask_emb into models/text_encoders and "
                "choose it as mask_vector; T5's own row would run and give poor words"
            )
        return self.mask_vector


class _T5Model(comfy.sd1_clip.SDClipModel):
    def __init__(self, **arguments):
        super().__init__(
            layer="last",
            special_tokens={"end": END, "pad": END},
            model_class=comfy.text_encoders.t5.T5,
            **arguments,
        )


def arithmetic(device) -> torch.dtype:
    """The dtype that the encoder computes in on a device."""
    fast = comfy.model_management.should_use_bf16(device)
    return torch.bfloat16 if fast else torch.float32


def read_t5_sizes(weights: dict[str, Tensor]) -> dict:
    """The sizes that the host's T5 needs, read from shapes.

    Raises: CheckpointError for T5 of another make (v1.0, UMT5) and for missing tensors.
    """
    first = "encoder.block.0.layer.{}"
    if first.format("1.DenseReluDense.wi.weight") in weights:
        raise CheckpointError(f"it is the first T5, D-DiT reads T5 v1.1. {_ADVICE}.")
    try:
        vocabulary, width = weights["shared.weight"].shape
        query = weights[first.format("0.SelfAttention.q.weight")]
        inner = weights[first.format("1.DenseReluDense.wi_0.weight")].shape[0]
        bias = weights[first.format("0.SelfAttention.relative_attention_bias.weight")]
        heads = bias.shape[1]
    except KeyError as error:
        raise CheckpointError(
            f"an encoder of T5 v1.1 needs {error.args[0]}, which is missing. {_ADVICE}."
        ) from None
    except (ValueError, IndexError):
        raise CheckpointError(
            f"the table and the first layer of T5 must be matrices. {_ADVICE}."
        ) from None
    if vocabulary < T5_VOCABULARY.size:
        raise CheckpointError(
            f"its table has {vocabulary} rows, T5's has 32128: an encoder of another vocabulary. "
            f"{_ADVICE}."
        )
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.block.")}
    return {
        "d_ff": inner,
        "d_kv": query.shape[0] // max(heads, 1),
        "d_model": width,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "t5",
        "num_heads": heads,
        "num_layers": len(layers),
        "vocab_size": vocabulary,
    }


def _fill(clip, weights: dict[str, Tensor], source: str) -> None:
    network = clip.cond_stage_model.t5xxl.transformer
    with name_source(source):
        check_tensors(network, weights, "a T5 v1.1 encoder", _WHOLE)
        for name, tensor in weights.items():
            cast(name, tensor.float() if tensor.dtype in FP8 else tensor, torch.float32)
    clip.load_sd(weights)


def _text_patcher(path, mask_vector, disable_dynamic: bool = False):
    return load_text(path, mask_vector, disable_dynamic).patcher
