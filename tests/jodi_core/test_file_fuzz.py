"""Seeded mutations of whole weight files: each is refused in a sentence, or is still whole.

Whole means: the same tensors by name and shape, finite floats, and facts within their bounds.
"""

import dataclasses
import json
import math
import random

import pytest
import torch
from jodi_pack.cli.info import describe
from jodi_pack.ddit_core.model.checkpoint import TRANSFORMER as DDIT
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.embedded import read_text_encoder, save_text_encoder
from jodi_pack.jodi_core.model.checkpoint import TRANSFORMER
from jodi_pack.jodi_core.model.config import TransformerConfig
from jodi_pack.jodi_core.model.facts import read_facts, write_facts
from jodi_pack.jodi_core.model.transformer import JodiTransformer
from jodi_pack.jodi_core.text import ClosedVocabularyEncoder
from jodi_pack.kit.autoencoder.checkpoint import AUTOENCODER
from jodi_pack.kit.autoencoder.config import AutoencoderConfig
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.autoencoder.keys import to_diffusers
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.weights.kinds import WORDS as TEXT
from jodi_pack.kit.weights.kinds import identify
from jodi_pack.kit.weights.loading import FLOATS, load
from jodi_pack.kit.weights.read import read_state_dict
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.tests.ddit_core.small import SMALL as SMALL_DDIT
from jodi_pack.tests.ddit_core.small import small_model
from jodi_pack.tests.helpers import WORDS, randomize
from jodi_pack.tests.mutations import mutate

# As small as they go: a mutation should cost little.
SMALL = TransformerConfig(
    hidden_size=8,
    depth=1,
    cross_attention_heads=1,
    linear_head_dim=4,
    caption_channels=4,
    caption_length=3,
    latent_channels=2,
    pe_base_size=2,
    frequency_size=4,
    num_labels=7,
)
SMALL_AE = AutoencoderConfig(
    widths=(4, 8),
    encoder_depths=(1, 1),
    decoder_depths=(1, 1),
    block_types=("ResBlock", "EViTS5_GLU"),
    latent_channels=2,
    scaling_factor=0.5,
    attention_head_dim=4,
)
QUICK, LONG = 100, 3000


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """Every form in which our files come: name -> bytes."""
    folder = tmp_path_factory.mktemp("whole")
    model = randomize(JodiTransformer(SMALL)).state_dict()
    vae = randomize(DCAE(SMALL_AE)).state_dict()
    facts = write_facts(SMALL, read_facts(SMALL, {"domains": json.dumps(DOMAIN_NAMES)}, "small"))
    sizes = {"config": SMALL_AE.to_json(), "kind": "dcae"}
    write_state_dict(folder / "model.safetensors", model, facts)
    write_state_dict(folder / "vae.safetensors", vae, sizes)
    write_state_dict(folder / "diffusers.safetensors", to_diffusers(vae), sizes)
    save_text_encoder(ClosedVocabularyEncoder(WORDS, 8), folder / "text.safetensors")
    ddit = small_model().state_dict()
    write_state_dict(folder / "ddit.safetensors", ddit, {"config": SMALL_DDIT.to_json()})
    torch.save({"state_dict": model}, folder / "model.pth")
    torch.save(vae, folder / "old.pth", _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def check_still_whole(path):
    """What is accepted is a model, not damage that passes for one."""
    content = read_state_dict(path)
    kind = identify(content.tensors)
    if kind is TEXT:
        encoder = read_text_encoder(content, str(path))
        assert encoder.table.isfinite().all() and 2 <= encoder.caption_length <= 4096
        assert encoder(["a red house"]).caption.isfinite().all()
        return
    format = next(f for f in (TRANSFORMER, AUTOENCODER, DDIT) if kind in f.fits)
    loaded = load(path, format)
    state = loaded.model.state_dict()
    assert all(t.dtype in FLOATS and t.isfinite().all() for t in state.values())
    for field in dataclasses.fields(loaded.model.config):
        value = getattr(loaded.model.config, field.name)
        assert not isinstance(value, float) or math.isfinite(value)
    if format is TRANSFORMER:
        facts = loaded.facts
        assert len(set(facts.names)) == loaded.model.config.num_domains
        known = [name for name in facts.names if name in DOMAIN_NAMES]
        assert len(known) < 8 or facts.names[:8] == DOMAIN_NAMES
        assert facts.trained_roles in ("published", "any") and 0 <= facts.guidance <= 1000
        assert facts.native_size[0] % facts.factor == 0 and 0 < facts.native_size[0] <= 16384


def fuzz(wholes, folder, count: int, seed: int) -> int:
    """Try `count` mutations; the number of those that are still whole."""
    accepted = 0
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        name = draw.choice(list(wholes))
        data = mutate(wholes[name], draw)
        path = folder / f"fuzz.{name.rpartition('.')[2]}"
        path.write_bytes(data)
        try:
            lines = list(describe(path))
        except JodiError as error:
            text = str(error)
            assert str(path) in text and "\n" not in text and len(text) < 2000, (number, text)
            continue
        except BaseException as error:
            raise AssertionError(f"mutation {number} of {name}: {error!r}") from error
        if "whole" in str(lines[0]) or lines[0][1] == TEXT.title:
            if any(title == "use" for title, _ in lines):
                continue  # eight bits, told as such
            accepted += 1
            try:
                check_still_whole(path)
            except JodiError as error:
                raise AssertionError(f"mutation {number} of {name} passed: {error}") from error
    return accepted


@pytest.mark.slow
def test_a_hundred_mutations(wholes, tmp_path):
    assert fuzz(wholes, tmp_path, QUICK, 0) < QUICK


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_thousands_of_mutations(wholes, tmp_path, seed):
    """One process, with a bound on its memory, and one on the time of each file."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")

    def overdue(*_):
        raise TimeoutError("a file took more than ten seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    old = signal.signal(signal.SIGALRM, overdue)
    try:
        for part in range(LONG // 10):
            signal.alarm(100)
            fuzz(wholes, tmp_path, 10, seed * LONG + part)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 3 * max(map(len, wholes.values())) + (1 << 30)


@pytest.mark.long
def test_whole_files_are_whole(wholes, tmp_path):
    for name, data in wholes.items():
        (tmp_path / name).write_bytes(data)
    for name in (
        "model.safetensors",
        "vae.safetensors",
        "diffusers.safetensors",
        "text.safetensors",
        "ddit.safetensors",
    ):
        list(describe(tmp_path / name))
        check_still_whole(tmp_path / name)
