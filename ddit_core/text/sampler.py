"""Absorbing ("masked") diffusion of words: every place starts masked and is revealed once.

The sampler calls `predict(ids, rows, positions)` and never knows what is behind it.
Source: Sahoo et al. 2024, arXiv 2406.07524 (SUBS); Li et al. 2025, arXiv 2501.00289.

Shapes: B rows, L places, R rows that one call is for, P places it asks for, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kit.errors import Interrupted, JodiError, ShapeError, TextError
from ...kit.sampling import fold_seed
from .choose import compute_token_probabilities, draw_tokens
from .draft import Draft
from .schedule import draw_reveal_steps, split_evenly
from .vocabulary import Vocabulary

# ids (R, L), indices of these rows (R,), positions (R, P) -> logits (R, P, V). A row that asks for
# fewer places than another repeats one of its own.
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
ORDERS = ("random", "confidence")


@dataclass(frozen=True)
class TextOptions:
    """How words are drawn. The defaults are the published rule.

    steps: the grid of the text; no more evaluations than this are made. temperature, top_p: see
    `choose.compute_token_probabilities`. order: "random" reveals places by chance, as published;
    "confidence" reveals at each step those whose drawn token is the likeliest. words_only: never
    draw pad, unknown or marks. stop_at_end: leave a row as soon as its text is final; the text is
    the same either way.
    Raises: TextError for values outside their range.
    """

    steps: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "random"
    words_only: bool = False
    stop_at_end: bool = True

    def __post_init__(self):
        if self.steps < 1:
            raise TextError(f"text needs at least 1 step, got {self.steps}")
        if not 0 <= self.temperature < float("inf"):
            raise TextError(f"the temperature must be 0 or above, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise TextError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.order not in ORDERS:
            raise TextError(f"the order must be {' or '.join(ORDERS)}, got {self.order!r}")


@dataclass(frozen=True)
class TextStep:
    """One finished network evaluation: ids (B, L) with the mask at places not yet revealed."""

    step: int
    steps: int
    ids: Tensor


@dataclass(frozen=True)
class TextSample:
    """ids (B, L), filled as far as the text goes; evaluations: of the network, for each row."""

    ids: Tensor
    evaluations: tuple[int, ...]


def sample_text(
    predict: Predict,
    drafts: Sequence[Draft],
    vocabulary: Vocabulary,
    options: TextOptions | None = None,
    *,
    seed: int | Sequence[int] = 0,
    callback: Callable[[TextStep], bool | None] | None = None,
) -> TextSample:
    """Fill every masked place of some drafts of one length.

    The network runs only at steps that reveal something, for the rows and places concerned. A row
    is finished, and leaves the batch, when no place before its first end token is masked: revealed
    tokens never change, so its text cannot either. What lies behind is filled with end tokens.
    seed: row i uses seed + i, or its own of a list; a row is the same in a batch of any size.
    callback: see TextStep; returning False stops.
    Raises: ShapeError for drafts of different lengths; Interrupted when the callback stopped it.
    """
    options = options or TextOptions()
    if len({len(draft.ids) for draft in drafts}) != 1:
        raise ShapeError(
            f"drafts of one batch must have one length, got {[len(d.ids) for d in drafts]}"
        )
    seeds = [seed + i for i in range(len(drafts))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(drafts):
        raise ShapeError(f"{len(seeds)} seeds were given for {len(drafts)} texts; give one each")
    kind = _RandomRow if options.order == "random" else _ConfidentRow
    rows = [kind(d, vocabulary, options, s) for d, s in zip(drafts, seeds, strict=True)]
    for step in sorted(set().union(*(row.steps() for row in rows))):
        asking = {i: places for i, row in enumerate(rows) if len(places := row.asks(step))}
        if not asking:
            continue
        # What the published grid leaves over, after its last step, goes to the likeliest token.
        answers = _draw(predict, rows, asking, options, greedy=step == options.steps)
        for (i, places), (tokens, confidence) in zip(asking.items(), answers, strict=True):
            rows[i].answer(step, places, tokens, confidence)
            rows[i].evaluations += 1
        if callback is not None:
            state = TextStep(min(step + 1, options.steps), options.steps, _ids_of(rows))
            if callback(state) is False:
                raise Interrupted(f"stopped after step {state.step} of {options.steps}")
    for row in rows:
        row.ids[row.ids == vocabulary.mask] = vocabulary.end
    return TextSample(_ids_of(rows), tuple(row.evaluations for row in rows))


def draw_uniforms(seed: int, length: int) -> Tensor:
    """The numbers of one text, (2, L) in [0, 1): when each place is revealed, and as what."""
    generator = torch.Generator().manual_seed(fold_seed(int(seed)))
    return torch.rand(2, length, generator=generator, dtype=torch.float64)


def _draw(predict: Predict, rows: "Sequence[_Row]", asking: dict[int, Tensor], options, greedy):
    """For each row that asks, a token for each place it asks for and its probability, (P,) each."""
    counts = [len(places) for places in asking.values()]
    positions = torch.stack(
        [torch.cat([p, p[:1].expand(max(counts) - len(p))]) for p in asking.values()]
    )
    ids = torch.stack([rows[i].ids for i in asking])
    logits = predict(ids, torch.tensor(list(asking)), positions)
    vocabulary = rows[0].vocabulary
    if logits.shape != (*positions.shape, vocabulary.size):
        raise JodiError(
            f"the text head gave {tuple(logits.shape)}, expected "
            f"{(*positions.shape, vocabulary.size)}: its vocabulary is not the tokenizer's"
        )
    closed = torch.cat([rows[i].closed[places] for i, places in asking.items()])
    p = compute_token_probabilities(
        torch.cat([part[:count] for part, count in zip(logits, counts, strict=True)]),
        _banned(vocabulary, options.words_only)[closed.long()],
        temperature=0.0 if greedy else options.temperature,
        top_p=options.top_p,
    )
    tokens = draw_tokens(p, torch.cat([rows[i].which[places] for i, places in asking.items()]))
    confidence = p.gather(1, tokens[:, None]).squeeze(1)
    return zip(tokens.split(counts), confidence.split(counts), strict=True)


def _banned(vocabulary: Vocabulary, words_only: bool) -> Tensor:
    """Tokens without a chance, (2, V): where a text may end, and where it may not."""
    banned = torch.zeros(2, vocabulary.size, dtype=torch.bool)
    banned[1, list(vocabulary.special)] = True
    if words_only:
        banned[0] = banned[1]
        banned[0, vocabulary.end] = False
    banned[0, vocabulary.mask] = True
    return banned


def _ids_of(rows: Sequence["_Row"]) -> Tensor:
    return torch.stack([row.ids for row in rows])


class _Row:
    """One text on its way. Its random numbers belong to its places, so nothing shifts them."""

    def __init__(self, draft: Draft, vocabulary: Vocabulary, options: TextOptions, seed: int):
        self.vocabulary, self.options = vocabulary, options
        self.ids, self.closed = torch.tensor(draft.ids), torch.tensor(draft.closed)
        self.evaluations = 0
        self.when, self.which = draw_uniforms(seed, len(self.ids))

    @property
    def masked(self) -> Tensor:
        """Masked places, (N,)."""
        return (self.ids == self.vocabulary.mask).nonzero().squeeze(1)

    def steps(self) -> list[int]:
        """Steps at which this row may ask for something."""
        raise NotImplementedError

    def asks(self, step: int) -> Tensor:
        """The places whose tokens are wanted at this step, (P,)."""
        masked = self.masked
        return masked[:0] if self._finished(masked) else self._wanted(step, masked)

    def answer(self, step: int, places: Tensor, tokens: Tensor, confidence: Tensor):
        """Take what was drawn for these places, (P,) each."""
        raise NotImplementedError

    def _wanted(self, step: int, masked: Tensor) -> Tensor:
        raise NotImplementedError

    def _finished(self, masked: Tensor) -> bool:
        """Whether the text can no longer change."""
        if not len(masked) or not self.options.stop_at_end:
            return not len(masked)
        before = self.ids[: masked[0]]
        return bool(((before == self.vocabulary.end) | (before == self.vocabulary.pad)).any())


class _RandomRow(_Row):
    """Places are revealed at steps drawn beforehand."""

    def __init__(self, *args):
        super().__init__(*args)
        self.plan = draw_reveal_steps(self.when, self.options.steps)

    def steps(self):
        return self.plan[self.masked].unique().tolist()

    def _wanted(self, step, masked):
        return masked[self.plan[masked] == step]

    def answer(self, step, places, tokens, confidence):
        self.ids[places] = tokens


class _ConfidentRow(_Row):
    """The likeliest of the drawn tokens are revealed, an even number at each step."""

    def __init__(self, *args):
        super().__init__(*args)
        self.counts = split_evenly(len(self.masked), self.options.steps)

    def steps(self):
        return [step for step, count in enumerate(self.counts) if count]

    def _wanted(self, step, masked):
        return masked if self.counts[step] else masked[:0]

    def answer(self, step, places, tokens, confidence):
        best = confidence.sort(descending=True, stable=True).indices[: self.counts[step]]
        self.ids[places[best]] = tokens[best]
