"""The sampler of words: what never changes, how often the network runs, and chance."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.ddit_core.text.choose import compute_token_probabilities, draw_tokens
from jodi_pack.ddit_core.text.draft import (
    Blank,
    Draft,
    draft_caption,
    draft_question,
    draft_template,
)
from jodi_pack.ddit_core.text.sampler import TextOptions, draw_uniforms, sample_text
from jodi_pack.ddit_core.text.schedule import (
    count_published_evaluations,
    draw_reveal_steps,
    split_evenly,
)
from jodi_pack.kit.errors import Interrupted, JodiError, ShapeError, TextError
from jodi_pack.tests.ddit_core.small import WORDS, word_tokenizer
from jodi_pack.tests.helpers import generator

T = word_tokenizer()
V = T.vocabulary
ID = {word: i + 3 for i, word in enumerate(WORDS)}


class Reader:
    """Logits that depend on all ids seen, so that an order mixed up shows; counts its calls."""

    def __init__(self, end: float = 0.0):
        self.calls, self.rows, self.end = 0, 0, end
        self.table = torch.randn(V.size, V.size, generator=generator(3), dtype=torch.float64)

    def __call__(self, ids, rows, positions):
        self.calls, self.rows = self.calls + 1, self.rows + len(ids)
        assert len(ids) == len(rows) == len(positions)
        seen = self.table[ids].mean(1, keepdim=True)
        logits = 3 * seen + torch.cos(positions[..., None] + torch.arange(V.size))
        logits[..., V.end] += self.end
        return logits


def certain(sequence):
    """A network that knows the text."""

    def predict(ids, rows, positions):
        logits = torch.full((*positions.shape, V.size), -30.0)
        tokens = torch.tensor(sequence)[positions]
        return logits.scatter(-1, tokens[..., None], 30.0)

    return predict


def questions(count=3, length=24):
    return [draft_question(f"two {WORDS[i]}", length, T, short=False) for i in range(count)]


class TestWhatNeverChanges:
    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_locked_ids_stay_and_closed_blanks_hold_words(self, data):
        """Any kept words at any place, blanks anywhere, under every way of drawing."""
        places = data.draw(
            st.lists(st.sampled_from(["word", "blank", "open"]), min_size=1, max_size=14)
        )
        ids = [
            V.mask if p != "word" else data.draw(st.integers(3, V.first_sentinel - 1))
            for p in places
        ]
        parts = tuple(Blank(i, i + 1, p == "blank") for i, p in enumerate(places) if p != "word")
        options = TextOptions(
            steps=data.draw(st.integers(1, 20)),
            temperature=data.draw(st.sampled_from([0.0, 0.5, 1.0, 3.0])),
            top_p=data.draw(st.sampled_from([0.3, 1.0])),
            order=data.draw(st.sampled_from(["random", "confidence"])),
            words_only=data.draw(st.booleans()),
        )  # fmt: skip
        seed = data.draw(st.integers(0, 99))
        out = sample_text(Reader(end=2.0), [Draft(tuple(ids), parts)], V, options, seed=seed).ids[0]
        for place, before, after in zip(places, ids, out.tolist(), strict=True):
            assert after != V.mask
            if place == "word":
                assert after == before
            if place == "blank" and not (out[: len(ids)] == V.end).any():
                assert after not in V.special

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10_000), st.sampled_from(["random", "confidence"]))
    def test_a_filled_template_is_the_template_with_words_in_its_blanks(self, seed, order):
        draft = draft_template("A {blank} on the RED {blank:2} mat", 16, T)
        options = TextOptions(steps=5, order=order)
        ids = sample_text(Reader(end=9.0), [draft], V, options, seed=seed).ids[0].tolist()
        first, *second = (T.text([ids[i]]) for i in (1, 5, 6))
        assert draft.read(ids, T) == f"A {first} on the RED {' '.join(second)} mat"

    def test_revealed_tokens_are_frozen(self):
        states = []
        sample_text(
            Reader(), questions(), V, TextOptions(steps=9), callback=lambda s: states.append(s.ids)
        )
        for before, after in itertools.pairwise(states):
            known = before != V.mask
            assert (
                torch.equal(before[known], after[known]) and (after != V.mask).sum() > known.sum()
            )

    def test_large_seeds_are_seeds_of_their_own(self):
        seeds = (0, 5, 2**32, 2**32 + 5, 2**63, 2**63 + 5, 2**64 - 1, 2**64, -1, 10**99)
        assert len({tuple(draw_uniforms(seed, 4).flatten().tolist()) for seed in seeds}) == 10

    @pytest.mark.parametrize("order", ["random", "confidence"])
    def test_a_row_is_the_same_alone_and_in_a_batch(self, order):
        options = TextOptions(steps=7, order=order)
        together = sample_text(Reader(), questions(), V, options, seed=5).ids
        for i, draft in enumerate(questions()):
            alone = sample_text(Reader(), [draft], V, options, seed=5 + i).ids[0]
            assert torch.equal(alone, together[i])
        again = sample_text(Reader(), questions(), V, options, seed=[5, 6, 7]).ids
        assert torch.equal(again, together)
        other = sample_text(Reader(), questions(), V, options, seed=50).ids
        assert not torch.equal(other, together)


class TestEvaluations:
    @pytest.mark.parametrize("order", ["random", "confidence"])
    @pytest.mark.parametrize("end", [0.0, 3.0])
    def test_stopping_at_the_end_changes_no_text(self, order, end):
        saved = 0
        for seed in range(6):
            texts, counts = [], []
            for stop in (True, False):
                options = TextOptions(steps=12, order=order, stop_at_end=stop)
                sample = sample_text(Reader(end), questions(1), V, options, seed=seed)
                texts.append(questions(1)[0].read(sample.ids[0].tolist(), T))
                counts += sample.evaluations
            assert texts[0] == texts[1] and counts[0] <= counts[1]
            saved += counts[1] - counts[0]
        assert saved > 0

    def test_the_network_runs_at_steps_that_reveal_something(self):
        draft, steps = draft_caption(10, T), 40
        reader = Reader()
        options = TextOptions(steps=steps, stop_at_end=False)
        sample = sample_text(reader, [draft], V, options, seed=3)
        uniforms = torch.rand(2, 10, generator=generator(3), dtype=torch.float64)[0]
        distinct = len(set(draw_reveal_steps(uniforms, steps).tolist()))
        assert sample.evaluations == (distinct,) and reader.calls == distinct < 10 < steps

    def test_finished_rows_leave_the_batch(self):
        reader = Reader(end=2.0)
        sample = sample_text(reader, questions(), V, TextOptions(steps=12), seed=1)
        assert reader.rows == sum(sample.evaluations) < reader.calls * 3

    def test_nothing_to_fill_needs_no_network(self):
        draft = Draft((ID["a"], V.end), ())
        sample = sample_text(Reader(), [draft], V)
        assert sample.evaluations == (0,) and sample.ids.tolist() == [[ID["a"], V.end]]

    def test_what_lies_behind_the_end_is_end_tokens(self):
        text = [ID["red"], ID["cat"], *[V.end] * 18]
        sample = sample_text(certain(text), [draft_caption(20, T)], V, TextOptions(steps=64))
        assert sample.ids[0].tolist() == text

    def test_confidence_reveals_an_even_number_each_step(self):
        counts = []
        options = TextOptions(steps=4, order="confidence", stop_at_end=False)
        sample_text(
            Reader(), [draft_caption(10, T)], V, options,
            callback=lambda s: counts.append(int((s.ids != V.mask).sum())),
        )  # fmt: skip
        assert counts == [2, 5, 8, 10] and split_evenly(10, 4) == [2, 3, 3, 2]

    def test_confidence_takes_the_surest_places(self):
        def predict(ids, rows, positions):
            logits = torch.zeros(*positions.shape, V.size)
            logits[..., ID["cat"]] = positions.float()
            return logits

        options = TextOptions(steps=3, order="confidence", temperature=0.0)
        states = []
        sample_text(
            predict, [draft_caption(3, T)], V, options, callback=lambda s: states.append(s.ids[0])
        )
        # Greedy draws are all certain: then the first place comes first.
        assert (states[0] != V.mask).tolist() == [True, False, False]
        states.clear()
        options = TextOptions(steps=3, order="confidence", top_p=1e-9, temperature=1.0)
        sample_text(
            predict, [draft_caption(3, T)], V, options, callback=lambda s: states.append(s.ids[0])
        )
        assert int((states[0] != V.mask).sum()) == 1


class TestChance:
    def test_every_step_is_as_likely_as_the_next(self):
        drawn = draw_reveal_steps(
            torch.rand(200_000, generator=generator(), dtype=torch.float64), 8
        )
        counts = torch.bincount(drawn, minlength=9).double()
        expected = 200_000 / 8
        assert (counts[:8] - expected).abs().max() < 5 * math.sqrt(expected)

    def test_what_the_published_grid_leaves_over(self):
        steps = draw_reveal_steps(
            torch.tensor([0.0, 0.25, 1 - 1.1e-5, 1 - 0.9e-5], dtype=torch.float64), 4
        )
        assert steps.tolist() == [0, 1, 3, 4]

    @pytest.mark.long
    def test_the_same_distribution_as_the_published_sampler(self):
        """Texts of a toy network, drawn by both samplers."""
        small = word_tokenizer(("a", "b"), sentinels=1)
        vocabulary, runs, steps = small.vocabulary, 2_500, 3
        generate = generator(1)
        table = 1.5 * torch.randn(6, 6, generator=generate, dtype=torch.float64)

        def probabilities(ids):
            logits = table[ids[:, None]].sum(2) + table[:2].repeat(1, 1)[None, : ids.shape[1]]
            logits[..., vocabulary.mask] = -math.inf
            return logits.softmax(-1)

        def predict(ids, rows, positions):
            logits = probabilities(ids).log()
            return logits.gather(1, positions[..., None].expand(-1, -1, 6))

        ours = sample_text(
            predict, [draft_caption(2, small)] * runs, vocabulary,
            TextOptions(steps=steps, stop_at_end=False), seed=range(runs),
        ).ids  # fmt: skip

        ids = torch.full((runs, 2), vocabulary.mask)
        grid = torch.linspace(1, 1e-5, steps + 1, dtype=torch.float64)
        for t, s in itertools.pairwise(grid):
            p = probabilities(ids)
            token = torch.multinomial(p.flatten(0, 1), 1, generator=generate).view(runs, 2)
            reveal = torch.rand(runs, 2, generator=generate, dtype=torch.float64) < (t - s) / t
            ids = torch.where((ids == vocabulary.mask) & reveal, token, ids)
        ids = torch.where(ids == vocabulary.mask, probabilities(ids).argmax(-1), ids)

        counts = [torch.bincount(x[:, 0] * 6 + x[:, 1], minlength=36).double() for x in (ours, ids)]
        error = (counts[0] - counts[1]).abs() / (counts[0] + counts[1]).clamp(min=25).sqrt()
        assert error.max() < 4.5

    def test_tokens_are_drawn_with_their_probability_however_small(self):
        p = torch.tensor([[1e-9, 0.0, 0.3, 0.7 - 1e-9, 0.0]], dtype=torch.float64)
        u = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
        drawn = draw_tokens(p.expand(len(u), -1), u)
        shares = torch.bincount(drawn, minlength=5).double() / len(u)
        torch.testing.assert_close(shares, p[0], rtol=0, atol=2e-4)
        assert draw_tokens(p, torch.tensor([5e-10])).item() == 0
        assert draw_tokens(p, torch.tensor([1 - 1e-16])).item() == 3

    def test_temperature_and_top_p(self):
        logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        free = torch.zeros(4, dtype=torch.bool)
        plain = compute_token_probabilities(logits, free)[0]
        exact = torch.tensor([math.exp(x) for x in range(4)], dtype=torch.float64)
        torch.testing.assert_close(plain, exact / exact.sum())
        hot = compute_token_probabilities(logits, free, temperature=2.0)[0]
        exact = torch.tensor([math.exp(x / 2) for x in range(4)], dtype=torch.float64)
        torch.testing.assert_close(hot, exact / exact.sum())
        assert compute_token_probabilities(logits, free, temperature=0)[0].tolist() == [0, 0, 0, 1]
        nucleus = compute_token_probabilities(logits, free, top_p=0.7)[0]
        kept = plain[2:] / plain[2:].sum()
        torch.testing.assert_close(nucleus, torch.cat([torch.zeros(2, dtype=torch.float64), kept]))

    def test_half_precision_logits_ban_without_overflow(self):
        logits = torch.tensor([[5.0, 60000.0]], dtype=torch.float16)
        p = compute_token_probabilities(logits, torch.tensor([False, True]))
        assert p.tolist() == [[1.0, 0.0]]

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_values_that_are_not_finite_are_not_drawn_from(self, value):
        with pytest.raises(JodiError, match=r"not finite.*choose bf16"):
            sample_text(lambda i, r, p: torch.full((*p.shape, V.size), value), questions(), V)

    def test_the_smallest_temperature_is_that_of_the_likeliest_token(self):
        logits = torch.tensor([[-7.0, 500.0, 499.0]])
        p = compute_token_probabilities(
            logits, torch.zeros(3, dtype=torch.bool), temperature=5e-324
        )
        assert p.tolist() == [[0, 1, 0]]

    def test_words_only_draws_no_marks(self):
        options = TextOptions(steps=4, words_only=True, temperature=5.0, stop_at_end=False)
        ids = sample_text(Reader(), questions(), V, options).ids
        assert not set(ids.unique().tolist()) & (set(V.special) - {V.end})


def test_published_evaluations_are_those_of_its_loop():
    """Counted by the loop as described: predictions are reused while nothing changed."""
    for seed in range(30):
        plan = torch.randint(0, 12, (5,), generator=generator(seed))
        stop = int(torch.randint(0, 12, (), generator=generator(seed + 99)))
        calls, at_stop, fresh = 0, 0, False
        for step in range(12):
            if not fresh:
                calls, fresh = calls + 1, True
            if step == stop:
                at_stop = calls
            if (plan == step).any():
                fresh = False
        assert count_published_evaluations(plan, 12) == calls + 1
        assert count_published_evaluations(plan, 12, last=stop) == at_stop


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"steps": 0}, "1 step"),
            ({"temperature": -1}, "temperature"),
            ({"temperature": float("nan")}, "temperature"),
            ({"top_p": 0}, "top_p"),
            ({"order": "best"}, "random or confidence"),
        ],
    )
    def test_options_outside_their_range(self, options, words):
        with pytest.raises(TextError, match=words):
            TextOptions(**options)

    def test_drafts_of_two_lengths(self):
        with pytest.raises(ShapeError, match=r"one length, got \[4, 5\]"):
            sample_text(Reader(), [draft_caption(4, T), draft_caption(5, T)], V)

    def test_seeds_that_do_not_match(self):
        with pytest.raises(ShapeError, match="2 seeds were given for 3 texts"):
            sample_text(Reader(), questions(), V, seed=[1, 2])

    def test_a_head_of_another_vocabulary(self):
        with pytest.raises(JodiError, match="vocabulary is not the tokenizer's"):
            sample_text(lambda i, r, p: torch.zeros(*p.shape, 5), questions(), V)

    def test_stopping(self):
        seen = []

        def stop(step):
            seen.append(step.step)
            return len(seen) < 2

        with pytest.raises(Interrupted, match="of 9"):
            sample_text(Reader(), questions(), V, TextOptions(steps=9), callback=stop)
        assert len(seen) == 2

    def test_schedules_that_cannot_be(self):
        with pytest.raises(JodiError, match="1 step"):
            draw_reveal_steps(torch.rand(3), 0)
