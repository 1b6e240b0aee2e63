"""The CLIP wires: the built-in encoder, and Gemma 2 against transformers.

No real Gemma is needed: a small random one under the real key names, and a tokenizer built here.
Run by test_nodes.py inside a ComfyUI.
"""

import io
from pathlib import Path

import comfy.sd
import sentencepiece
import torch
import transformers
from jodi_pack.jodi_core.embedded import TEXT_ENCODER, load_text_encoder
from jodi_pack.jodi_core.text import INSTRUCTION_PREFIX, take_negative_window, take_prompt_window
from jodi_pack.kit.errors import CheckpointError, JodiError
from jodi_pack.nodes.host import jodi_text as _host_text
from jodi_pack.nodes.jodi.text import JodiTextEncode
from jodi_pack.tests.nodes.parts import raises
from safetensors.torch import save_file

PROMPTS = (
    "a (red:1.3) fox, embedding:foo, under [old] trees",
    "  two cats and 12 birds ",
    "word " * 400,
    "",
)


def relative(ours, theirs) -> float:
    return ((ours - theirs).pow(2).mean() / theirs.pow(2).mean()).sqrt().item()


def encode(clip, text, instruction=True):
    ((features, extra),) = JodiTextEncode.execute(clip, text, instruction).args[0]
    return features, extra


@torch.inference_mode()
def check_the_built_in_encoder_equals_the_core():
    clip, encoder = _host_text.load_embedded_text(), load_text_encoder()
    assert isinstance(clip, comfy.sd.CLIP)
    for prompt in ("a red ball on grass", "Two dogs, beside a house!", ""):
        features, extra = encode(clip, prompt)
        expected = encoder([prompt])
        assert torch.equal(features, expected.caption[:, 0])
        assert torch.equal(extra["attention_mask"], expected.mask)
        assert extra["pooled_output"] is None
    # CLIP Text Encode works as well, and clones of the wire do.
    tokens = clip.clone().tokenize("a red ball on grass")
    ((features, _),) = clip.clone().encode_from_tokens_scheduled(tokens)
    assert torch.equal(features, encode(clip, "a red ball on grass")[0])


def tokenizer_model() -> bytes:
    """A SentencePiece model with Gemma's special ids: pad 0, end 1, begin 2, unknown 3."""
    lines = [INSTRUCTION_PREFIX.replace("\n", " "), "a red fox under old trees", "two cats birds"]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 4),
        model_writer=out,
        vocab_size=300,
        hard_vocab_limit=False,
        model_type="bpe",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return out.getvalue()


def random_gemma(vocabulary: int) -> transformers.Gemma2Model:
    """Two layers of Gemma 2. The released Jodi was trained on features without soft-capping."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        attn_logit_softcapping=None,
        attn_implementation="eager",
    )
    model = transformers.Gemma2Model(config).eval()
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.3 if "norm" in name else 0.08)
    return model


def gemma_file(folder: Path, name="gemma.safetensors", change=None):
    """The single file people have, the network in it, and its tokenizer."""
    proto = tokenizer_model()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=proto, add_bos=True)
    network = random_gemma(len(pieces))
    state = {f"model.{key}": tensor.clone() for key, tensor in network.state_dict().items()}
    state["spiece_model"] = torch.frombuffer(bytearray(proto), dtype=torch.uint8).clone()
    save_file((change or dict)(state), folder / name)
    return folder / name, network, pieces


@torch.inference_mode()
def check_gemma_equals_transformers(folder):
    path, network, pieces = gemma_file(folder)
    clip = _host_text.load_gemma(path)
    assert isinstance(clip, comfy.sd.CLIP)
    for instruction, make in ((True, take_prompt_window), (False, take_negative_window)):
        for prompt in PROMPTS:
            features, extra = encode(clip, prompt, instruction)
            window = make(prompt, pieces.encode, pad_id=0, length=300)
            ids, mask = torch.tensor([window.ids]), torch.tensor([window.mask])
            hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state
            expected = hidden[:, list(window.select)]
            keep = torch.tensor([window.mask[i] for i in window.select])
            assert features.shape == (1, 300, 64)
            assert torch.equal(extra["attention_mask"][0].long(), keep)
            # Pad rows count too: the released model reads the negative's through the prompt's mask.
            assert relative(features, expected) < 1e-4, (prompt, relative(features, expected))
    read = encode(clip, PROMPTS[0])[1]["attention_mask"].sum()
    assert read > encode(clip, "")[1]["attention_mask"].sum() >= 1


@torch.inference_mode()
def check_soft_capping_would_be_seen(folder):
    """The check above can tell: with Gemma's own soft-capping the features differ."""
    path, network, pieces = gemma_file(folder, "capped.safetensors")
    features, _ = encode(_host_text.load_gemma(path), PROMPTS[0])
    window = take_prompt_window(PROMPTS[0], pieces.encode, pad_id=0, length=300)
    for layer in network.layers:
        layer.self_attn.attn_logit_softcapping = 0.05
    hidden = network(
        input_ids=torch.tensor([window.ids]), attention_mask=torch.tensor([window.mask])
    ).last_hidden_state
    assert relative(features, hidden[:, list(window.select)]) > 1e-3


def check_names_of_other_files(folder):
    """Some files leave out the leading `model.`, and some keep the output layer."""

    def bare(state):
        renamed = {name.removeprefix("model."): t for name, t in state.items()}
        return {**renamed, "lm_head.weight": state["model.embed_tokens.weight"].clone()}

    path, _, _ = gemma_file(folder, "whole.safetensors")
    other, _, _ = gemma_file(folder, "bare.safetensors", bare)
    with torch.inference_mode():
        first, second = (encode(_host_text.load_gemma(p), "a red fox")[0] for p in (path, other))
    assert torch.equal(first, second)


def check_wrong_files_and_wires_say_what_to_do(folder):
    def without(key):
        return lambda state: {name: t for name, t in state.items() if key not in name}

    with raises(CheckpointError, "without its tokenizer", "gemma_2_2b_fp16"):
        _host_text.load_gemma(gemma_file(folder, "a.safetensors", without("spiece"))[0])
    with raises(CheckpointError, "missing", "layers.1"):
        _host_text.load_gemma(gemma_file(folder, "b.safetensors", without("layers.1.mlp.up"))[0])
    with raises(CheckpointError, "embed_tokens"):
        _host_text.load_gemma(gemma_file(folder, "c.safetensors", without("embed"))[0])
    with raises(CheckpointError, "expected a Gemma 2 text encoder", str(TEXT_ENCODER)):
        _host_text.load_gemma(TEXT_ENCODER)
    with raises(CheckpointError, "rows, expected multiples of 256"):
        short = {"model.layers.0.self_attn.k_proj.weight": torch.ones(255, 64)}
        _host_text.load_gemma(gemma_file(folder, "d.safetensors", lambda s: {**s, **short})[0])
    with raises(CheckpointError, "tokenizer inside", "cannot be read"):
        noise = {"spiece_model": torch.arange(99, dtype=torch.uint8)}
        _host_text.load_text(gemma_file(folder, "e.safetensors", lambda s: {**s, **noise})[0])
    with raises(CheckpointError, "stored as int64"):
        whole = {"model.norm.weight": torch.ones(64, dtype=torch.long)}
        _host_text.load_text(gemma_file(folder, "f.safetensors", lambda s: {**s, **whole})[0])
    with raises(JodiError, "Load Jodi Text Encoder"):
        JodiTextEncode.execute(object(), "a fox", True)


def check_the_plain_patcher_can_be_had(folder):
    path, _, _ = gemma_file(folder, "again.safetensors")
    make, arguments = _host_text.load_gemma(path).patcher.cached_patcher_init
    assert make(*arguments).model is not None
