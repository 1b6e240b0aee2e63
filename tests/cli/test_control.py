"""`jodi control` and `jodi generate`: pairing, prompts, seeds, stored text features."""

import json

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.embedded import load_text_encoder
from jodi_pack.kit.pictures.files import load_image, save_png
from jodi_pack.kit.pictures.palettes import SEGMENTATION_PALETTE
from PIL import Image
from safetensors.torch import save_file


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.int64)


def settings_of(path) -> dict:
    with Image.open(path) as image:
        return json.loads(image.text["jodi"])


def test_labels_and_a_prompt_to_a_picture(jodi, tiny, picture, tmp_path):
    depth, normal = picture("d.png", 40, 56), picture("n.png", 80, 112, seed=1)
    maps = ("--depth", depth, "--normal", normal, *tiny.options, "--steps", 2)
    status, out, err = jodi("control", *maps, "--prompt", "a red car", "--out", "red")
    assert (status, out) == (0, ["red/d_image.png"]), err
    assert jodi("control", *maps, "--prompt", "a blue tree", "--out", "blue")[0] == 0
    work = tmp_path / "work"
    red, blue = pixels(work / "red/d_image.png"), pixels(work / "blue/d_image.png")
    assert red.shape == (40, 56, 3), "over the first given map"
    assert (red != blue).any(), "the prompt has an effect"
    settings = settings_of(work / "red/d_image.png")
    assert settings["prompt"] == "a red car" and settings["given"]["normal"] == "n.png"
    assert settings["roles"] == "image=generate, depth=condition, normal=condition"


def test_any_to_any(jodi, tiny, picture, tmp_path):
    options = (*tiny.options, "--steps", 1, "--out", "made", "--generate", "image,segmentation")
    status, out, err = jodi("control", "--depth", picture("d.png"), *options)
    assert status == 0
    assert out == ["made/d_image.png", "made/d_segmentation.png", "made/d_segmentation_index.png"]
    assert err[0].startswith("any to any: generates image, segmentation from depth")


def test_results_of_perceive_come_back_in_as_pairs(jodi, tiny, picture):
    paths = [picture(f"{name}.png", seed=i) for i, name in enumerate(("street", "lake"))]
    few = (*tiny.options, "--steps", 1)
    assert jodi("perceive", *paths, *few, "--labels", "depth,normal", "--out", "maps")[0] == 0
    one = ("--albedo", picture("any.png", seed=9))
    status, out, err = jodi(
        "control", "--depth", "maps", "--normal", "maps", *one, *few, "--out", "made"
    )
    assert status == 0, err
    assert sorted(out) == ["made/lake_image.png", "made/street_image.png"]


def test_a_map_without_its_partner_is_named_and_stops_nothing(jodi, tiny, picture, tmp_path):
    for name in ("depths/a.png", "depths/b.png", "normals/a.png"):
        picture(name)
    folders = ("--depth", tmp_path / "depths", "--normal", tmp_path / "normals")
    status, out, err = jodi("control", *folders, *tiny.options, "--steps", 1, "--out", "made")
    assert (status, out) == (1, ["made/a_image.png"])
    assert err[-1] == "  b: no normal map of this name was given"


def test_maps_of_other_proportions_are_pointed_out(jodi, tiny, picture):
    maps = ("--depth", picture("d.png", 40, 56), "--normal", picture("n.png", 40, 40))
    status, out, err = jodi("control", *maps, *tiny.options, "--steps", 1, "--count", 2)
    assert status == 0 and len(out) == 2
    assert sum("normal of 40 x 40 is cropped; it may not lie over depth" in e for e in err) == 1


def test_class_numbers_and_colours_are_the_same_map(jodi, tiny, tmp_path):
    index = torch.randint(0, 12, (5, 7)).repeat_interleave(8, 0).repeat_interleave(8, 1)
    colors = torch.tensor(SEGMENTATION_PALETTE, dtype=torch.float32)[index] / 255
    save_png(tmp_path / "numbers.png", index.to(torch.uint8))
    save_png(tmp_path / "colors.png", colors.permute(2, 0, 1))
    Image.fromarray(index.numpy().astype(np.uint16)).save(tmp_path / "wide.png")
    for name in ("numbers", "wide", "colors"):
        options = (*tiny.options, "--steps", 1, "--out", "made")
        assert jodi("control", "--segmentation", tmp_path / f"{name}.png", *options)[0] == 0
    made = tmp_path / "work" / "made"
    for name in ("wide", "colors"):
        assert np.array_equal(
            pixels(made / "numbers_image.png"), pixels(made / f"{name}_image.png")
        )


def test_foreign_class_colours_are_pointed_out(jodi, tiny, picture):
    path = picture("foreign.png")
    _, _, err = jodi("control", "--segmentation", path, *tiny.options, "--steps", 1)
    assert any("none of the model's 12 classes" in line for line in err)


@pytest.mark.long
def test_opengl_normals_are_turned_around(jodi, tiny, picture, tmp_path):
    ours, _ = load_image(picture("ours.png"))
    save_png(tmp_path / "gl.png", torch.cat([1 - ours[:, :1], ours[:, 1:]], dim=1)[0])
    unit = ours * 2 - 1
    save_png(tmp_path / "unit.png", ((unit / unit.norm(dim=1, keepdim=True) + 1) / 2)[0])
    few = (*tiny.options, "--steps", 1, "--out", "made")
    assert jodi("control", "--normal", tmp_path / "unit.png", *few)[0] == 0
    assert jodi("control", "--normal", tmp_path / "gl.png", *few, "--normals", "opengl")[0] == 0
    assert jodi("control", "--normal", tmp_path / "gl.png", *few[:-1], "raw")[0] == 0
    made = tmp_path / "work" / "made"
    right, turned = pixels(made / "unit_image.png"), pixels(made / "gl_image.png")
    wrong = pixels(tmp_path / "work" / "raw" / "gl_image.png")
    assert np.abs(right - turned).mean() < 0.2 * np.abs(right - wrong).mean()


def test_variants_have_their_own_seeds(jodi, tiny, tmp_path):
    few = (*tiny.options, "--steps", 2)
    status, out, _ = jodi(
        "generate", "--prompt", "a red car", *few, "--count", 2, "--seed", 3, "--out", "two"
    )
    assert (status, out) == (0, ["two/a_red_car_seed3_image.png", "two/a_red_car_seed4_image.png"])
    assert jodi("generate", "--prompt", "a red car", *few, "--seed", 4, "--out", "one")[0] == 0
    work = tmp_path / "work"
    three, four = (pixels(work / "two" / f"a_red_car_seed{s}_image.png") for s in (3, 4))
    assert (three != four).any()
    assert np.abs(pixels(work / "one/a_red_car_seed4_image.png") - four).max() <= 1


def test_picture_and_all_labels_together(jodi, tiny, tmp_path):
    options = (*tiny.options, "--steps", 1, "--labels", "all", "--size", "48x32", "--out", "made")
    status, out, _ = jodi("generate", "--prompt", "a tree", "--prompt", "a car", *options)
    assert status == 0 and len(out) == 2 * 9
    with Image.open(tmp_path / "work/made/a_tree_seed0_normal.png") as image:
        assert image.size == (48, 32)


def test_stored_features_do_what_the_prompt_does(jodi, tiny, tmp_path):
    features = load_text_encoder(tiny.text)(["a red car", "a blue tree"])
    stored = tmp_path / "prompts.safetensors"
    save_file({"caption": features.caption, "mask": features.mask.bool()}, stored)
    few = ("--steps", 2, "--guidance", 2)
    bare = [*tiny.options[:4], "--device", "cpu"]
    prompts = ("--prompt", "a red car", "--prompt", "a blue tree")
    assert jodi("generate", *prompts, *tiny.options, *few, "--out", "words")[0] == 0
    status, _, err = jodi("generate", "--text-features", stored, *bare, *few, "--out", "stored")
    assert status == 0, err
    work = tmp_path / "work"
    for words, row in (("a_red_car", ""), ("a_blue_tree", "-2")):
        made = pixels(work / "stored" / f"prompts_seed0{row}_image.png")
        assert np.array_equal(made, pixels(work / "words" / f"{words}_seed0_image.png"))
    assert settings_of(work / "stored/prompts_seed0_image.png")["text_features"] == stored.name


def test_wrong_features_are_named(jodi, tiny, tmp_path):
    stored = tmp_path / "wrong.safetensors"
    save_file({"caption": torch.zeros(1, 1, 4, 7), "mask": torch.ones(1, 4)}, stored)
    status, _, err = jodi("generate", "--text-features", stored, *tiny.options)
    assert status == 1 and "wrong.safetensors" in err[-1] and "(1, 1, 4, 7)" in err[-1]
    save_file({"text": torch.zeros(1)}, stored)
    status, _, err = jodi("generate", "--text-features", stored, *tiny.options)
    assert status == 1 and "no caption and no mask" in err[-1]


def test_unknown_words_are_named_once(jodi, tiny):
    words = ("--prompt", "a glittering car", "--count", 3)
    _, _, err = jodi("generate", *words, *tiny.options, "--steps", 1)
    assert sum("glittering" in line and line.startswith("warning") for line in err) == 1


def test_a_very_long_prompt_is_a_prompt(jodi, tiny):
    words = ("--prompt", "a red car " * 10_000)
    status, out, err = jodi("generate", *words, *tiny.options, "--steps", 1, "--out", "made")
    assert status == 0 and len(out) == 1, err
