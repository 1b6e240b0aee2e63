"""Gemma through transformers, where it is installed: the window, the mask and the features."""

import pytest
import torch
from jodi_pack.cli.gemma import GemmaReader
from jodi_pack.jodi_core.text import INSTRUCTION_PREFIX
from jodi_pack.kit.errors import JodiError


def test_a_missing_library_is_one_sentence():
    try:
        import transformers  # noqa: F401
    except ImportError:
        with pytest.raises(JodiError, match=r"pip install jodi\[train\]"):
            GemmaReader("anything")
    else:
        with pytest.raises(JodiError, match="cannot load"):
            GemmaReader("/no/such/folder")


@pytest.fixture
def folder(tmp_path):
    """A random Gemma 2 of two layers, and a tokenizer of single letters."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<pad>": 0, "<bos>": 1, "<unk>": 2}
    words |= {chr(c): len(words) + i for i, c in enumerate([10, *range(32, 127)])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(""), "isolated")
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    config = transformers.Gemma2Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_prompt_is_read_behind_the_instruction(folder):
    transformers = pytest.importorskip("transformers")
    reader = GemmaReader(str(folder))
    assert reader.channels == 16
    features = reader(["a cat", ""])
    assert features.caption.shape == (2, 1, 300, 16)
    # letters of the prompt, the last one of the instruction, and the begin token
    assert features.mask.sum(1).tolist() == [2 + len("a cat"), 300]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.Gemma2Model.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(INSTRUCTION_PREFIX + "a cat")])
        states = model(input_ids=ids).last_hidden_state[0]
    wanted = torch.cat([states[:1], states[-1 - len("a cat") :]])
    torch.testing.assert_close(features.caption[0, 0, :7], wanted, rtol=1e-4, atol=1e-5)
