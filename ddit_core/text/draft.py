"""Texts with places to fill: whole captions, answers to questions, blanks between locked words.

A draft is the sequence that the sampler starts from. The result is put together from the locked
words as they were typed and the words that were filled in: locked words do not pass through the
tokenizer on the way out, so they always come back unchanged.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...kit.errors import TextError, shorten
from .vocabulary import Vocabulary

QUESTION = "Q: {} A:"
SHORT_ANSWER = "Answer the question using a single word or phrase."
CAPTION_QUESTION = "Provide a brief description of the given image."
ANSWER_ROOM = 8  # tokens that a question must leave free


@dataclass(frozen=True)
class Tokenizer:
    """A text encoder's tokenizer as two functions.

    ids: text -> ids without an end token, without any reading of weights or embeddings. text: ids
    of words -> text.
    """

    ids: Callable[[str], Sequence[int]]
    text: Callable[[Sequence[int]], str]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Blank:
    """Places start to stop - 1 of a draft.

    closed: words follow behind it, so the text cannot end here.
    """

    start: int
    stop: int
    closed: bool


@dataclass(frozen=True)
class Draft:
    """Token ids with the mask at open places, and the parts of the text to come, in order.

    parts: words as they were typed, and blanks. Words of `ids` that no part holds (a question's)
    are read by the network but belong to no result.
    """

    ids: tuple[int, ...]
    parts: tuple[str | Blank, ...]

    @property
    def closed(self) -> tuple[bool, ...]:
        """For each place, whether it must be filled with a word."""
        flags = [False] * len(self.ids)
        for part in self.parts:
            if isinstance(part, Blank) and part.closed:
                flags[part.start : part.stop] = [True] * (part.stop - part.start)
        return tuple(flags)

    def read(self, ids: Sequence[int], tokenizer: Tokenizer, hole: str = "") -> str:
        """The text of a filled draft: locked words as typed, and each blank up to its first end
        token.

        hole: what stands for masked places, a whole run of them.
        """
        texts = []
        for part in self.parts:
            if isinstance(part, str):
                texts.append(part)
            else:
                texts.append(read_words(ids[part.start : part.stop], tokenizer, hole))
        return "".join(texts)


def read_words(ids: Sequence[int], tokenizer: Tokenizer, hole: str = "") -> str:
    """The text of ids up to the first end token or pad, without marks; `hole` for masked places."""
    vocabulary = tokenizer.vocabulary
    runs: list[list[int]] = [[]]
    for token in (int(i) for i in ids):
        if vocabulary.ends(token):
            break
        if token == vocabulary.mask and hole:
            runs.append([])
        elif token not in vocabulary.special:
            runs[-1].append(token)
    first, *rest = (tokenizer.text(words).strip() if words else "" for words in runs)
    shown = [first, *(part for words in rest for part in (hole, words))]
    kept = [part for i, part in enumerate(shown) if part and (part != hole or not _again(shown, i))]
    return " ".join(kept)


def _again(shown: list[str], index: int) -> bool:
    """Whether the hole at `index` directly follows another one."""
    return index >= 2 and shown[index - 2] == shown[index] and not shown[index - 1]


def draft_caption(length: int, tokenizer: Tokenizer) -> Draft:
    """A caption without any words given: all places masked, as the base model was trained."""
    return Draft((tokenizer.vocabulary.mask,) * length, (Blank(0, length, False),))


def draft_question(
    question: str,
    length: int,
    tokenizer: Tokenizer,
    *,
    short: bool = True,
    answer_tokens: int | None = None,
) -> Draft:
    """A question in the layout of the training, and places for its answer.

    There is no end token behind the question: the published pipeline leaves one there, which the
    network never saw in training. short: ask for a single word or phrase. answer_tokens: so many
    places, and end tokens behind them; None leaves all that remain.
    Raises: TextError for an empty question, one that is too long (it says how many tokens fit), and
        characters that the tokenizer does not know.
    """
    if not question.strip():
        raise TextError("the question is empty; ask something, for example: What is on the table?")
    if answer_tokens is not None and answer_tokens < 1:
        raise TextError(f"an answer needs at least 1 token, got {answer_tokens}")
    asked = f"{question.strip()} {SHORT_ANSWER}" if short else question.strip()
    ids = tokenize_words(QUESTION.format(asked), tokenizer)
    room = ANSWER_ROOM if answer_tokens is None else answer_tokens
    if len(ids) + room > length:
        frame = len(ids) - len(tokenize_words(question, tokenizer))
        fewer = "" if answer_tokens is None else ", or ask for a shorter answer (answer_tokens)"
        raise TextError(
            f"the question is too long: {len(ids) - frame} tokens, where "
            f"{max(length - room - frame, 0)} fit (of {length}, {frame} go to the form of a "
            f"question and {room} are kept for the answer). Shorten it by "
            f"{len(ids) + room - length} tokens{fewer}."
        )
    stop = length if answer_tokens is None else len(ids) + answer_tokens
    masks, ends = stop - len(ids), length - stop
    vocabulary = tokenizer.vocabulary
    sequence = (*ids, *(vocabulary.mask,) * masks, *(vocabulary.end,) * ends)
    return Draft(sequence, (Blank(len(ids), stop, False),))


_HOLE = re.compile(r"\{\s*(blank|rest)\s*(?::\s*(\d+)\s*)?\}", re.IGNORECASE)
HOLES = "{blank} for one token, {blank:3} for three, {rest} at the end for an open one"


def draft_template(
    template: str, length: int, tokenizer: Tokenizer, *, blank_tokens: int = 1
) -> Draft:
    """Locked words with blanks between them, for example `a {blank} on a {blank:2} table`.

    {blank} is filled with exactly blank_tokens tokens of words, {blank:3} with three. {rest}, at
    the end only, goes on until the model ends the text. Behind the last word stand end tokens.
    Raises: TextError for a template without a blank, a blank of no tokens, {rest} before the end,
        more than `length` tokens, and characters that the tokenizer does not know.
    """
    vocabulary, ids, parts, at = tokenizer.vocabulary, [], [], 0
    for hole in _HOLE.finditer(template):
        _add_words(template[at : hole.start()], ids, parts, tokenizer)
        at = hole.end()
        kind = hole[1].lower()
        if kind == "rest":
            if template[at:].strip() or hole[2]:
                raise TextError(
                    "{rest} stands for all that follows, so it has no number and nothing may come "
                    "behind it; use {blank} inside the text"
                )
            count = max(length - len(ids), 1)
        else:
            count = _read_blank_size(hole[2] or str(blank_tokens), length)
        parts.append(Blank(len(ids), len(ids) + count, kind == "blank"))
        ids += [vocabulary.mask] * count
    if not parts:
        raise TextError(f"there is nothing to fill in; write {HOLES}")
    _add_words(template[at:], ids, parts, tokenizer)
    if len(ids) > length:
        blanks = ids.count(vocabulary.mask)
        raise TextError(
            f"the text is too long: {len(ids) - blanks} tokens of words and {blanks} of blanks, "
            f"where {length} fit together. Shorten it by {len(ids) - length} tokens."
        )
    return Draft((*ids, *(vocabulary.end,) * (length - len(ids))), tuple(parts))


def _read_blank_size(number: str, length: int) -> int:
    """Raises: TextError for a number outside 1 to `length`."""
    size = int(number) if len(number) < 9 else length + 1
    if not 1 <= size <= length:
        raise TextError(
            f"a blank stands for at least 1 token and for {length} at most, got {shorten([number])}"
        )
    return size


def tokenize_prompt(prompt: str, length: int, tokenizer: Tokenizer) -> tuple[int, ...]:
    """A prompt for a picture: its ids, an end token, and end tokens up to the full length.

    An empty prompt gives end tokens only, the null text of the training.
    Raises: TextError when it is too long, saying how many tokens fit, and for unknown characters.
    """
    ids = tokenize_words(prompt, tokenizer)
    if len(ids) > length - 1:
        raise TextError(
            f"the prompt is too long: {len(ids)} tokens, where {length - 1} and an end token fit. "
            f"Shorten it by {len(ids) - length + 1} tokens."
        )
    return (*ids, *(tokenizer.vocabulary.end,) * (length - len(ids)))


def tokenize_words(text: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of words, all of them locked.

    Raises: TextError for characters that the tokenizer does not know, named, and for the marks of
        the model written as text (`</s>`, `<extra_id_0>`).
    """
    if not text.strip():
        return []
    vocabulary = tokenizer.vocabulary
    ids = [int(i) for i in tokenizer.ids(text)]
    if vocabulary.unknown in ids:
        unknown = [
            c
            for c in dict.fromkeys(text)
            if not c.isspace() and vocabulary.unknown in tokenizer.ids(c)
        ]
        named = " ".join(unknown) if unknown else repr(text)
        blanks = f" (Blanks of D-DiT Fill are written as {HOLES}.)" if "{" in text else ""
        raise TextError(
            f"the text encoder has no token for: {named}. The model can neither read nor write it; "
            f"say it in other characters.{blanks}"
        )
    marks = [i for i in ids if i in vocabulary.special]
    if marks:
        raise TextError(
            f"the words hold the model's own marks (ids {marks[:4]}), such as </s> or "
            f"<extra_id_0>, which would end the text or be filled in; write {HOLES}"
        )
    return ids


def _add_words(text: str, ids: list[int], parts: list, tokenizer: Tokenizer):
    if text:
        ids += tokenize_words(text, tokenizer)
        parts.append(text)
