"""Claims of captions against the facts of scenes."""

import pytest
from jodi_pack.ddit_core.evaluation.claims import find_true_claims, read_claims, score_captions
from jodi_pack.kit.scenes.render import render_scenes
from jodi_pack.kit.scenes.things import Thing


def test_claims_of_a_caption():
    said = "a person in red and two brown horses on grass beside a lake under a blue sky"
    assert read_claims(said) == {
        ("object", "person"),
        ("color", "person", "red"),
        ("object", "horse"),
        ("color", "horse", "brown"),
        ("count", "horse", "brown", 2),
        ("object", "grass"),
        ("place", "on", "grass"),
        ("object", "lake"),
        ("place", "beside", "lake"),
        ("object", "sky"),
        ("color", "sky", "blue"),
        ("place", "under", "sky"),
    }
    indoors = read_claims("a person in a room with green walls and a grey floor")
    assert ("place", "in", "room") in indoors and ("color", "floor", "grey") in indoors
    assert not any(claim[:2] == ("color", "person") for claim in indoors)
    assert read_claims("hello there") == set()


@pytest.mark.slow
def test_true_captions_are_right_and_complete():
    """The captions that scenes come with claim nothing that is not so."""
    scenes = render_scenes(range(24), 64)
    for caption, things in zip(scenes.captions, scenes.things, strict=True):
        assert read_claims(caption) <= find_true_claims(things), caption
    assert score_captions(scenes.captions, scenes.captions, scenes.things) == (1.0, 1.0)


def test_scores_count_claims():
    dog = [Thing("dog", "black", "object", 0.1, 0.5, 0.5, 0)]
    # Right: a dog. Wrong: white. Found of "a black dog": the dog.
    assert score_captions(["a white dog"], ["a black dog"], [dog]) == (0.5, 0.5)
    small = [Thing("dog", "black", "object", 0.005, 0.5, 0.5, 0)]
    assert score_captions(["a dog"], ["a tree"], [small]) == (1.0, 0.0)
