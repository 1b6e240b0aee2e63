"""Small files: what is no file on a disk is refused at once."""

import os

import pytest
from jodi_pack.jodi_core.training.config import load_train_config
from jodi_pack.kit.errors import CheckpointError, JodiError
from jodi_pack.kit.files import read_json, read_text


def test_a_pipe_is_not_waited_for(tmp_path):
    pipe = tmp_path / "config.json"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no file on a disk"):
        read_text(pipe)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(pipe)
    with pytest.raises(JodiError, match=r"config\.json cannot be read"):
        load_train_config(pipe)


def test_text_is_read_as_it_is(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\n")
    assert read_text(file, "utf-8-sig") == "café\n"
