"""Labels and prompts read back from pictures, counted again pixel by pixel."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.evaluation.geneval import GenevalTally, count_right, read_wanted
from jodi_pack.jodi_core.evaluation.reextraction import (
    CellTally,
    ProgramTally,
    find_color_words,
    make_error_tally,
)
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.palettes import SEGMENTATION_CLASSES
from jodi_pack.kit.reader.claims import INDEX, Claims
from jodi_pack.kit.reader.network import COLORS
from jodi_pack.kit.reader.reader import Cells, load_reader
from jodi_pack.kit.scenes.captions import (
    COLOR_TOLERANCE,
    COLOR_WORDS,
    NOUNS,
    find_noun_class,
    read_things,
)
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, render_scenes


@pytest.fixture(scope="module")
def truth():
    return render_scenes(range(TRAIN_SEED_END + 1, TRAIN_SEED_END + 5), 64)


class KnownCells:
    """Says of any pictures what it was told to say."""

    def __init__(self, nouns, colors=None, claims=()):
        self.cells = Cells(nouns, nouns if colors is None else colors)
        self.claims = list(claims)

    def read_cells(self, pictures):
        return self.cells

    def read(self, pictures):
        return self.claims


def random_cells(count, most, side=32):
    return torch.from_numpy(np.random.default_rng(3).integers(0, most, (count, side, side)))


def test_wrong_classes_are_those_counted_pixel_by_pixel(truth):
    nouns = random_cells(4, len(NOUNS))
    tally = CellTally(KnownCells(nouns), "segmentation")
    tally.add(truth.pictures[:, 0], truth)
    wrong = known = 0
    for b in range(4):
        for y in range(64):
            for x in range(64):
                true = int(truth.classes[b, y, x])
                if SEGMENTATION_CLASSES[true] != "unlabeled":
                    known += 1
                    wrong += find_noun_class(NOUNS[int(nouns[b, y // 2, x // 2])]) != true
    assert tally.values()["error"] == pytest.approx(wrong / known, abs=1e-12)


@pytest.mark.long
def test_wrong_colours_are_those_counted_pixel_by_pixel(truth):
    colors = random_cells(4, len(COLORS) + 1)
    tally = CellTally(KnownCells(colors, colors), "albedo")
    tally.add(truth.pictures[:, 0], truth)
    wrong = known = 0
    for b in range(4):
        for y in range(64):
            for x in range(64):
                own = truth.albedo[b, :, y, x].tolist()
                away = {
                    word: max(abs(a - c) for a, c in zip(own, COLOR_WORDS[word], strict=True))
                    for word in COLORS
                }
                word = min(away, key=away.get)
                if away[word] <= COLOR_TOLERANCE:
                    known += 1
                    wrong += int(colors[b, y // 2, x // 2]) != COLORS.index(word)
    assert tally.values()["error"] == pytest.approx(wrong / known, abs=1e-12)


def test_no_colour_is_no_word():
    albedo = torch.tensor([0.5, 0.0, 1.0]).view(1, 3, 1, 1)
    assert int(find_color_words(albedo)) == len(COLORS)
    for index, word in enumerate(COLORS):
        exact = torch.tensor(COLOR_WORDS[word]).view(1, 3, 1, 1)
        assert int(find_color_words(exact)) == index


def test_joints_are_found_within_one_cell():
    nouns = torch.full((1, 32, 32), INDEX["grass"])
    nouns[0, 10, 10] = INDEX["person"]
    # Pixels of cell (10, 10): rows and columns 20 and 21. Near: cells 9 to 11, pixels 18 to 23.
    joints = [(20, 20, 1), (23, 18, 1), (24, 20, 1), (20, 17, 1), (0, 0, 0)]
    truth = SimpleNamespace(
        keypoints=torch.tensor(joints, dtype=torch.float32)[None, None],
        depth=torch.zeros(1, 64, 64),
    )
    tally = CellTally(KnownCells(nouns), "openpose")
    tally.add(torch.zeros(1, 3, 64, 64), truth)
    assert tally.values()["error"] == 2 / 4


def test_a_program_reads_labels_back(truth):
    """An exact program has no error; known distortions have the error of their definition."""
    exact = {name: i for i, name in enumerate(("image", "lineart", "edge", "depth", "normal",
                                               "albedo", "segmentation", "openpose"))}  # fmt: skip
    calls = []

    def infer(picture, labels):
        row = next(i for i in range(4) if torch.equal(truth.pictures[i, 0], picture[0]))
        calls.append(labels)
        return {name: truth.pictures[row, exact[name]] for name in labels}

    for name in ("depth", "normal", "edge", "lineart", "segmentation"):
        tally = make_error_tally(name, load_reader(), infer)
        tally.add(truth.pictures[:, 0], truth)
        assert tally.values()["error"] == pytest.approx(0, abs=5e-3), name
    assert calls[0] == ("depth",)
    off = ProgramTally(lambda p, labels: {"albedo": infer(p, labels)["albedo"] * 0.5}, "albedo")
    off.add(truth.pictures[:, 0], truth)
    levels = [
        20 * math.log10(1 / math.sqrt(float((a * 0.5).double().square().mean())))
        for a in truth.pictures[:, 5]
    ]
    assert off.values()["error"] == pytest.approx(10 ** (-sum(levels) / 4 / 20), rel=1e-6)


def test_only_what_can_be_read_back_is():
    assert make_error_tally("depth", load_reader()) is None
    assert make_error_tally("segmentation", load_reader()) is not None


def test_the_reader_is_far_better_on_true_pictures_than_on_others(truth):
    for name in ("segmentation", "albedo", "openpose"):
        floor, chance = (make_error_tally(name, load_reader()) for _ in range(2))
        floor.add(truth.pictures[:, 0], truth)
        chance.add(truth.pictures[:, 0].roll(1, 0), truth)
        assert floor.values()["error"] < 0.6 * chance.values()["error"], name


def test_cells_and_claims_refuse_the_same_pictures():
    with pytest.raises(JodiError, match="finite pictures"):
        load_reader().read_cells(torch.zeros(3, 64, 64))


PROMPT = "a person in red and two brown dogs and a blue car on grass beside a lake under a blue sky"


def test_a_prompt_is_taken_apart():
    wanted = read_wanted(PROMPT)
    assert wanted.objects == {"person", "dog", "car", "grass", "lake", "sky"}
    assert wanted.counts == {"dog": 2}
    assert wanted.colors == {("person", "red"), ("dog", "brown"), ("car", "blue"), ("sky", "blue")}
    assert wanted.places == {
        *((noun, "grass") for noun in ("person", "dog", "car")),
        *(("sky", noun) for noun in ("person", "dog", "car")),
    }
    assert read_wanted("two red cars and three blue cars").counts == {"car": 4}  # four or more
    room = read_wanted("a white table in a room with grey walls and a red floor")
    assert room.objects == {"table", "room", "walls", "floor"} and not room.places
    assert read_wanted("nonsense").objects == frozenset()


def test_phrases_come_with_their_places():
    phrases = [(t.noun, t.color, t.number, t.place) for t in read_things(PROMPT)]
    assert phrases == [
        ("person", "red", 1, None),
        ("dog", "brown", 2, None),
        ("car", "blue", 1, None),
        ("grass", None, 1, "on"),
        ("lake", None, 1, "beside"),
        ("sky", "blue", 1, "under"),
    ]


def test_what_is_right_is_counted_by_hand():
    nouns = torch.full((8, 8), INDEX["sky"])
    nouns[4:] = INDEX["grass"]
    nouns[3:5, 2] = INDEX["dog"]  # middle row 3.5: below the sky's 1.5, above the grass's 5.5
    nouns[7, 7] = INDEX["car"]  # below the grass's middle
    claims = Claims(
        {"dog": 2, "car": 1, "grass": 1, "sky": 1}, {("dog", "brown"), ("car", "red")}, set()
    )
    # Things: 4 of 6. Numbers: the two dogs. Colours: 1 of 4. Places: dog on grass, sky above dog
    # and car; car on grass is not, and no person is seen.
    assert count_right(read_wanted(PROMPT), claims, nouns) == [4, 6, 1, 1, 1, 4, 3, 6, 0, 1]
    small = read_wanted("two dogs on grass under a sky")
    assert count_right(small, claims, nouns) == [3, 3, 1, 1, 0, 0, 2, 2, 1, 1]
    tally = GenevalTally(KnownCells(torch.stack([nouns, nouns]), claims=[claims, claims]))
    tally.add_pictures(torch.zeros(2, 3, 8, 8), [PROMPT, "two dogs on grass under a sky"])
    values = tally.values()
    assert values["object"] == 7 / 9 and values["count"] == 1 and values["color"] == 1 / 4
    assert values["position"] == 5 / 8 and values["prompt"] == 1 / 2
    assert values["overall"] == pytest.approx((7 / 9 + 1 + 1 / 4 + 5 / 8) / 4)


def test_true_pictures_show_their_captions(truth):
    own, other = GenevalTally(load_reader()), GenevalTally(load_reader())
    own.add_pictures(truth.pictures[:, 0], truth.captions)
    other.add_pictures(truth.pictures[:, 0].roll(1, 0), truth.captions)
    for kind in ("object", "color", "position"):
        assert own.values()[kind] > other.values()[kind]
