"""The built-in text encoder: its features from the formula, its words, its file."""

import json

import pytest
import torch
from jodi_pack.ddit_core.embedded import (
    load_embedded_pipeline,
    load_word_encoder,
    save_word_encoder,
)
from jodi_pack.ddit_core.text.draft import (
    CAPTION_QUESTION,
    QUESTION,
    SHORT_ANSWER,
    draft_question,
    draft_template,
)
from jodi_pack.ddit_core.text.words import WordEncoder
from jodi_pack.kit.errors import CheckpointError, TextError
from jodi_pack.kit.weights.write import write_state_dict

VOCABULARY = ("a", "red", "sofa", "is", "there", "color", "grey")


def encoder(length=20) -> WordEncoder:
    return WordEncoder(VOCABULARY, length)


def test_a_feature_is_the_word_its_neighbours_and_its_place():
    words = encoder()
    ids = torch.tensor([[3, 9, 1, 14], [8, 8, 2, 1]])
    features = words(ids)
    assert features.shape == (2, 4, words.channels)
    table, places = words.words.double(), words.positions.double()
    for row in range(2):
        for i in range(4):
            around = [
                table[ids[row, j]] if 0 <= j < 4 else torch.zeros(table.shape[1])
                for j in (i, i - 1, i + 1)
            ]
            expected = torch.cat([*around, places[i]])
            torch.testing.assert_close(features[row, i].double(), expected.double())


def test_rows_are_at_right_angles():
    for table in (encoder().words, encoder().positions):
        product = table.double() @ table.double().T
        wanted = len(table) * torch.eye(len(table), dtype=torch.float64)
        torch.testing.assert_close(product, wanted, rtol=1e-5, atol=1e-5)  # float32 rows


def test_words_go_to_ids_and_back():
    tokenizer = encoder().tokenizer
    ids = tokenizer.ids("A red   sofa,")
    assert tokenizer.text(ids) == "a red sofa"
    assert tokenizer.ids("colour gray") == tokenizer.ids("color grey")
    vocabulary = tokenizer.vocabulary
    assert not set(ids) & set(vocabulary.special) and vocabulary.mask == vocabulary.size - 1


def test_the_frame_of_a_question_takes_three_tokens():
    words = encoder()
    text = QUESTION.format(f"is there a sofa? {SHORT_ANSWER}")
    assert len(words.tokenizer.ids(text)) == 3 + 4
    assert len(words.tokenizer.ids(QUESTION.format(CAPTION_QUESTION))) == 3
    draft = draft_question("is there a sofa", 20, words.tokenizer)
    assert draft.ids.count(words.vocabulary.mask) == 20 - 7


def test_words_it_does_not_know_are_named():
    tokenizer = encoder().tokenizer
    with pytest.raises(TextError, match="does not know the words zebra, piano"):
        draft_question("is there a zebra a piano", 20, tokenizer)
    with pytest.raises(TextError) as error:
        draft_question("z" * 100_000, 20, tokenizer)
    assert len(str(error.value).partition("; it knows")[0]) < 500
    with pytest.raises(TextError, match="</s>"):
        draft_template("a {blank} </s>", 20, tokenizer)
    with pytest.raises(TextError, match="lists a word twice"):
        WordEncoder(("a", "a"), 4)
    with pytest.raises(TextError, match="at most 20"):
        encoder()(torch.zeros(1, 21, dtype=torch.long))


def test_a_saved_encoder_is_the_same(tmp_path):
    words, path = encoder(), tmp_path / "text.safetensors"
    save_word_encoder(words, path)
    again = load_word_encoder(path)
    assert again.word_list == words.word_list and again.length == words.length
    torch.testing.assert_close(again.words, words.words, rtol=1e-3, atol=1e-3)
    with pytest.raises(CheckpointError, match="exists"):
        save_word_encoder(words, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocabulary": "[]"}, "expected 8 for 0 words"),
        ({"vocabulary": "none"}, "is not JSON"),
        ({}, "no list of words"),
    ],
)
def test_files_that_make_no_encoder_say_why(tmp_path, change, said):
    words, path = encoder(), tmp_path / "text.safetensors"
    state = {"words": words.words, "positions": words.positions}
    write_state_dict(path, state, change)
    with pytest.raises(CheckpointError, match=said):
        load_word_encoder(path)


@pytest.mark.long
def test_the_built_in_model_has_parts_that_fit():
    pipeline = load_embedded_pipeline()
    assert pipeline.facts.title == "ddit-nano" and pipeline.facts.native_size == 64
    assert pipeline.length == pipeline.facts.text_length == pipeline.encode.length
    config = json.loads(pipeline.transformer.config.to_json())
    assert config["vocab_size"] == pipeline.tokenizer.vocabulary.size
