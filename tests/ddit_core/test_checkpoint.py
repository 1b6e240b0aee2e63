"""Weight files: sizes from shapes, strict names, and wrong files named for what they are."""

import dataclasses
import json
import os

import pytest
import torch
from jodi_pack.cli.info import describe
from jodi_pack.ddit_core.model.checkpoint import TRANSFORMER, load_transformer
from jodi_pack.ddit_core.model.config import DDIT_SD3
from jodi_pack.ddit_core.model.transformer import DDiTTransformer
from jodi_pack.ddit_core.text.mask_vector import embed_masked, load_mask_vector
from jodi_pack.jodi_core.model.checkpoint import TRANSFORMER as JODI
from jodi_pack.kit.errors import CheckpointError
from jodi_pack.kit.weights.convert import convert
from jodi_pack.kit.weights.loading import check, load_state
from jodi_pack.kit.weights.read import StateFile
from jodi_pack.tests.ddit_core.small import PATCH_1, SMALL, small_model
from jodi_pack.tests.helpers import tiny_transformer
from safetensors.torch import save_file


def saved(path, config=SMALL, edit=None, metadata=True):
    state = dict(small_model(config).state_dict())
    if edit is not None:
        edit(state)
    save_file(state, path, {"config": config.to_json()} if metadata else None)
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ddit.safetensors"


class TestSizes:
    @pytest.mark.parametrize("config", [SMALL, PATCH_1])
    def test_come_from_shapes_and_the_number_of_heads_from_metadata(self, file, config):
        model, _ = load_transformer(saved(file, config))
        assert model.config == config and not model.training
        want = small_model(config).state_dict()
        assert all(torch.equal(want[name], part) for name, part in model.state_dict().items())

    def test_without_metadata_a_head_has_64_channels(self, file):
        wide = dataclasses.replace(SMALL, hidden_size=128, num_heads=2, depth=1)
        assert load_transformer(saved(file, wide, metadata=False))[0].config == wide

    def test_without_metadata_an_unusual_width_needs_a_config(self, file):
        saved(file, metadata=False)
        with pytest.raises(CheckpointError, match=r"number of heads: the width of 36"):
            load_transformer(file)
        assert load_transformer(file, config=SMALL)[0].config == SMALL

    @pytest.mark.reference
    def test_the_stored_vectors_names(self, reference_dir):
        config = load_transformer(reference_dir / "ddit" / "transformer.safetensors")[0].config
        assert (config.hidden_size, config.depth, config.num_heads) == (128, 3, 2)
        assert (config.position_size, config.vocab_size, config.context_channels) == (24, 60, 48)

    def test_the_released_size_on_the_meta_device(self):
        state = DDiTTransformer(DDIT_SD3, device="meta").state_dict()
        checked = check(StateFile(dict(state), {}), TRANSFORMER)
        assert checked.config == DDIT_SD3
        for name in [n for n in state if n.startswith("transformer_blocks.23.")]:
            del state[name]
        with pytest.raises(CheckpointError, match=r"Blocks 23 \(of 0-23\) are missing entirely"):
            check(StateFile(dict(state), {}), TRANSFORMER)

    def test_metadata_of_another_model(self, file):
        state = small_model().state_dict()
        other = dataclasses.replace(SMALL, vocab_size=99)
        save_file(state, file, {"config": other.to_json()})
        with pytest.raises(
            CheckpointError, match="vocab_size is 41 by the tensors, 99 by its meta"
        ):
            load_transformer(file)

    @pytest.mark.parametrize("layers", [10**9, "many", 2.5])
    def test_metadata_that_makes_no_model(self, file, layers):
        values = {**json.loads(SMALL.to_json()), "num_layers": layers}
        save_file(small_model().state_dict(), file, {"config": json.dumps(values)})
        with pytest.raises(CheckpointError):
            load_transformer(file)


def test_info_and_convert_take_it_too(file, tmp_path):
    saved(file)
    lines = dict(describe(file))
    assert lines["what"].endswith("D-DiT (Dual Diffusion), whole") and "width" in lines["sizes"]
    made = convert(file, tmp_path / "n.safetensors", (JODI, TRANSFORMER))
    assert (made.kind, made.config) == ("ddit", SMALL)
    assert load_transformer(tmp_path / "n.safetensors")[0].config == SMALL


def rows_lost(state):
    state["pos_embed.pos_embed"] = state["pos_embed.pos_embed"][:, :80].clone()


def short_last_block(state):
    """What is left of the last block where a file was made for Stable Diffusion 3."""
    last = "transformer_blocks.2."
    for name in [n for n in state if n.startswith((f"{last}ff_context", f"{last}attn.to_add_out"))]:
        del state[name]
    for part in ("weight", "bias"):
        name = f"{last}norm1_context.linear.{part}"
        state[name] = state[name][: 2 * SMALL.hidden_size].clone()


class TestWrongFiles:
    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (rows_lost, "80 positions, which is no square"),
            (lambda s: s.pop("pos_embed.pos_embed"), "table of positions.*is missing"),
            (short_last_block, "in D-DiT every block is complete"),
            (lambda s: s.pop("text_proj_out.weight"), "head for words is missing"),
            (lambda s: s.pop("context_embedder.bias"), "missing 1 of .*context_embedder.bias"),
            (
                lambda s: s.update({"transformer_blocks.0.attn.norm_q.weight": torch.ones(12)}),
                "Stable Diffusion 3.5",
            ),
            (lambda s: s.update(extra=torch.ones(1)), "holds more than this model"),
            (lambda s: s["null_image_embd"].fill_(torch.nan), "not finite"),
        ],
    )
    def test_tensors_that_do_not_fit(self, file, edit, words):
        with pytest.raises(CheckpointError, match=words):
            load_transformer(saved(file, edit=edit))

    def test_a_jodi_file(self, file):
        save_file(tiny_transformer().state_dict(), file)
        with pytest.raises(CheckpointError, match=r"expected the transformer of D-DiT.*a Jodi"):
            load_transformer(file)

    @pytest.mark.parametrize(
        ("key", "title"),
        [
            ("joint_blocks.0.context_block.attn.qkv.weight", "Stable Diffusion 3"),
            ("transformer_blocks.0.attn.add_q_proj.weight", "Stable Diffusion 3"),
            ("encoder.block.0.layer.0.SelfAttention.q.weight", "T5"),
            ("decoder.mid.block_1.conv1.weight", "VAE"),
        ],
    )
    def test_files_of_other_models(self, file, key, title):
        save_file({key: torch.ones(2, 2)}, file)
        with pytest.raises(CheckpointError, match=f"expected the transformer of D-DiT.*{title}"):
            load_transformer(file)

    def test_d_dit_is_no_jodi(self):
        from jodi_pack.jodi_core.model.checkpoint import TRANSFORMER as JODI

        with pytest.raises(CheckpointError, match=r"expected a Jodi transformer.*D-DiT"):
            load_state(small_model().state_dict(), JODI)


class TestMaskVector:
    def test_a_bare_tensor_and_a_single_one(self, tmp_path):
        vector = torch.linspace(1, 2, 6, dtype=torch.float16)
        torch.save(vector, tmp_path / "mask.pth")
        save_file({"any name": vector[None].clone()}, tmp_path / "mask.safetensors")
        for name in ("mask.pth", "mask.safetensors"):
            loaded = load_mask_vector(tmp_path / name, channels=6)
            assert loaded.dtype == torch.float32 and torch.equal(loaded, vector.float())

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (torch.ones(5), r"\(5,\), expected the mask vector \(6,\)"),
            (torch.ones(2, 3), "expected the mask vector"),
            (torch.zeros(6), "zeros"),
            (torch.full((6,), torch.inf), "not finite"),
            ({"a": torch.ones(6), "b": torch.ones(6)}, "2 tensors"),
            ({"a": 3}, "without named tensors"),
        ],
    )
    def test_what_is_no_mask_vector(self, tmp_path, content, words):
        torch.save(content, tmp_path / "mask.pth")
        with pytest.raises(CheckpointError, match=words):
            load_mask_vector(tmp_path / "mask.pth", channels=6)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (torch.ones(6, dtype=torch.int64), "int64"),
            (torch.ones(6, dtype=torch.complex64), "complex64"),
            (torch.ones(6).to_sparse(), "sparse"),
            (torch.ones(6, device="meta"), "meta"),
            (torch.zeros(1).expand(1 << 33), "many times over"),
        ],
    )
    def test_what_are_no_plain_numbers(self, tmp_path, content, words):
        torch.save(content, tmp_path / "mask.pth")
        with pytest.raises(CheckpointError, match=words):
            load_mask_vector(tmp_path / "mask.pth", channels=6)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes among files here")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "mask.pth")
        with pytest.raises(CheckpointError, match="is a pipe"):
            load_mask_vector(tmp_path / "mask.pth")

    def test_no_file_and_an_unsafe_one(self, tmp_path):
        with pytest.raises(CheckpointError, match="no file"):
            load_mask_vector(tmp_path / "mask.pth")
        (tmp_path / "mask.pth").write_bytes(b"\x80\x02cos\nsystem\nq\x00.")
        with pytest.raises(CheckpointError):
            load_mask_vector(tmp_path / "mask.pth")

    def test_only_masked_places_are_replaced(self):
        table, vector = torch.arange(8.0).reshape(4, 2), torch.tensor([-1.0, -2.0])
        ids = torch.tensor([[0, 3, 1]])
        before = table[ids]
        out = embed_masked(before, ids, vector, mask=3)
        assert out.tolist() == [[[0, 1], [-1, -2], [2, 3]]] and out is not before
        assert torch.equal(before, table[ids])
