"""Seeded mutations of whole weight files: each is refused in a sentence, or is still whole.

Whole means: the same tensors by name and shape, finite floats, and facts within their bounds.
"""

import dataclasses
import json
import math
import random
import struct

import pytest
import torch
from jodi_pack.cli.info import describe
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
from jodi_pack.tests.helpers import WORDS, randomize

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
VALUES = (
    *(0, -1, 1, 3, 10**9, 2**63, 10**30, 1e308, -1e-320, float("nan"), float("inf"), True, None),
    *("", "x", "0", "-64", "nan", "１２", "any", "published", "[1, 2]", "a" * 10_000, "\0", "é"),
    *([], [1], [[]], {}, {"a": 1}, ["image"], list(DOMAIN_NAMES[::-1]), [None] * 8),
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
    torch.save({"state_dict": model}, folder / "model.pth")
    torch.save(vae, folder / "old.pth", _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 20))):
        at = draw.randrange(min(len(data), draw.choice((16, 400, len(data)))))
        changed[at] = draw.randrange(256)
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    at, length = draw.randrange(len(data)), draw.randrange(1, 200)
    return draw.choice((data[:at], data[:at] + data[at + length :], data + data[at : at + length]))


def repeat(data: bytes, draw: random.Random) -> bytes:
    at, to, length = draw.randrange(len(data)), draw.randrange(len(data)), draw.randrange(1, 100)
    return data[:to] + data[at : at + length] + data[to:]


def change_header(data: bytes, draw: random.Random) -> bytes:
    """Another value, name or entry in a safetensors header; other files lose a byte."""
    if data[8:9] != b"{":
        return flip_bytes(data, draw)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about, names = header["__metadata__"], [n for n in header if n != "__metadata__"]
    name = draw.choice(names)
    entry = header[name]
    sort = draw.randrange(9)
    if sort == 0:
        about[draw.choice(list(about))] = str(draw.choice(VALUES))
    elif sort == 1:
        about[draw.choice(list(about))] = json.dumps(draw.choice(VALUES))
    elif sort == 2:
        config = json.loads(about.get("config", "{}"))
        config[draw.choice([*config, "more"])] = draw.choice(VALUES)
        about["config"] = json.dumps(config)
    elif sort == 3:
        about.pop(draw.choice(list(about)))
    elif sort == 4:
        entry["dtype"] = draw.choice(("F16", "BF16", "I32", "I16", "U8", "BOOL", "F8_E4M3", "F64"))
    elif sort == 5:
        entry["shape"] = draw.choice((entry["shape"][::-1], [], [0], [-1], [2**40], "x", None))
    elif sort == 6:
        changed = draw.choice((name + "x", name[1:], "module." + name, "blocks.99999.x", ""))
        header[changed] = header.pop(name)
    elif sort == 7:
        other = draw.choice(names)
        header[name], header[other] = header[other], header[name]
    else:
        header.pop(name)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


MUTATIONS = (flip_bytes, cut, repeat, change_header, change_header, change_header)


def check_still_whole(path):
    """What is accepted is a model, not damage that passes for one."""
    content = read_state_dict(path)
    kind = identify(content.tensors)
    if kind is TEXT:
        encoder = read_text_encoder(content, str(path))
        assert encoder.table.isfinite().all() and 2 <= encoder.caption_length <= 4096
        assert encoder(["a red house"]).caption.isfinite().all()
        return
    format = TRANSFORMER if kind in TRANSFORMER.fits else AUTOENCODER
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
        data = draw.choice(MUTATIONS)(wholes[name], draw)
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


def test_whole_files_are_whole(wholes, tmp_path):
    for name, data in wholes.items():
        (tmp_path / name).write_bytes(data)
    for name in (
        "model.safetensors",
        "vae.safetensors",
        "diffusers.safetensors",
        "text.safetensors",
    ):
        list(describe(tmp_path / name))
        check_still_whole(tmp_path / name)
