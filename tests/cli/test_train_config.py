"""`jodi train --config` and `jodi extend`, from pictures to a model that other commands run."""

import json

import pytest
import torch
from jodi_pack.jodi_core.training.config import load_train_config
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.scenes.render import render_scenes
from jodi_pack.kit.weights.read import read_state_dict


@pytest.fixture
def pictures(jodi, tmp_path):
    """Six scenes of 32 px as files, with the seven labels and the shading."""
    command = ("train", "pictures", "--to", "data", "--count", 6, "--size", 32, "--extra")
    assert jodi(*command, "shading")[0] == 0
    return tmp_path / "work" / "data"


def write_config(path, tiny, **tables):
    config = {
        "folder": "runs/mine",
        "sources": [{"folder": "data"}],
        "data": {"side": 32},
        "model": {
            "start": str(tiny.transformer),
            "vae": str(tiny.autoencoder),
            "text": str(tiny.text),
        },
        "training": {"updates": 3, "rows": 2, "micro_batches": 1, "log_every": 1, "keep": 2},
        "samples": {"every": 2, "prompts": ["a tree"], "read": 1, "steps": 1},
    }
    for name, table in tables.items():
        config[name] = {**config.get(name, {}), **table}
    config["training"]["device"] = "cpu"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.slow
def test_from_pictures_to_a_model(jodi, pictures, picture, tiny, tmp_path):
    work = tmp_path / "work"
    (pictures / "00000003.png").write_bytes(b"torn")
    (pictures / "shading").rename(work / "shading")  # a folder that this model does not know
    config = write_config(work / "c.json", tiny, lora={"rank": 2})
    status, out, err = jodi("train", "--config", config, "--check")
    assert status == 0 and "parameters" in out[0], err
    assert any("00000003.png" in line for line in err)
    status, out, err = jodi("train", "--config", config)
    assert status == 0, err
    assert out == ["runs/mine/model.safetensors", "runs/mine/lora.safetensors"]
    run = work / "runs" / "mine"
    faults = [json.loads(line) for line in (run / "faults.jsonl").read_text().splitlines()]
    assert len(faults) == 1 and "00000003.png" in faults[0]["place"]
    assert (run / "samples" / "step-00000002.png").exists() and (run / "curves.png").exists()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3] and "loss" in log[0]
    metadata = read_state_dict(run / "model.safetensors").metadata
    assert metadata["native_size"] == "32" and json.loads(metadata["training"])["updates"] == 3

    parts = ("--model", run / "model.safetensors", "--vae", tiny.autoencoder, "--device", "cpu")
    status, out, err = jodi("perceive", picture("a.png"), *parts, "--steps", 1, "--labels", "depth")
    assert status == 0 and out[0].endswith("a_depth.png"), err

    status, _, err = jodi("train", "--config", write_config(config, tiny, lora={"rank": 3}))
    assert status == 1 and "begun with another lora.rank" in err[-1]
    longer = write_config(config, tiny, lora={"rank": 2}, training={"updates": 4})
    status, _, err = jodi("train", "--config", longer)
    assert status == 0 and any("going on from update 3" in line for line in err), err
    refusing = write_config(config, tiny, data={"on_fault": "refuse"})
    refusing.write_text(refusing.read_text().replace("runs/mine", "runs/other"))
    status, _, err = jodi("train", "--config", refusing)
    assert status == 1 and "faults.jsonl" in err[-1]


@pytest.mark.long
def test_what_was_labelled_is_trained_on(jodi, picture, tiny, tmp_path):
    """Four pictures of two shapes get labels and captions; an update takes all eight domains."""
    work = tmp_path / "work"
    (tmp_path / "photos").mkdir()
    for i in range(4):
        picture(f"photos/p{i}.png", 40, 56 if i % 2 else 40, seed=i)
    (tmp_path / "photos" / "p1.png").with_suffix(".txt").write_text("a red ball")
    command = ("label", tmp_path / "photos", "--out", "data", "--steps", 1, "--captions")
    assert jodi(*command, *tiny.options)[0] == 0
    training = {"updates": 2, "roles": "any"}
    config = write_config(work / "c.json", tiny, training=training, samples={"every": 0})
    status, _, err = jodi("train", "--config", config)
    assert status == 0, err
    run = work / "runs" / "mine"
    assert (run / "faults.jsonl").read_text() == ""
    stored = [read_state_dict(path) for path in (run / "features").rglob("*.safetensors")]
    kept = [set(one.tensors) for one in stored]
    labels = {"lineart", "edge", "depth", "normal", "albedo", "segmentation", "openpose"}
    latents = [{name.rpartition(".")[2] for name in names} for names in kept]
    assert sum({"image", *labels} <= names for names in latents) == 4, kept
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]

    for path in (tmp_path / "photos").glob("*.txt"):
        path.unlink()
    assert jodi("label", tmp_path / "photos", "--out", "bare", "--steps", 1, *tiny.options)[0] == 0
    bare = json.loads(config.read_text()) | {"sources": [{"folder": "bare"}], "folder": "runs/bare"}
    config.write_text(json.dumps(bare))
    status, _, err = jodi("train", "--config", config, "--check")
    assert status == 1 and "the caption is empty" in "\n".join(err)
    bare["data"]["need_captions"] = False
    config.write_text(json.dumps(bare))
    assert jodi("train", "--config", config, "--check")[0] == 0


@pytest.mark.slow
def test_a_domain_is_added_and_every_command_knows_it(jodi, pictures, tiny, tmp_path):
    few = ("--updates", 2, "--rows", 2, "--micro-batches", 1, "--side", 32, "--device", "cpu")
    model = ("--model", tiny.transformer, "--vae", tiny.autoencoder, "--text", tiny.text)
    command = ("extend", "--domain", "shading", "--data", pictures, "--to", "runs/shading")
    status, out, err = jodi(*command, *model, *few)
    assert status == 0, err
    names = ("model", "lora", "base")
    assert [line.split("/")[-1] for line in out] == [f"{name}.safetensors" for name in names]
    assert any("parameters were trained" in line for line in err)
    run = tmp_path / "work" / "runs" / "shading"
    extended = read_state_dict(run / "model.safetensors")
    assert json.loads(extended.metadata["domains"])[-1] == "shading"
    # without its adapters the old domains are as they were, bit for bit
    old, base = read_state_dict(tiny.transformer).tensors, read_state_dict(run / "base.safetensors")
    for name, tensor in old.items():
        kept = base.tensors[name][:8] if name == "domain_embedding" else base.tensors[name]
        assert torch.equal(kept, tensor.float()), name

    use = ("--model", run / "model.safetensors", "--vae", tiny.autoencoder)
    use += ("--text-encoder", tiny.text, "--device", "cpu", "--steps", 1)
    scene = pictures / "00000001.png"
    status, out, err = jodi("perceive", scene, *use, "--labels", "shading,depth")
    assert status == 0 and [line.split("_")[-1] for line in out] == ["depth.png", "shading.png"]
    given = f"shading={pictures / 'shading' / '00000001.png'}"
    status, out, err = jodi("control", "--extra", given, *use, "--prompt", "a tree")
    assert status == 0, err
    status, _, err = jodi(*command, *model, *few, "--form", "head")
    assert status == 1 and "begun with another about.form" in err[-1]
    status, _, err = jodi("extend", "--domain", "depth", *command[3:], *model, *few)
    assert status == 1 and "depth already" in err[-1]
    status, _, err = jodi("extend", "--domain", "fog", *command[3:5], "--to", "x", *model, *few)
    assert status == 1 and "no picture has a map of fog" in err[-1]


@pytest.mark.slow
def test_rendered_files_are_the_scenes(jodi, pictures):
    batch = render_scenes([2], 32)
    assert (pictures / "00000002.txt").read_text().strip() == batch.captions[0]
    normal = load_image(pictures / "normal" / "00000002.png")[0][0]
    torch.testing.assert_close(normal, batch.pictures[0, 4], rtol=0, atol=0.5 / 255 + 1e-6)
    shading = load_image(pictures / "shading" / "00000002.png")[0][0]
    linear = torch.where(
        shading <= 0.04045, shading / 12.92, ((shading + 0.055) / 1.055) ** 2.4
    )  # the standard's own way back
    torch.testing.assert_close(linear * 1.3, batch.shading[0], rtol=0, atol=0.02)


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"folder": "x", "sources": [{"folder": "d"}], "trainning": {}}', "no trainning"),
        ('{"folder": "x", "sources": [{"folder": "d"}], "training": {"lr": "high"}}', "lr"),
        ('{"folder": "x", "sources": []}', "no `sources`"),
        ('{"folder": "x", "sources": [{"folder": "d", "captioners": {"a": -1}}]}', "captioners"),
        ('{"folder": "x", "sources": [{"folder": "d"}], "lora": {"rank": -1}}', "lora.rank"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_config_is_told(jodi, text, said, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(text)
    status, _, err = jodi("train", "--config", path)
    assert status == 1 and said in err[-1] and "c.json" in err[-1]


def test_toml_is_the_same_config(tmp_path):
    tomllib = pytest.importorskip("tomllib")
    text = """
    folder = "runs/mine"
    [[sources]]
    folder = "data"
    captioners = { "BLIP2" = 4, "Qwen2-VL" = 1 }
    [training]
    updates = 7
    [lora]
    rank = 4
    targets = ["attn.qkv"]
    """
    (tmp_path / "c.toml").write_text(text)
    (tmp_path / "c.json").write_text(json.dumps(tomllib.loads(text)))
    config = load_train_config(tmp_path / "c.toml")
    assert config == load_train_config(tmp_path / "c.json")
    assert config.training.updates == 7 and config.lora.targets == ("attn.qkv",)
    assert config.sources[0].captioners == {"BLIP2": 4, "Qwen2-VL": 1}
