"""Files of closed-vocabulary text encoders: whole, or named for what is wrong with them."""

import json

import pytest
import torch
from jodi_pack.cli.info import describe
from jodi_pack.jodi_core.embedded import load_text_encoder, save_text_encoder
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.kit.errors import CheckpointError
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.tests.helpers import WORDS


@pytest.fixture
def encoder():
    return ClosedVocabularyEncoder(WORDS, 8)


def check_refused(path, *told):
    for door in (lambda: load_text_encoder(path), lambda: list(describe(path))):
        with pytest.raises(CheckpointError) as caught:
            door()
        assert all(part in str(caught.value) for part in told), str(caught.value)


@pytest.mark.parametrize("length", ["0", "-5", "1000000000000", "x", "1", "8.0", None])
def test_lengths(tmp_path, encoder, length):
    about = {"vocabulary": json.dumps(WORDS), "caption_length": length}
    about = {key: value for key, value in about.items() if value is not None}
    write_state_dict(tmp_path / "t.safetensors", {"table": encoder.table}, about)
    check_refused(tmp_path / "t.safetensors", "caption_length")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("5", "no list"),
        ("[]", "no list"),
        ("[1, 2]", "no word"),
        ('["", "a"]', "no word"),
        ("{", "not JSON"),
        ("[" * 10**5, "nested|JSON"),
        (json.dumps(["a", *WORDS[1:-1], "a"]), "twice"),
        (json.dumps(WORDS[:-1]), "rows"),
        (json.dumps([f"word{i}" for i in range(6000)]), "rows"),
        (None, "no vocabulary"),
    ],
)
def test_words(tmp_path, encoder, words, told):
    about = {"caption_length": "8"} | ({} if words is None else {"vocabulary": words})
    write_state_dict(tmp_path / "t.safetensors", {"table": encoder.table}, about)
    check_refused(tmp_path / "t.safetensors", "" if "|" in told else told)


def test_tables(tmp_path, encoder):
    about = {"vocabulary": json.dumps(WORDS), "caption_length": "8"}
    path = tmp_path / "t.safetensors"
    broken = encoder.table.clone()
    broken[2, 1] = float("nan")
    for table, told in (
        (broken, "NaN"),
        (encoder.table.long(), "int64"),
        (encoder.table[:, 0].contiguous(), "shape (11,)"),
        (encoder.table[:, :0].contiguous(), "shape"),
    ):
        write_state_dict(path, {"table": table}, about, force=True)
        check_refused(path, told)


def test_six_thousand_words_that_fit(tmp_path):
    words = [f"word{i}" for i in range(6000)]
    about = {"vocabulary": json.dumps(words), "caption_length": "8"}
    table = torch.ones(6002, 4)
    write_state_dict(tmp_path / "t.safetensors", {"table": table}, about)
    assert load_text_encoder(tmp_path / "t.safetensors").channels == 8


def test_saved_and_read(tmp_path, encoder):
    save_text_encoder(encoder, tmp_path / "t.safetensors")
    found = load_text_encoder(tmp_path / "t.safetensors")
    assert found.vocabulary == WORDS and found.caption_length == 8
    assert torch.equal(found.table, encoder.table.half().float())
    assert encoder.table.is_contiguous()  # hosts write buffers as they lie in memory
