"""What a file says of its model is read and checked once; every door says the same of a lie."""

import json

import pytest
import torch
from jodi_pack.cli.info import describe
from jodi_pack.cli.main import main
from jodi_pack.cli.model import load_pipeline
from jodi_pack.cli.options import UsageError
from jodi_pack.jodi_core.domains import DOMAIN_NAMES
from jodi_pack.jodi_core.model.checkpoint import TRANSFORMER
from jodi_pack.jodi_core.model.config import JODI_1600M
from jodi_pack.jodi_core.model.facts import (
    VAEFacts,
    check_vae,
    read_embedded_config,
    read_facts,
    write_facts,
)
from jodi_pack.jodi_core.pipeline import JodiPipeline
from jodi_pack.kit.autoencoder.checkpoint import AUTOENCODER
from jodi_pack.kit.errors import CheckpointError, JodiError, ShapeError
from jodi_pack.kit.weights.convert import convert
from jodi_pack.kit.weights.read import pack_metadata, read_state_dict
from jodi_pack.kit.weights.write import write_state_dict
from jodi_pack.tests.helpers import (
    TINY,
    TINY_AE,
    random_picture,
    tiny_autoencoder,
    tiny_pipeline,
    tiny_transformer,
)

DEEP = "[" * 100_000 + "]" * 100_000
SWAPPED = ["image", "edge", "lineart", *DOMAIN_NAMES[3:]]

LIES = [
    ("native_size", "0"),
    ("native_size", "-64"),
    ("native_size", "x"),
    ("native_size", ""),
    ("native_size", "64.0"),
    ("native_size", "1_024"),
    ("native_size", "nan"),
    ("native_size", "1000000"),
    ("native_size", "9" * 5000),
    ("domains", "5"),
    ("domains", "{}"),
    ("domains", "null"),
    ("domains", "[1, 2, 3, 4, 5, 6, 7, 8]"),
    ("domains", "eight"),
    ("domains", DEEP),
    ("domains", json.dumps(SWAPPED)),
    ("domains", json.dumps(DOMAIN_NAMES[::-1])),
    ("domains", json.dumps(DOMAIN_NAMES[:7])),
    ("domains", json.dumps([*DOMAIN_NAMES[:7], "depth"])),
    ("domains", json.dumps([*DOMAIN_NAMES[:7], "Depth "])),
    ("domains", json.dumps([*DOMAIN_NAMES[:7], ""])),
    ("domains", json.dumps([*DOMAIN_NAMES[:7], "a\nb"])),
    ("domains", json.dumps([*DOMAIN_NAMES[:7], "x" * 10_000])),
    ("domains", json.dumps(["thermal", *DOMAIN_NAMES[1:]])),
    ("guidance", "nan"),
    ("guidance", "inf"),
    ("guidance", "-1"),
    ("guidance", "strong"),
    ("guidance", "1e9"),
    ("guidance", "4_5"),
    ("guidance", "\uff14.5"),
    ("guidance", " 4.5"),
    ("latent_scale", "nan"),
    ("latent_scale", "-inf"),
    ("latent_scale", "0"),
    ("latent_scale", "-0.4"),
    ("latent_scale", "[1]"),
    ("vae_factor", "0"),
    ("vae_factor", "12"),
    ("vae_factor", "8.0"),
    ("vae_factor", "99999999"),
    ("trained_roles", "all"),
    ("trained_roles", ""),
    ("perception_steps", "0"),
    ("perception_steps", "-3"),
    ("perception_steps", "2.5"),
    ("perception_steps", "100000"),
]


def names(value):
    return value if len(value) < 40 else f"{value[:36]}..."


@pytest.mark.parametrize(("key", "value"), LIES, ids=names)
def test_each_lie_has_its_sentence(key, value):
    with pytest.raises(CheckpointError) as caught:
        read_facts(TINY, {key: value}, "m.safetensors")
    text = str(caught.value)
    assert text.startswith(f"m.safetensors: its metadata says that {key} is '{value[:20]}"[:60])
    assert "; expected " in text and "convert it again" in text
    assert len(text) < 700 and "\n" not in text


def test_the_native_size_is_whole_tokens():
    assert read_facts(TINY, {"native_size": "20", "vae_factor": "4"}, "x").native_size == (20, 20)
    for about, vae in (({"vae_factor": "8"}, None), ({}, VAEFacts(5, 8, 1.0))):
        with pytest.raises(CheckpointError, match="a multiple of 8"):
            read_facts(TINY, {"native_size": "20", **about}, "x", vae)


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "value"),
    [("native_size", "-64"), ("domains", json.dumps(SWAPPED)), ("guidance", "nan")],
)
def test_every_door_says_the_same(tmp_path, key, value):
    path = tmp_path / "m.safetensors"
    about = {"config": TINY.to_json(), key: value}
    write_state_dict(path, tiny_transformer(TINY).state_dict(), about)
    doors = (
        lambda: list(describe(path)),
        lambda: convert(path, tmp_path / "n.safetensors", (TRANSFORMER, AUTOENCODER)),
        lambda: JodiPipeline.from_files(path),
    )
    said = set()
    for door in doors:
        with pytest.raises(CheckpointError) as caught:
            door()
        said.add(str(caught.value))
    assert len(said) == 1
    assert not (tmp_path / "n.safetensors").exists()


def test_a_silent_file_is_the_released_model():
    facts = read_facts(JODI_1600M, {}, "some/Jodi.pth")
    assert (facts.title, facts.names, facts.native_size) == ("Jodi", DOMAIN_NAMES, (1024, 1024))
    assert (facts.guidance, facts.perception_steps, facts.trained_roles) == (4.5, 10, "published")
    assert facts.vae == VAEFacts(32, 32, 0.41407)
    # Whatever VAE is at hand: the released model works on the released one's latents.
    assert read_facts(JODI_1600M, {}, "x", VAEFacts(32, 8, 1.0)).vae == facts.vae
    assert read_facts(TINY, {}, "x").vae_factor == read_embedded_config().factor


def test_what_is_said_is_taken():
    about = {
        "title": "mine",
        "domains": json.dumps(["image", "normal", "thermal", "depth", "a", "b", "c", "d"]),
        "native_size": "48",
        "guidance": "0",
        "trained_roles": "any",
        "latent_scale": "0.5",
        "vae_factor": "16",
        "perception_steps": "4",
    }
    facts = read_facts(TINY, about, "x")
    assert (facts.title, facts.names[2], facts.native_size) == ("mine", "thermal", (48, 48))
    assert (facts.guidance, facts.trained_roles, facts.perception_steps) == (0, "any", 4)
    assert (facts.vae_factor, facts.factor, facts.latent_scale) == (16, 16, 0.5)
    assert read_facts(TINY, write_facts(TINY, facts), "x") == facts


def test_a_vae_of_other_latents_is_refused_with_both_named():
    model = read_facts(JODI_1600M, {}, "jodi")
    check_vae(model, VAEFacts(32, 32, 0.41407))
    check_vae(model, VAEFacts(32, 32, 0.414071))  # stored rounded
    for other in (VAEFacts(32, 8, 0.41407), VAEFacts(32, 32, 10.0), VAEFacts(16, 32, 0.41407)):
        with pytest.raises(ShapeError) as caught:
            check_vae(model, other)
        assert str(model.vae) in str(caught.value) and str(other) in str(caught.value)
        assert "dc-ae-f32c32-sana-1.0" in str(caught.value)


def test_the_pipeline_honours_scale_and_factor():
    tiny_pipeline(metadata={"latent_scale": "0.41407", "vae_factor": "4"})
    for key, value in (("latent_scale", "10"), ("vae_factor", "8")):
        with pytest.raises(ShapeError, match="this VAE makes latents of"):
            tiny_pipeline(metadata={key: value})


def test_the_pipeline_uses_the_models_own_steps():
    pipeline = tiny_pipeline(metadata={"perception_steps": "2"})
    assert pipeline.perceive(random_picture(), ["depth"]).settings["steps"] == 2


@pytest.mark.parametrize("named", [True, False])
def test_a_ninth_domain_runs(named):
    own = [*DOMAIN_NAMES, "thermal"]
    metadata = {"domains": json.dumps(own)} if named else {}
    pipeline = tiny_pipeline(num_labels=8, metadata=metadata)
    last = "thermal" if named else "domain 9"
    assert pipeline.names[8] == last
    picture = random_picture()
    made = pipeline.perceive(picture, [last, "depth"], steps=1)
    assert made.pictures[last].shape == (1, 3, 16, 16)
    given = pipeline.control({last: picture}, steps=1)
    assert torch.equal(given.pictures[last], picture)


def test_metadata_in_a_tensor_is_read_as_the_files_own(tmp_path):
    facts = read_facts(TINY, {"guidance": "3.5", "native_size": "48"}, "mine")
    about = write_facts(TINY, facts)
    state = {f"model.diffusion_model.{k}": v for k, v in tiny_transformer().state_dict().items()}
    packed = {f"model.diffusion_model.{k}": v for k, v in pack_metadata(about).items()}
    write_state_dict(tmp_path / "m.safetensors", {**state, **packed}, {"format": "pt"})
    content = read_state_dict(tmp_path / "m.safetensors")
    assert content.metadata == {**about, "format": "pt"}
    assert set(content.tensors) == set(tiny_transformer().state_dict())
    for damage in (torch.zeros(4), torch.full((9,), 65, dtype=torch.uint8)):
        name = "model.diffusion_model.jodi_metadata"
        write_state_dict(tmp_path / "d.safetensors", {**state, name: damage}, {}, force=True)
        with pytest.raises(CheckpointError, match="describes itself, cannot be read"):
            read_state_dict(tmp_path / "d.safetensors")


class Args:
    """What the command line makes of no options."""

    model = vae = text_encoder = dtype = None
    device = "cpu"
    approximate_fp8 = compile = False


@pytest.mark.parametrize("option", ["model", "vae", "text_encoder"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_option_is_a_usage_error(option, value):
    args = Args()
    setattr(args, option, value)
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is empty"):
        load_pipeline(args)


def test_the_command_line_says_where_a_file_belongs(tmp_path):
    model, vae = tmp_path / "m.safetensors", tmp_path / "v.safetensors"
    write_state_dict(model, tiny_transformer().state_dict(), {"config": TINY.to_json()})
    write_state_dict(vae, tiny_autoencoder().state_dict(), {"config": TINY_AE.to_json()})
    args = Args()
    args.model, args.vae = str(vae), str(model)
    with pytest.raises(CheckpointError, match=r"is a DC-AE .* It belongs to --vae\."):
        load_pipeline(args)
    with pytest.raises(JodiError) as caught:  # the core alone names no option
        JodiPipeline.from_files(vae)
    assert "--" not in str(caught.value)


def test_what_files_say_gives_a_terminal_no_commands(tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    odd = {"title": "a\x1b[31m\nb\u202e", "source": "c\x1b[2J", "source_sha256": "d\a"}
    about = {"config": TINY.to_json(), **odd}
    write_state_dict(path, tiny_transformer().state_dict(), about)
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\a\u202e") and "a [31m b" in shown and "c [2J" in shown
