"""Prompts to token windows and features."""

import hashlib
import logging

import pytest
import torch
from jodi_pack.jodi_core.embedded import load_text_encoder, save_text_encoder
from jodi_pack.jodi_core.text import (
    INSTRUCTION_PREFIX,
    ClosedVocabularyEncoder,
    TextFeatures,
    take_negative_window,
    take_prompt_window,
)
from jodi_pack.kit.errors import TextError
from jodi_pack.tests.helpers import WORDS

BEGIN, PAD = 2, 0


def kept_mask(window) -> tuple[int, ...]:
    return tuple(window.mask[i] for i in window.select)


class ToyTokenizer:
    """Tokens as SentencePiece cuts them: a space belongs to the word behind it.

    A space that ends the text, or stands before a digit, is a token of its own: so the prefix's
    last space merges with most first words, and with some it does not.
    """

    def __init__(self):
        self.words: dict[str, int] = {}

    def __call__(self, text: str) -> list[int]:
        pieces, word = [], ""
        for i, c in enumerate(text):
            if c == " ":
                pieces += [word] if word else []
                follower = text[i + 1 : i + 2]
                alone = not follower or follower.isdigit() or follower == " "
                pieces += [" "] if alone else []
                word = "" if alone else " "
            else:
                word += c
        pieces += [word] if word else []
        return [BEGIN, *(self.words.setdefault(p, 10 + len(self.words)) for p in pieces)]

    def text(self, ids) -> list[str]:
        names = {v: k for k, v in self.words.items()} | {BEGIN: "<bos>", PAD: "<pad>"}
        return [names[i] for i in ids]


@pytest.fixture
def tokenizer():
    return ToyTokenizer()


def test_the_prefix_is_the_published_one():
    # the sum of the text in configs/inference.yaml of the released code
    expected = "62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1"
    assert hashlib.sha256(INSTRUCTION_PREFIX.encode()).hexdigest() == expected
    assert len(INSTRUCTION_PREFIX) == 1057 and INSTRUCTION_PREFIX.endswith("User Prompt: ")


class TestPromptWindow:
    prefix = "please draw: "  # <bos> "please" " draw:" " "
    prefix_tokens = 4

    def window(self, tokenizer, prompt, length=6):
        return take_prompt_window(prompt, tokenizer, pad_id=PAD, length=length, prefix=self.prefix)

    def kept(self, tokenizer, window):
        return tokenizer.text(window.ids[i] for i in window.select)

    def test_prefix_space_merges_with_the_first_word(self, tokenizer):
        window = self.window(tokenizer, "red cat")
        assert self.kept(tokenizer, window) == ["<bos>", " red", " cat", "<pad>", "<pad>", "<pad>"]
        assert kept_mask(window) == (1, 1, 1, 0, 0, 0)

    def test_prefix_space_that_does_not_merge_is_kept(self, tokenizer):
        window = self.window(tokenizer, "3 cats")
        assert self.kept(tokenizer, window) == ["<bos>", " ", "3", " cats", "<pad>", "<pad>"]
        assert kept_mask(window) == (1, 1, 1, 1, 0, 0)

    def test_empty_prompt_keeps_begin_and_space(self, tokenizer):
        for prompt in ("", "   \n"):
            window = self.window(tokenizer, prompt)
            assert self.kept(tokenizer, window) == ["<bos>", " ", *["<pad>"] * 4]
            assert kept_mask(window) == (1, 1, 0, 0, 0, 0)

    def test_positions_are_the_published_ones(self, tokenizer):
        window = self.window(tokenizer, "red cat", length=300)
        total = self.prefix_tokens + 300 - 2
        assert len(window.ids) == len(window.mask) == total
        assert window.select == (0, *range(self.prefix_tokens - 1, total))
        assert len(window.select) == 300

    def test_long_prompt_is_cut_at_the_end(self, tokenizer):
        words = [f"w{i}" for i in range(40)]
        window = self.window(tokenizer, " ".join(words))
        assert self.kept(tokenizer, window) == ["<bos>", *(f" {w}" for w in words[:5])]
        assert kept_mask(window) == (1,) * 6

    def test_prompt_that_just_fits_has_no_pad(self, tokenizer):
        window = self.window(tokenizer, "a b c d e")
        assert window.mask[-1] == 1 and len(window.ids) == len(tokenizer(self.prefix)) + 4

    def test_calls_leave_nothing_behind(self, tokenizer):
        first = self.window(tokenizer, "red cat")
        self.window(tokenizer, "a much longer prompt than the other one was")
        take_negative_window("ugly", tokenizer, pad_id=PAD, length=6)
        assert self.window(tokenizer, "red cat") == first

    def test_without_prefix_the_prompt_stands_alone(self, tokenizer):
        alone = take_prompt_window("red cat", tokenizer, pad_id=PAD, length=5, prefix="")
        assert alone == take_negative_window("red cat", tokenizer, pad_id=PAD, length=5)

    def test_the_released_prefix_is_the_default(self, tokenizer):
        window = take_prompt_window("cat", tokenizer, pad_id=PAD, length=4)
        assert window.ids[: len(tokenizer(INSTRUCTION_PREFIX)) - 1] == tuple(
            tokenizer(INSTRUCTION_PREFIX)[:-1]
        )
        assert tokenizer.text(window.ids[i] for i in window.select)[:2] == ["<bos>", " cat"]


class TestNegativeWindow:
    def test_has_no_prefix_and_keeps_all(self, tokenizer):
        window = take_negative_window("red cat", tokenizer, pad_id=PAD, length=5)
        assert tokenizer.text(window.ids) == ["<bos>", "red", " cat", "<pad>", "<pad>"]
        assert window.select == (0, 1, 2, 3, 4) and kept_mask(window) == (1, 1, 1, 0, 0)

    def test_empty_is_begin_and_pads(self, tokenizer):
        window = take_negative_window("", tokenizer, pad_id=PAD, length=4)
        assert window.ids == (BEGIN, PAD, PAD, PAD) and window.mask == (1, 0, 0, 0)

    def test_too_long_is_cut(self, tokenizer):
        window = take_negative_window("a b c d e f", tokenizer, pad_id=PAD, length=3)
        assert tokenizer.text(window.ids) == ["<bos>", "a", " b"] and window.mask == (1, 1, 1)


class TestTextFeatures:
    @pytest.mark.parametrize(
        ("caption", "mask"),
        [((2, 5, 8), (2, 5)), ((2, 2, 5, 8), (2, 5)), ((2, 1, 5, 8), (2, 6)), ((2, 1, 5, 8), (5,)),
         ((1, 1, 5, 8), (2, 5))],
    )  # fmt: skip
    def test_shapes_that_do_not_fit_are_refused(self, caption, mask):
        with pytest.raises(TextError, match=r"caption \(B, 1, S, channels\) and mask"):
            TextFeatures(torch.zeros(caption), torch.zeros(mask))


@pytest.fixture(scope="module")
def encoder():
    return ClosedVocabularyEncoder(WORDS, caption_length=6)


class TestClosedVocabularyEncoder:
    def test_a_word_is_its_vector_and_that_of_the_word_before(self, encoder):
        features = encoder(["a red house"])
        ids = [0, *(2 + WORDS.index(w) for w in ("a", "red", "house"))]
        width = encoder.table.shape[1]
        for place, index in enumerate(ids):
            before = encoder.table[ids[place - 1]] if place else torch.zeros(width)
            expected = torch.cat([encoder.table[index], before])
            assert torch.equal(features.caption[0, 0, place], expected)
        assert features.mask.tolist() == [[1, 1, 1, 1, 0, 0]]
        assert features.caption.shape == (1, 1, 6, encoder.channels)

    def test_order_of_words_counts(self, encoder):
        one, other = encoder(["a red house and a blue tree", "a blue house and a red tree"]).caption
        assert not torch.equal(one, other)

    def test_words_are_far_from_one_another(self, encoder):
        table = encoder.table.double()
        gram = table @ table.T
        assert torch.allclose(gram, len(table) * torch.eye(len(table)).double(), atol=1e-4)

    @pytest.mark.parametrize("prompt", ["", "  ", "...", "猫 42"])
    def test_without_known_words_it_is_the_null_text_all_readable(self, encoder, prompt):
        features = encoder([prompt])
        rows = features.caption[0, 0]
        assert features.mask.tolist() == [[1] * 6]
        assert (rows[1:] == rows[1]).all() and not torch.equal(rows[0], rows[1])
        assert torch.equal(rows, encoder([""]).caption[0, 0])

    def test_rows_of_a_batch_are_those_of_single_prompts(self, encoder):
        prompts = ["a red tree", "", "the blue sky and the house"]
        together = encoder(prompts)
        for i, prompt in enumerate(prompts):
            alone = encoder([prompt])
            assert torch.equal(together.caption[i], alone.caption[0])
            assert torch.equal(together.mask[i], alone.mask[0])

    @pytest.mark.parametrize(
        ("prompt", "unknown"),
        [("a purple house", ["purple"]), ("Ein ROTES house", ["ein", "rotes"]),
         ("3 red houses", ["3", "houses"]), ("红色 house", ["红色"]), ("café sky", ["café"]),
         ("red_house", [])],
    )  # fmt: skip
    def test_unknown_words_are_left_out_and_named(self, encoder, prompt, unknown, caplog):
        with caplog.at_level(logging.WARNING, "jodi"):
            features = encoder([prompt])
        words = prompt.lower().replace("_", " ").split()
        known = " ".join(w for w in words if w not in unknown)
        assert torch.equal(features.caption, encoder([known]).caption)
        assert len(caplog.records) == bool(unknown)
        for word in unknown:
            assert word in caplog.records[0].getMessage()

    @pytest.mark.parametrize("prompt", ["x" * 100_000, " ".join(f"w{i}" for i in range(20_000))])
    def test_a_warning_of_unknown_words_is_short(self, encoder, prompt, caplog):
        with caplog.at_level(logging.WARNING, "jodi"):
            encoder([prompt])
        assert len(caplog.records[0].getMessage().partition("; it knows")[0]) < 500

    def test_case_and_punctuation_do_not_matter(self, encoder):
        pair = encoder(["A red house, under the SKY.", "a red house under the sky"]).caption
        assert torch.equal(pair[0], pair[1])

    def test_a_long_prompt_is_cut_with_a_warning(self, encoder, caplog):
        with caplog.at_level(logging.WARNING, "jodi"):
            features = encoder(["a red house and a blue tree"])
        assert features.mask.tolist() == [[1] * 6]
        assert torch.equal(features.caption, encoder(["a red house and a"]).caption)
        assert "7 words; only the first 5" in caplog.records[0].getMessage()

    def test_the_same_seed_gives_the_same_table(self, encoder):
        same, other = (ClosedVocabularyEncoder(WORDS, 6, seed=s) for s in (0, 1))
        assert torch.equal(same.table, encoder.table)
        assert not torch.equal(other.table, encoder.table)

    def test_a_word_twice_is_refused(self):
        with pytest.raises(TextError, match="twice"):
            ClosedVocabularyEncoder(["red", "blue", "red"], 6)

    def test_saved_and_loaded_again(self, encoder, tmp_path):
        save_text_encoder(encoder, tmp_path / "text.safetensors")
        loaded = load_text_encoder(tmp_path / "text.safetensors")
        assert loaded.vocabulary == encoder.vocabulary
        assert loaded.caption_length == encoder.caption_length
        assert torch.equal(loaded.table, encoder.table.half().float())
        assert torch.equal(loaded(["a red house"]).mask, encoder(["a red house"]).mask)
