"""The text encoder of the built-in ddit-nano as CLIP of the host.

Its texts are always of the model's own length, whatever a node asks for.
Shapes: R rows, L text tokens, D channels.
"""

import functools

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...ddit_core.embedded import describe_word_encoder, load_word_encoder
from ...ddit_core.text.draft import tokenize_prompt
from ...ddit_core.text.words import WordEncoder
from ...kit.weights.read import pack_metadata
from .clip import ClipTarget, Tokens, weigh_tokens

NAME = "ddit_nano"
_ONE_ENCODER = (
    "ddit-nano reads words by its own encoder, and the node asks for those of another model "
    "(CLIPTextEncodeSDXL, Flux or SD3). Use D-DiT Text Encode"
)


def load_embedded_text():
    """CLIP of the built-in model."""
    return build_word_clip(load_word_encoder())


def build_word_clip(encoder: WordEncoder):
    """CLIP of an encoder of a closed vocabulary."""

    def build(device="cpu", dtype=None, model_options=None) -> WordText:
        return WordText(encoder).to(device)

    return comfy.sd.CLIP(ClipTarget(build, functools.partial(WordTokenizer, encoder)))


class WordTokenizer:
    """Prompt -> ids of the full length, in the form that the host's encoders take."""

    def __init__(self, encoder: WordEncoder, embedding_directory=None, tokenizer_data=None):
        self.words, self._length = encoder.tokenizer, encoder.length
        self._about = describe_word_encoder(encoder)

    def tokenize_with_weights(self, text: str, return_word_ids=False, **_) -> dict:
        ids = tokenize_prompt(text, self._length, self.words)
        return Tokens(NAME, weigh_tokens(ids, return_word_ids), _ONE_ENCODER)

    def untokenize(self, token_weight_pair):
        return [(pair, self.words.text([pair[0]])) for pair in token_weight_pair]

    def state_dict(self) -> dict:
        """What CLIPSave writes beside the tables: the words, without which they mean nothing."""
        return pack_metadata(self._about)


class WordText(torch.nn.Module):
    """`WordEncoder` under the protocol of the host's text encoders."""

    def __init__(self, encoder: WordEncoder):
        super().__init__()
        self.encoder, self.channels = encoder, encoder.channels
        self.dtypes = {torch.float32}

    def encode_token_weights(self, token_weight_pairs):
        ids = [[pair[0] for pair in row] for row in token_weight_pairs[NAME]]
        features = self.encode(torch.tensor(ids))
        return features.to(comfy.model_management.intermediate_device()), None

    def encode(self, ids: Tensor) -> Tensor:
        """ids (R, L), the mask id at masked places -> features (R, L, D)."""
        return self.encoder(ids)

    def require_mask_vector(self) -> Tensor:
        """The vector of masked places: a row of the encoder's own table."""
        return self.encoder.words[-1]

    def set_clip_options(self, options) -> None:
        pass

    def reset_clip_options(self) -> None:
        pass

    def load_sd(self, sd):
        return self.load_state_dict(sd)
