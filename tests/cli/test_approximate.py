"""The approximate options: recorded where they act, refused where they cannot."""

import json

import pytest
from PIL import Image


def settings_of(path):
    with Image.open(path) as image:
        return json.loads(image.text["jodi"])


def test_a_saved_picture_says_that_it_is_approximate(jodi, tiny, picture, tmp_path):
    path = picture("view.png", 16, 16)
    options = ("--labels", "depth", "--steps", 4, *tiny.options)
    status, _, err = jodi(
        "perceive", path, *options, "--approximate-step-cache", "1e9", "--out", "near"
    )
    assert status == 0, err
    assert jodi("perceive", path, *options, "--out", "exact")[0] == 0
    near, exact = (
        settings_of(tmp_path / "work" / out / "view_depth.png") for out in ("near", "exact")
    )
    assert near["approximate"] == {"step_cache": {"threshold": 1e9, "saved": 0.5}}
    assert "approximate" not in exact


@pytest.mark.parametrize("value", ["-0.1", "nan", "much"])
def test_thresholds_that_are_none_are_refused(jodi, tiny, picture, value):
    path = picture("view.png", 16, 16)
    status, _, err = jodi("perceive", path, *tiny.options, f"--approximate-step-cache={value}")
    assert status == 2 and "--approximate-step-cache" in str(err)


def test_fp8_is_refused_without_a_card_for_it(jodi, tiny, picture):
    path = picture("view.png", 16, 16)
    status, _, err = jodi("perceive", path, *tiny.options, "--device", "cpu", "--approximate-fp8")
    assert status == 1 and "needs a CUDA card of compute capability 8.9" in str(err)
