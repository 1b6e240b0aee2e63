"""Questions about scenes: what is asked, what is left out, and that answers are balanced."""

from collections import Counter

import pytest
from jodi_pack.kit.scenes.captions import COLOR_WORDS
from jodi_pack.kit.scenes.questions import (
    APART,
    ASKED_SHARE,
    KINDS,
    TRACE,
    WORDS,
    ask_about,
    draw_questions,
)
from jodi_pack.kit.scenes.render import list_scene_things
from jodi_pack.kit.scenes.things import Thing, mirror_things


def thing(noun, color=None, share=0.05, x=0.5, y=0.5, role="object"):
    return Thing(noun, color, role, share, x, y, 0)


def asked(*things) -> dict[str, str]:
    """Every question and its answer; no question has two."""
    pairs = [(q.text, q.answer) for q in ask_about(things)]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


GRASS = thing("grass", share=0.5, role="ground")


def test_colors_of_things_that_their_noun_names():
    found = asked(GRASS, thing("dog", "black"), thing("sky", "blue", 0.2, role="sky"))
    assert found["what color is the dog"] == "black"
    assert found["what color is the sky"] == "blue"
    assert not any("grass" in text for text in found)
    indoors = asked(thing("walls", "green", 0.4, role="walls"))
    assert indoors["what color are the walls"] == "green"


def test_what_is_small_or_not_the_only_one_is_not_named():
    two = asked(GRASS, thing("dog", "black", x=0.2), thing("dog", "white", x=0.8))
    assert not any(text.startswith("what color is the dog") for text in two)
    assert two["how many dogs are there"] == "two"
    small = asked(GRASS, thing("dog", "black", ASKED_SHARE / 2), thing("person", "red"))
    assert not any("dog" in text and "how many" not in text for text in small)
    # A trace of one makes its absence uncertain as well.
    hidden = asked(GRASS, thing("dog", "black", TRACE / 2), thing("person", "red"))
    assert not any("dog" in text for text in hidden)


def test_counts_need_things_that_are_apart():
    far = [thing("tree", "green", x=x) for x in (0.1, 0.4, 0.8)]
    assert asked(GRASS, *far)["how many trees are there"] == "three"
    near = [thing("tree", "green", x=x) for x in (0.1, 0.1 + APART / 2)]
    assert "how many trees are there" not in asked(GRASS, *near)
    assert asked(GRASS)["how many trees are there"] == "zero"
    assert "how many trees are there" not in asked(thing("floor", "red", role="floor"))


def test_sides_and_their_mirror_image():
    scene = [GRASS, thing("dog", x=0.2), thing("person", x=0.7)]
    assert asked(*scene)["is the dog left of the person"] == "yes"
    assert asked(*scene)["is the person left of the dog"] == "no"
    assert asked(*mirror_things(scene))["is the dog left of the person"] == "no"
    level = asked(GRASS, thing("dog", x=0.5), thing("person", x=0.5 + APART / 2))
    assert not any("left of" in text for text in level)


def test_neighbours_are_clearly_the_nearest():
    scene = [GRASS, thing("dog", x=0.2), thing("person", x=0.4), thing("tree", x=0.9)]
    found = asked(*scene)
    assert found["what is beside the dog"] == "person"
    assert found["what is beside the tree"] == "person"
    assert asked(GRASS, thing("dog"), thing("tree", x=0.9))["what is beside the dog"] == "tree"
    doubtful = asked(GRASS, thing("dog"), thing("tree", x=0.8), thing("person", x=0.2))
    assert "what is beside the dog" not in doubtful
    wall = thing("walls", "white", 0.5, role="walls")
    assert asked(wall, thing("window"))["what is on the wall"] == "window"
    assert "what is on the wall" not in asked(wall, thing("window"), thing("picture", "red"))


@pytest.mark.slow
def test_answers_of_real_scenes_are_what_their_pixels_say():
    """Counted again from the map of things, pixel by pixel."""
    checked = Counter()
    for seed in range(12):
        group, things = list_scene_things(seed)
        share = {t.group: (group == t.group).double().mean().item() for t in things}
        nouns = Counter(t.noun for t in things if share[t.group] >= TRACE and t.role != "hidden")
        for q in ask_about(things):
            words = q.text.split()
            assert set(words) | {q.answer} <= set(WORDS)
            checked[q.kind] += 1
            if q.kind == "exist":
                assert (nouns[words[-1]] > 0) == (q.answer == "yes")
            elif q.kind == "color":
                assert nouns[words[-1]] == 1 and q.answer in COLOR_WORDS
            elif q.kind == "left":
                places = [
                    next((group == t.group).nonzero()[:, 1].double().mean() for t in things
                         if t.noun == noun) for noun in (words[2], words[-1])
                ]  # fmt: skip
                assert (places[0] < places[1]) == (q.answer == "yes")
    assert min(checked[kind] for kind in ("color", "count", "exist", "left")) > 5


@pytest.mark.slow
def test_draws_are_balanced_and_stop_when_full():
    """Dogs left and right of people, far more often left."""

    def scene(n):
        return [GRASS, thing("dog", "black", x=0.2 if n % 5 else 0.9), thing("person", "red")]

    taken = []

    def scenes():
        for n in range(10_000):
            taken.append(n)
            yield scene(n)

    drawn = draw_questions(scenes(), 20)
    kinds = Counter(q.kind for _, q in drawn)
    assert kinds["left"] == kinds["exist"] == 20 and set(kinds) <= set(KINDS)
    answers = Counter(q.answer for _, q in drawn if q.kind == "left")
    assert answers == {"yes": 10, "no": 10}
    assert max(Counter((i, q.kind) for i, q in drawn).values()) == 1
    assert drawn == draw_questions((scene(n) for n in range(10_000)), 20)
