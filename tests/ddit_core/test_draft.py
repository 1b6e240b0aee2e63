"""Questions, captions and blanks as token ids, and back; locked words come back as they were."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jodi_pack.ddit_core.text.draft import (
    ANSWER_ROOM,
    draft_caption,
    draft_question,
    draft_template,
    read_words,
    tokenize_prompt,
)
from jodi_pack.ddit_core.text.vocabulary import T5_VOCABULARY, Vocabulary
from jodi_pack.kit.errors import TextError
from jodi_pack.tests.ddit_core.small import WORDS, word_tokenizer

T = word_tokenizer()
MASK, END = T.vocabulary.mask, 1
ID = {word: i + 3 for i, word in enumerate(WORDS)}


def test_the_released_ids():
    assert (T5_VOCABULARY.mask, T5_VOCABULARY.first_sentinel) == (32099, 32000)
    assert T5_VOCABULARY.end == 1 and {0, 1, 2, 32000, 32099} <= set(T5_VOCABULARY.special)


def test_a_vocabulary_without_room_for_words():
    with pytest.raises(TextError, match="vocabulary of 60 has no room for 100"):
        Vocabulary(60)


class TestQuestions:
    def test_layout_of_the_training(self):
        """No end token behind the question; every place behind it is open."""
        draft = draft_question("two cat", 20, T, short=False)
        assert draft.ids == (ID["q:"], ID["two"], ID["cat"], ID["a:"], *[MASK] * 16)
        assert not any(draft.closed)

    def test_the_answer_is_what_stands_behind_the_question(self):
        draft = draft_question("two cat", 20, T, short=False)
        filled = [*draft.ids[:4], ID["red"], ID["dog"], END, ID["mat"], *[END] * 12]
        assert draft.read(filled, T) == "red dog"

    def test_an_answer_of_a_given_length_ends(self):
        draft = draft_question("cat", 20, T, short=False, answer_tokens=2)
        assert draft.ids == (ID["q:"], ID["cat"], ID["a:"], MASK, MASK, *[END] * 15)

    def test_a_short_answer_is_asked_for(self):
        words = ["answer", "the", "question", "using", "a", "single", "word", "or", "phrase."]
        tokenizer = word_tokenizer((*dict.fromkeys((*WORDS, *words)),))
        ids = draft_question("cat", 30, tokenizer).ids
        masks = ids.count(tokenizer.vocabulary.mask)
        assert tokenizer.text(ids[: 30 - masks]) == (
            "q: cat answer the question using a single word or phrase. a:"
        )

    @pytest.mark.parametrize("question", ["", "  \n"])
    def test_an_empty_question(self, question):
        with pytest.raises(TextError, match="empty"):
            draft_question(question, 20, T)

    def test_the_longest_question_that_fits_and_one_more(self):
        fits = 20 - ANSWER_ROOM - 2
        draft_question(" ".join(["cat"] * fits), 20, T, short=False)
        with pytest.raises(TextError, match=rf"{fits + 1} tokens, where {fits} fit.*by 1 tokens"):
            draft_question(" ".join(["cat"] * (fits + 1)), 20, T, short=False)
        with pytest.raises(TextError, match="16 fit"):
            draft_question(" ".join(["cat"] * 30), 20, T, short=False, answer_tokens=2)

    def test_too_long_an_answer(self):
        with pytest.raises(TextError, match=r"kept for the answer.*or ask for a shorter answer"):
            draft_question("cat", 20, T, short=False, answer_tokens=512)

    def test_an_answer_of_no_length(self):
        with pytest.raises(TextError, match="at least 1"):
            draft_question("cat", 20, T, answer_tokens=0)


class TestBlanks:
    def test_places_and_end_tokens(self):
        draft = draft_template("a {blank} on a {blank:2} table", 12, T)
        a, on, table = ID["a"], ID["on"], ID["table"]
        assert draft.ids == (a, MASK, on, a, MASK, MASK, table, *[END] * 5)
        assert [i for i, closed in enumerate(draft.closed) if closed] == [1, 4, 5]
        filled = [a, ID["cat"], on, a, ID["red"], ID["mat"], table, *[END] * 5]
        assert draft.read(filled, T) == "a cat on a red mat table"

    def test_a_blank_may_be_written_with_spaces_and_capitals(self):
        plain = draft_template("a {blank:2} cat {rest}", 12, T)
        assert draft_template("a { Blank : 2 } cat {REST}", 12, T) == plain

    def test_an_open_end(self):
        draft = draft_template("A red {rest}", 8, T)
        assert draft.ids == (ID["a"], ID["red"], *[MASK] * 6) and not any(draft.closed)
        assert draft.read([*draft.ids[:2], ID["cat"], END, *[ID["dog"]] * 4], T) == "A red cat"

    def test_words_return_as_typed(self):
        draft = draft_template("The  CAT {blank}, red!", 12, word_tokenizer((*WORDS, ",", "red!")))
        assert draft.parts[0] == "The  CAT " and draft.parts[2] == ", red!"

    @pytest.mark.parametrize(
        ("template", "words"),
        [
            ("a cat", "nothing to fill in"),
            ("a {blank:0} cat", "at least 1 token and for 10 at most, got 0"),
            ("a {blank:99999999999999} cat", "got 99999999999999"),
            ("a {blank:" + "9" * 5000 + "} cat", r"got 9+\.\.\."),
            ("a {rest} cat", "nothing may come behind"),
            ("a {rest:3}", "no number"),
            ("a {blank:9} cat", "2 tokens of words and 9 of blanks, where 10 fit.*by 1 tokens"),
            ("a {blnk} cat {blank}", "no token for: {"),
            ("a ~ {blank}", "no token for: ~"),
            ("a </s> {blank}", "own marks"),
            ("a <extra_id_0> {blank}", "own marks"),
        ],
    )
    def test_templates_that_cannot_be(self, template, words):
        tokenizer = word_tokenizer((*WORDS, "b", "l", "n", "k", "}"))
        with pytest.raises(TextError, match=words):
            draft_template(template, 10, tokenizer)

    def test_what_is_not_revealed_yet_is_shown(self):
        draft = draft_template("a {blank:4} table", 8, T)
        ids = [ID["a"], MASK, MASK, ID["cat"], MASK, ID["table"], END, END]
        assert draft.read(ids, T, "_") == "a _ cat _ table"
        assert draft.read(draft.ids, T, "_") == "a _ table"
        assert draft.read(draft.ids, T) == "a  table"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_locked_words_come_back_unchanged_whatever_is_filled_in(data):
    words = st.lists(st.sampled_from(WORDS).map(str.title), min_size=1, max_size=4)
    texts = data.draw(st.lists(words.map(" ".join), min_size=2, max_size=5))
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=len(texts) - 1, max_size=len(texts) - 1))
    holes = [f" {{blank:{n}}} " for n in gaps]
    template = texts[0] + "".join(h + t for h, t in zip(holes, texts[1:], strict=True))
    draft = draft_template(template, 40, T)
    any_id = st.integers(0, T.vocabulary.size - 1)
    filled = [data.draw(any_id) if i == MASK else i for i in draft.ids]
    out = draft.read(filled, T)
    for text in texts:
        assert text in out
    at = [out.index(texts[0])]
    assert at == [0] and out.endswith(texts[-1])


class TestPrompts:
    def test_padded_with_end_tokens(self):
        assert tokenize_prompt("red cat", 5, T) == (ID["red"], ID["cat"], END, END, END)
        assert tokenize_prompt("", 3, T) == tokenize_prompt(" ", 3, T) == (END,) * 3

    def test_too_long(self):
        tokenize_prompt("cat " * 4, 5, T)
        with pytest.raises(TextError, match="5 tokens, where 4 and an end token fit"):
            tokenize_prompt("cat " * 5, 5, T)


def test_caption_without_words():
    draft = draft_caption(6, T)
    assert draft.ids == (MASK,) * 6 and not any(draft.closed)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([ID["red"], ID["cat"], END, ID["dog"]], "red cat"),
        ([ID["red"], 0, ID["dog"]], "red"),
        ([ID["red"], MASK - 1, 2, ID["dog"]], "red dog"),
        ([ID["red"], ID["dog"]], "red dog"),
        ([END, ID["dog"]], ""),
        ([], ""),
    ],
)
def test_a_text_ends_at_its_first_end_token(ids, text):
    assert read_words(ids, T) == text
