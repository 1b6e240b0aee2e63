"""The text encoder of the embedded model: a few dozen words, each seen with its neighbours.

It is to the small model what T5 is to the released one: frozen, bidirectional, aware of positions,
and run again whenever a word was revealed. A token's feature is its own vector, that of the token
before it, that of the token behind it, and a vector of its position.

Shapes: B rows, L tokens, V vocabulary, D channels of the features.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...kit.errors import TextError, shorten
from .draft import CAPTION_QUESTION, SHORT_ANSWER, Tokenizer
from .vocabulary import Vocabulary

# One token each: the frame of a question and the two sentences that the model is asked with.
PIECES = ("q:", "a:", SHORT_ANSWER.lower().strip("."), CAPTION_QUESTION.lower().strip("."))
_FIRST_PIECE = 3  # behind pad, end and unknown
_SPELLINGS = {"colour": "color", "gray": "grey", "couch": "sofa"}
_MARKS = re.compile(r"</s>|<pad>|<mask>|<extra_id_0>")
_TOKEN = re.compile("|".join(re.escape(p) for p in PIECES) + r"|[^\W_]+")


class WordEncoder(nn.Module):
    """Ids (B, L) -> features (B, L, D), for a closed set of words.

    words (V, W): a vector for each token, the mask's last. positions (N, P): for each place.
    """

    words: Tensor
    positions: Tensor

    def __init__(
        self,
        vocabulary: Sequence[str],
        length: int,
        *,
        seed: int = 0,
        tables: tuple[Tensor, Tensor] | None = None,
    ):
        """vocabulary: words. length: of the longest text in tokens.

        tables: words and positions where they are known; None draws rows at right angles.
        Raises: TextError for a word listed twice.
        """
        super().__init__()
        if len(set(vocabulary)) != len(vocabulary):
            raise TextError("the vocabulary lists a word twice")
        self.word_list, self.length = tuple(vocabulary), length
        self.vocabulary = Vocabulary(_FIRST_PIECE + len(PIECES) + len(vocabulary) + 1, sentinels=1)
        if tables is None:
            generator = torch.Generator().manual_seed(seed)
            tables = (
                _right_angles(self.vocabulary.size, generator),
                _right_angles(length, generator),
            )
        for name, table in zip(("words", "positions"), tables, strict=True):
            self.register_buffer(name, table.float().contiguous())
        self._pieces = {p: i for i, p in enumerate((*PIECES, *vocabulary), _FIRST_PIECE)}
        self._texts = {i: p for p, i in self._pieces.items()}

    @property
    def channels(self) -> int:
        """Channels of the features: three words and a position."""
        return 3 * self.words.shape[1] + self.positions.shape[1]

    @property
    def tokenizer(self) -> Tokenizer:
        """Texts to ids and back."""
        return Tokenizer(self._ids, self._text, self.vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Features of ids; beyond both ends stands nothing, a vector of zeros.

        Raises: TextError for more tokens than there are positions.
        """
        length = ids.shape[1]
        if length > self.length:
            raise TextError(
                f"the text has {length} tokens, the embedded model reads at most {self.length}"
            )
        own = self.words[ids.to(self.words.device)]
        nothing = torch.zeros_like(own[:, :1])
        before = torch.cat([nothing, own[:, :-1]], dim=1)
        behind = torch.cat([own[:, 1:], nothing], dim=1)
        place = self.positions[:length].expand(len(ids), -1, -1)
        return torch.cat([own, before, behind, place], dim=-1)

    def _ids(self, text: str) -> list[int]:
        """Raises: TextError for words it does not know, named."""
        if mark := _MARKS.search(text):
            raise TextError(
                f"the words hold the model's own mark {mark[0]}, which would end the text or be "
                "filled in; write {blank} where a word shall be filled in"
            )
        found: list[str] = _TOKEN.findall(text.lower())
        found = [_SPELLINGS.get(word, word) for word in found]
        unknown = list(dict.fromkeys(word for word in found if word not in self._pieces))
        if unknown:
            raise TextError(
                f"the embedded model does not know the word{'s' * (len(unknown) > 1)} "
                f"{shorten(unknown, count=20, width=40)}; it knows: {', '.join(self.word_list)}"
            )
        return [self._pieces[word] for word in found]

    def _text(self, ids: Sequence[int]) -> str:
        return " ".join(self._texts[i] for i in ids if i in self._texts)


def _right_angles(count: int, generator: torch.Generator) -> Tensor:
    """(count, count): rows at right angles, each of mean square 1."""
    square = torch.randn(count, count, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(square).Q * count**0.5
