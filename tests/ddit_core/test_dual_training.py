"""Dual training: what is masked, what is read from folders, and that both losses fall."""

import json
import math

import numpy as np
import pytest
import torch
from jodi_pack.ddit_core.embedded import load_nano_pipeline
from jodi_pack.ddit_core.model.facts import DDiTFacts, read_facts
from jodi_pack.ddit_core.text.words import WordEncoder
from jodi_pack.ddit_core.training.examples import (
    join_examples,
    make_folder_examples,
    make_scene_examples,
    read_folder,
)
from jodi_pack.ddit_core.training.masking import END_WEIGHT, mask_text
from jodi_pack.ddit_core.training.run import export_ddit
from jodi_pack.ddit_core.training.task import (
    NANO_LENGTH,
    DualSettings,
    DualTask,
    make_fresh_model,
    train_ddit,
)
from jodi_pack.jodi_core.embedded import AUTOENCODER
from jodi_pack.kit.autoencoder.checkpoint import load_autoencoder
from jodi_pack.kit.errors import CheckpointError, JodiError
from jodi_pack.kit.pictures.files import save_png
from jodi_pack.kit.scenes.questions import WORDS
from jodi_pack.kit.scenes.things import Thing

END, MASK = 1, 99


def test_masks_spare_the_prompt_and_weigh_words_alike():
    counts = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        text = mask_text([50, 51], [10, 11, 12], 9, rng, end=END, mask=MASK)
        full = [50, 51, 10, 11, 12, END, END, END, END]
        assert text.ids[:2] == [50, 51] and len(text.ids) == 9
        for place, target in zip(text.places, text.targets, strict=True):
            assert text.ids[place] == MASK and full[place] == target
        untouched = set(range(9)) - set(text.places)
        assert all(text.ids[i] == full[i] for i in untouched)
        words = [w for p, w in zip(text.places, text.weights, strict=True) if p < 5]
        assert sum(words) == pytest.approx(1)
        assert all(w == END_WEIGHT for p, w in zip(text.places, text.weights, strict=True) if p > 4)
        counts.append(len(words))
    # ceil(3 sqrt(u)): one, two and three of three with chances 1/9, 3/9 and 5/9.
    shares = [counts.count(n) / len(counts) for n in (1, 2, 3)]
    for share, chance in zip(shares, (1 / 9, 3 / 9, 5 / 9), strict=True):
        assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / len(counts))


def two_scenes():
    """Latents that tell a red from a blue sofa, with captions and facts."""
    latents = torch.stack([torch.full((4, 4, 4), value) for value in (-1.0, 1.0)])
    things = [
        [Thing("floor", "grey", "floor", 0.5, 0.5, 0.8, 0),
         Thing("sofa", color, "object", 0.2, 0.5, 0.5, 1)] for color in ("red", "blue")
    ]  # fmt: skip
    captions = [f"a {color} sofa in a room with a grey floor" for color in ("red", "blue")]
    return make_scene_examples(latents, captions, things)


@pytest.mark.slow
def test_both_losses_fall_and_a_stopped_run_goes_on(tmp_path):
    text, examples = WordEncoder(WORDS, NANO_LENGTH), two_scenes()
    rows = {"pictures": 4, "captions": 4, "answers": 8, "log_every": 10, "save_every": 30}
    reports = []
    settings = DualSettings(steps=60, warmup=5, **rows)
    model = train_ddit(examples, text, tmp_path / "whole", settings, report=reports.append)
    first, last = reports[0], reports[-1]
    for name in ("image", "caption", "color"):
        assert last[name] < 0.7 * first[name], name
    # Stopped at a save and gone on from it: the same weights, to the bit.
    part = DualSettings(steps=30, warmup=5, **rows)
    # The rate follows the share of the run, so the first half is that of the whole run.
    task = DualTask(make_fresh_model(text, examples.latents, 0), examples, text, part, "cpu")
    assert len(task.optimizers) == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_question_of_a_picture_is_asked_in_its_own_form():
    text, examples = WordEncoder(WORDS, NANO_LENGTH), two_scenes()
    task = DualTask(
        make_fresh_model(text, examples.latents, 0), examples, text, DualSettings(steps=1), "cpu"
    )
    rows, texts, kinds = task._draw_texts(np.random.default_rng(0))
    assert len(rows) == len(texts) == len(kinds) == 28
    assert set(kinds) == {"caption", "color", "count", "exist"}
    for kind, one in zip(kinds, texts, strict=True):
        said = text.tokenizer.text([i for i in one.ids if i > 2])
        assert kind == "caption" or said.startswith("q: ")
    losses = task.losses(np.random.default_rng(0), 0.0)
    assert losses.mean.isfinite() and losses.rows == 32
    again = task.losses(np.random.default_rng(0), 0.0)
    assert torch.equal(losses.mean, again.mean)


def test_a_folder_is_read_with_its_texts(tmp_path):
    for name in ("dog", "cat", "bare"):
        save_png(tmp_path / f"{name}.png", torch.rand(3, 8, 8))
    (tmp_path / "dog.txt").write_text("a dog\n\na brown dog\n")
    (tmp_path / "cat.json").write_text(json.dumps([{"question": "is it", "answer": "yes"}]))
    found = read_folder(tmp_path)
    assert [p.path.name for p in found] == ["cat.png", "dog.png"]
    assert found[1].captions == ("a dog", "a brown dog")
    assert found[0].questions == (("is it", "yes"),)
    examples = make_folder_examples(found, torch.zeros(2, 4, 4, 4))
    assert examples.captioned.tolist() == [1]
    joined = join_examples([two_scenes(), examples])
    assert joined.pools["any"].draw(np.random.default_rng(0)) == (2, "is it", "yes")
    assert joined.captioned.tolist() == [0, 1, 3]


def test_folders_that_hold_nothing_say_what_to_do(tmp_path):
    with pytest.raises(JodiError, match="there is no folder"):
        read_folder(tmp_path / "none")
    save_png(tmp_path / "dog.png", torch.rand(3, 8, 8))
    with pytest.raises(JodiError, match=r"put `dog\.txt`"):
        read_folder(tmp_path)
    (tmp_path / "dog.json").write_text('{"question": "is it"}')
    with pytest.raises(JodiError, match="holds no questions"):
        read_folder(tmp_path)
    (tmp_path / "dog.json").write_text("[" * 100_000)
    with pytest.raises(JodiError, match="nested too deeply"):
        read_folder(tmp_path)
    (tmp_path / "dog.txt").write_bytes(b"a caf\xe9")
    with pytest.raises(JodiError, match=r"dog\.txt cannot be read as text .*save it as UTF-8"):
        read_folder(tmp_path)
    (tmp_path / "dog.txt").unlink()
    (tmp_path / "dog.json").write_text('[{"question": "is it", "answer": ""}]')
    with pytest.raises(JodiError, match="not empty"):
        read_folder(tmp_path)


@pytest.mark.slow
def test_exported_files_make_a_pipeline(tmp_path):
    vae, _ = load_autoencoder(AUTOENCODER, dtype=torch.float32)
    text = WordEncoder(WORDS, NANO_LENGTH)
    model = make_fresh_model(text, torch.zeros(1, 32, 8, 8), 0)
    paths = export_ddit(model, text, vae, tmp_path, native_size=64, record={"steps": 0})
    assert sum(path.stat().st_size for path in paths.values()) < 6e6
    pipeline = load_nano_pipeline(paths["transformer"], paths["text"], AUTOENCODER)
    assert pipeline.facts.latent_scale == vae.config.scaling_factor
    picture = torch.rand(1, 3, 64, 64)
    latents = pipeline.facts.scale_latents(pipeline.vae_encode(picture))
    torch.testing.assert_close(latents, vae.encode(picture * 2 - 1), rtol=1e-4, atol=1e-4)
    with pytest.raises(JodiError, match="files of one release"):
        other = WordEncoder(WORDS[:-1], NANO_LENGTH)
        export_ddit(model, other, vae, tmp_path, native_size=64, force=True)
        load_nano_pipeline(paths["transformer"], paths["text"], AUTOENCODER)


def test_facts_of_a_file_are_checked():
    facts = DDiTFacts(title="x", native_size=64, latent_shift=0.0)
    assert read_facts(None, facts.to_metadata(), "f") == facts
    assert read_facts(None, {}, "f") == DDiTFacts()
    for name, value in (("native_size", "many"), ("latent_scale", "0"), ("steps", "-1e9")):
        with pytest.raises(CheckpointError, match=name):
            read_facts(None, {name: value}, "f")
