"""`jodi train` from scenes to an exported model, in a few steps of the real sizes."""

import json

import pytest
import torch
from jodi_pack.jodi_core.training.run import TrainingRun
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.training.state import RunFolder
from jodi_pack.kit.weights.read import read_state_dict


@pytest.mark.slow
def test_every_stage_leads_to_the_next(jodi, picture, tmp_path):
    run = ("--run", "runs/mini")
    made = TrainingRun(tmp_path / "work" / "runs" / "mini")

    status, _, err = jodi("train", "transformer", *run, "--steps", 2)
    assert status == 1 and "jodi train scenes" in err[-1], "the missing stage is named"
    assert jodi("train", "scenes", *run, "--count", 6, "--size", 16, "--workers", 1)[0] == 0
    status, _, err = jodi("train", "latents", *run)
    assert status == 1 and "jodi train autoencoder" in err[-1]

    few = ("--batch", 2, "--save-every", 2)
    status, out, err = jodi("train", "autoencoder", *run, *few, "--steps", 2)
    assert status == 0, err
    assert made.vae.exists() and RunFolder(made.autoencoder).load()["step"] == 2
    assert jodi("train", "latents", *run)[0] == 0

    few = ("--tokens", 32, "--micro-batches", 1, "--save-every", 1, "--device", "cpu")
    assert jodi("train", "transformer", *run, *few, "--steps", 2)[0] == 0
    status, _, err = jodi("train", "transformer", *run, *few, "--steps", 3)
    assert status == 0 and any("going on from step 2" in line for line in err)
    status, _, err = jodi("train", "transformer", *run, *few, "--steps", 3, "--seed", 1)
    assert status == 1 and "begun with another seed" in err[-1]

    status, out, err = jodi("train", "export", *run, "--to", "mine")
    assert status == 0 and len(out) == 3, err
    status, _, err = jodi("train", "export", *run, "--to", "mine")
    assert status == 1 and "exists" in err[-1]
    metadata = read_state_dict("mine/jodi-nano.safetensors").metadata
    assert (metadata["native_size"], metadata["trained_roles"]) == ("16", "any")
    training = json.loads(metadata["training"])
    assert training["transformer"]["steps"] == 3
    assert training["autoencoder"]["steps"] == 2
    assert training["scenes"] == {"count": 6, "size": 16, "first_seed": 0}

    parts = ("--model", "mine/jodi-nano.safetensors", "--vae", "mine/jodi-nano-vae.safetensors")
    few = ("--steps", 1, "--labels", "depth", "--device", "cpu", "--out", "made")
    status, out, err = jodi("perceive", picture("a.png"), *parts, *few)
    assert (status, out) == (0, ["made/a_depth.png"]), err
    text = ("--text-encoder", "mine/jodi-nano-text.safetensors", "--device", "cpu")
    assert jodi("generate", "--prompt", "a tree", *parts, *text, "--steps", 1)[0] == 0

    again = ("--batch", 2, "--save-every", 2, "--steps", 3)
    assert jodi("train", "autoencoder", *run, *again)[0] == 0
    status, _, err = jodi("train", "transformer", *run, "--steps", 4)
    assert status == 1 and "made by another autoencoder" in err[-1]


def test_curves_are_drawn_from_a_log(jodi, tmp_path):
    run = TrainingRun(tmp_path / "run")
    status, _, err = jodi("train", "curves", "--run", run.root)
    assert status == 1 and "no logs" in err[-1]
    folder = RunFolder(run.transformer)
    for step in (50, 100, 150):
        folder.log(step=step, depth=1 / step, image=2 / step)
    status, out, _ = jodi("train", "curves", "--run", run.root)
    assert status == 0 and out == [str(run.root / "curves_transformer.png")]
    assert load_image(out[0])[0].std() > 0.05


def test_a_run_keeps_its_words(tmp_path):
    run = TrainingRun(tmp_path)
    first = run.text_encoder()
    assert torch.equal(first.table, run.text_encoder().table)
    assert first.vocabulary == TrainingRun(tmp_path).text_encoder().vocabulary
    with pytest.raises(JodiError, match="train first"):
        run.averaged_transformer()


@pytest.mark.slow
def test_nano_within_a_budget_leaves_files_and_a_report_card(jodi, tmp_path):
    """A budget of seconds: every stage does its least, and the same command has nothing to do."""
    run = ("--run", "runs/nano", "--minutes", 0.05, "--force", "--processes", 1, "--device", "cpu")
    status, _, err = jodi("train", "nano", *run, "--to", "mine")
    assert status == 0, err
    folder = tmp_path / "work" / "mine"
    values = json.loads((folder / "report_card.json").read_text())
    assert values["scenes"] == 2 and values["control.steps"] == 4
    assert values["training.flops"] > 0
    metadata = read_state_dict(folder / "jodi-nano.safetensors").metadata
    assert json.loads(metadata["training"])["transformer"]["steps"] > 0
    made = TrainingRun(tmp_path / "work" / "runs" / "nano")
    steps = [RunFolder(stage).load()["step"] for stage in (made.autoencoder, made.transformer)]

    status, again, err = jodi("train", "nano", *run, "--to", "mine")
    assert status == 0, err
    assert [RunFolder(s).load()["step"] for s in (made.autoencoder, made.transformer)] == steps
    assert sum("missed" in line or "reached" in line for line in again) >= 10
