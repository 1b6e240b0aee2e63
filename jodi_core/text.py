"""Prompts to text features: the instruction prefix and token window of the released model, and the
closed-vocabulary encoder of the embedded one. Nothing here keeps state between calls.

Source: github VIPL-GENUN/Jodi @ c21bdcb, configs/inference.yaml and pipeline/jodi_pipeline.py.
Shapes: B prompts, S caption tokens, Cc caption channels.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..kit.errors import TextError, shorten

logger = logging.getLogger("jodi")

# The released model was trained with this text in front of every prompt; it is part of the
# weights' contract (sha256 62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1).
INSTRUCTION_PREFIX = "\n".join(
    [
        'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual '
        "descriptions suitable for image generation. Evaluate the level of detail in the user "
        "prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, "
        "textures, and spatial relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly "
        "without overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round "
        "shape, sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red "
        "flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, "
        "featuring glowing street lamps, a diverse crowd of people in colorful clothing, and a "
        "double-decker bus passing by towering glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including "
        "any additional commentary or evaluations:",
        "User Prompt: ",
    ]
)


@dataclass(frozen=True)
class TextFeatures:
    """caption (B, 1, S, Cc) float, mask (B, S) with 1 for tokens that may be read."""

    caption: Tensor
    mask: Tensor

    def __post_init__(self):
        caption, mask = self.caption, self.mask
        if caption.dim() != 4 or caption.shape[1] != 1 or mask.shape != caption[:, 0, :, 0].shape:
            raise TextError(
                "text features need caption (B, 1, S, channels) and mask (B, S), got "
                f"{tuple(caption.shape)} and {tuple(mask.shape)}"
            )


@dataclass(frozen=True)
class TokenWindow:
    """Token ids to run through the encoder, and which positions of its output to keep.

    ids and mask have one length; select holds positions into them, `caption_length` of them.
    """

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    select: tuple[int, ...]

    @property
    def selected_mask(self) -> tuple[int, ...]:
        """Mask of the positions that are kept, `caption_length` of them."""
        return tuple(self.mask[i] for i in self.select)


def take_prompt_window(
    prompt: str,
    encode: Callable[[str], Sequence[int]],
    *,
    pad_id: int,
    length: int,
    prefix: str = INSTRUCTION_PREFIX,
) -> TokenWindow:
    """Tokens of a positive prompt behind the instruction prefix.

    encode: text -> ids with the begin token first and no end token. length: caption tokens kept
    (300). The kept window is the begin token and the last length - 1 positions: it starts at the
    last prefix token, whose trailing space normally merges with the prompt's first word. A prompt
    longer than the window is cut. An empty `prefix` tokenises the prompt alone.
    """
    if not prefix:
        return take_negative_window(prompt, encode, pad_id=pad_id, length=length)
    total = len(encode(prefix)) + length - 2
    ids, mask = _pad(encode(prefix + prompt.strip()), total, pad_id)
    return TokenWindow(ids, mask, (0, *range(total - length + 1, total)))


def take_negative_window(
    prompt: str, encode: Callable[[str], Sequence[int]], *, pad_id: int, length: int
) -> TokenWindow:
    """Tokens of a negative or empty prompt: no prefix, exactly `length` of them, all kept."""
    ids, mask = _pad(encode(prompt), length, pad_id)
    return TokenWindow(ids, mask, tuple(range(length)))


def _pad(ids: Sequence[int], length: int, pad_id: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    kept = tuple(int(i) for i in ids[:length])
    missing = length - len(kept)
    return kept + (pad_id,) * missing, (1,) * len(kept) + (0,) * missing


class ClosedVocabularyEncoder(nn.Module):
    """Text encoder of the embedded model: a few dozen words, one fixed vector each.

    A token's feature is its word's vector followed by that of the word before it, so that an
    adjective stays tied to its noun. Position 0 is the begin token; all pad rows are equal, as in
    the released null text. Unknown words are left out, with a warning that names some of them. A
    prompt without a known word is the null text with every token readable, as in training.
    """

    BEGIN, PAD = "<begin>", "<pad>"
    table: Tensor  # (words, D), orthogonal rows

    def __init__(
        self,
        vocabulary: Sequence[str],
        caption_length: int,
        *,
        seed: int = 0,
        table: Tensor | None = None,
    ):
        """table: the rows (words, D) where they are known; None draws orthogonal ones."""
        super().__init__()
        if len(set(vocabulary)) != len(vocabulary):
            raise TextError("the vocabulary lists a word twice")
        self.vocabulary = tuple(vocabulary)
        self.caption_length = caption_length
        self._ids = {word: i for i, word in enumerate((self.BEGIN, self.PAD, *vocabulary))}
        count = len(self._ids)
        if table is None:
            generator = torch.Generator().manual_seed(seed)
            square = torch.randn(count, count, dtype=torch.float64, generator=generator)
            orthonormal = torch.linalg.qr(square).Q
            table = orthonormal * count**0.5
        # Contiguous, because a host saves buffers in memory order, while files hold them row by
        # row.
        rows = torch.as_tensor(table, dtype=torch.float32).contiguous()
        self.register_buffer("table", rows)

    @property
    def channels(self) -> int:
        """Caption channels of the features: two word vectors."""
        return 2 * self.table.shape[1]

    def forward(self, prompts: Sequence[str]) -> TextFeatures:
        """Prompts -> features (B, 1, S, Cc) and mask (B, S), on the table's device and dtype."""
        ids = torch.tensor([self._tokens(p) for p in prompts], device=self.table.device)
        said = ids != self._ids[self.PAD]
        word = self.table[ids]
        before = torch.zeros_like(word)
        before[:, 1:] = word[:, :-1] * said[:, 1:, None]
        mask = (said | (said.sum(1, keepdim=True) == 1)).long()
        return TextFeatures(torch.cat([word, before], dim=-1).unsqueeze(1), mask)

    def _tokens(self, prompt: str) -> list[int]:
        # of any script, so that unknown words are seen
        words = re.findall(r"[^\W_]+", prompt.lower())
        unknown = sorted({w for w in words if w not in self._ids})
        if unknown:
            logger.warning(
                "the embedded model does not know %s and leaves %s out; it knows: %s",
                shorten(unknown, count=20, width=40),
                "it" if len(unknown) == 1 else "them",
                ", ".join(self.vocabulary),
            )
        ids = [self._ids[self.BEGIN], *(self._ids[w] for w in words if w in self._ids)]
        if len(ids) > self.caption_length:
            logger.warning(
                "the prompt has %d words; only the first %d are read",
                len(ids) - 1,
                self.caption_length - 1,
            )
        return list(_pad(ids, self.caption_length, self._ids[self.PAD])[0])
