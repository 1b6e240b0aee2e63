"""The reader: claims of known scenes, scores counted by hand, and its training."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jodi_pack.kit.autoencoder.dcae import DCAE
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.reader.claims import INDEX, Claims, find_true_claims, score_claims
from jodi_pack.kit.reader.network import COLORS, ReadingNetwork
from jodi_pack.kit.reader.reader import COUNTED, WEIGHTS, Reader, load_reader
from jodi_pack.kit.scenes.captions import read_caption
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, list_scene_things, render_scenes
from jodi_pack.kit.scenes.store import SceneStore
from jodi_pack.kit.scenes.things import Thing
from jodi_pack.kit.training.reader import (
    ReadingTask,
    _answers,
    _cell_loss,
    measure_reader,
    prepare_lessons,
    train_reader,
    write_reader,
)
from jodi_pack.tests.helpers import TINY_AE, randomize

SKY = Thing("sky", "blue", "sky", 0.4, 0.5, 0.2, 0)
CARS = [Thing("car", word, "object", 0.05, x, 0.7, i) for i, (word, x) in
        enumerate((("red", 0.2), (None, 0.3)), 1)]  # fmt: skip
TREE = Thing("tree", "green", "object", 0.1, 0.6, 0.5, 3)
SMALL_DOG = Thing("dog", "white", "object", 0.004, 0.9, 0.8, 4)


def test_claims_of_a_scene_are_counted_coloured_and_ordered():
    claims = find_true_claims([SKY, *CARS, TREE, SMALL_DOG])
    assert claims.classes == {"sky": 1, "car": 2, "tree": 1}
    assert claims.colors == {("sky", "blue"), ("car", "red"), ("tree", "green")}
    assert claims.left_of == {("car", "tree")}


def test_a_room_is_claimed_from_its_walls():
    walls = Thing("walls", "white", "walls", 0.6, 0.5, 0.4, 1)
    assert find_true_claims([walls]).classes == {"walls": 1, "room": 1}


def test_scores_are_those_counted_by_hand():
    things = [SKY, *CARS, TREE, SMALL_DOG]
    made = Claims(
        {"sky": 1, "car": 1, "dog": 1, "horse": 1},  # no tree; the small dog is no fault
        {("sky", "blue"), ("car", "red"), ("car", "black")},
        {("car", "tree"), ("tree", "car")},
    )
    scores = score_claims([made], [things])
    assert (scores["classes"].precision, scores["classes"].recall) == (3 / 4, 2 / 3)
    assert (scores["counts"].precision, scores["counts"].recall) == (2 / 4, 1 / 3)
    assert (scores["colors"].precision, scores["colors"].recall) == (2 / 3, 2 / 3)
    assert (scores["left_of"].precision, scores["left_of"].recall) == (1 / 2, 1)
    empty = score_claims([Claims({}, set(), set())], [things])["classes"]
    assert math.isnan(empty.precision) and empty.recall == 0


@pytest.mark.slow
def test_things_are_those_of_the_rendered_scene_and_captions_name_them():
    seeds = range(TRAIN_SEED_END, TRAIN_SEED_END + 4)
    batch = render_scenes(seeds, supersample=1)
    for i, seed in enumerate(seeds):
        group, things = list_scene_things(seed)
        assert torch.equal(group, batch.group[i]) and things == batch.things[i]
        assert abs(sum(thing.share for thing in things) - 1) < 1e-9
        for thing in things:
            rows, columns = (batch.group[i] == thing.group).nonzero().double().T
            assert abs(thing.x * 64 - 0.5 - float(columns.mean())) < 1e-6
            assert abs(thing.y * 64 - 0.5 - float(rows.mean())) < 1e-6
        claims = find_true_claims(things)
        for color, noun, _ in read_caption(batch.captions[i]):
            assert noun in claims.classes
            assert color is None or (noun, color) in claims.colors


def test_the_answers_to_learn_are_the_scene_s_claims():
    seed = TRAIN_SEED_END + 2
    nouns, colors, counts, worn = _answers(seed, 64)
    group, things = list_scene_things(seed)
    claims = find_true_claims(things)
    assert {n: int(counts[i]) for n, i in INDEX.items() if counts[i]} == claims.classes
    made = {(n, c) for n, i in INDEX.items() for k, c in enumerate(COLORS) if worn[i, k]}
    assert made == claims.colors
    for thing in things:
        own = (group == thing.group).numpy()
        assert (nouns[own] == INDEX[thing.noun]).all()
        expected = COLORS.index(thing.color) if thing.color else len(COLORS)
        assert (colors[own] == expected).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_cell_answers_for_the_four_pixels_it_covers(flip):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.standard_normal((2, 5, 3, 3)))
    labels = rng.integers(5, size=(2, 6, 6)).astype(np.uint8)
    expected = 0.0
    for b in range(2):
        for y in range(6):
            for x in range(6):
                column = logits[b, :, y // 2, x // 2]
                label = labels[b, y, 5 - x if flip else x]
                expected += float(column.logsumexp(0) - column[int(label)]) / 72
    assert abs(float(_cell_loss(logits, labels, flip)) - expected) < 1e-9


def test_pictures_that_cannot_be_read_are_refused():
    reader = Reader(ReadingNetwork())
    for wrong in (torch.zeros(3, 64, 64), torch.full((1, 3, 64, 64), float("nan"))):
        with pytest.raises(JodiError, match=r"finite pictures"):
            reader.read(wrong)


@pytest.mark.long
def test_claims_carry_the_probability_of_everything_that_could_be_claimed():
    reader = Reader(randomize(ReadingNetwork(), 3))
    small, large = torch.rand(2, 3, 64, 64), torch.rand(1, 3, 96, 128)
    claims = [*reader.read(small), *reader.read(large)]
    assert len(claims) == 3
    for claim in claims:
        assert {n for n, p in claim.class_probability.items() if p >= 0.5} == set(claim.classes)
        for noun in COUNTED:
            assert abs(sum(claim.count_probability[noun]) - 1) < 1e-5
        for noun, color in claim.colors:
            assert noun in claim.classes and claim.color_probability[noun, color] >= 0.5
        assert not {(b, a) for a, b in claim.left_of} & claim.left_of


@pytest.mark.slow
def test_training_lowers_every_loss_and_its_file_reads_the_same(tmp_path):
    store = SceneStore.build(tmp_path / "scenes", 8, 64, first_seed=40)
    autoencoder = randomize(DCAE(TINY_AE)).eval()
    lessons = prepare_lessons(store, autoencoder, tmp_path / "run" / "lessons.npz")
    again = prepare_lessons(store, autoencoder, tmp_path / "run" / "lessons.npz")
    assert np.array_equal(lessons.blurred, again.blurred) and len(lessons) == 8
    network = ReadingNetwork()

    def loss(of: ReadingNetwork) -> float:
        with torch.no_grad():
            return float(ReadingTask(of, lessons, 8).losses(np.random.default_rng(1), 0.0).mean)

    reader = train_reader(lessons, tmp_path / "run", steps=12, batch=8, warmup=1)
    assert loss(reader.network) < 0.8 * loss(network)
    errors = measure_reader(reader, autoencoder, 2)
    assert set(errors["rendered"]) == {"classes", "counts", "colors", "left_of"}
    write_reader(reader, tmp_path / "reader.safetensors", {"errors": '{"scenes": 2}'})
    read = load_reader(tmp_path / "reader.safetensors")
    assert read.errors == {"scenes": 2}
    pictures = F.interpolate(torch.rand(2, 3, 16, 16, generator=torch.Generator()), 64)
    for ours, theirs in zip(reader.read(pictures), read.read(pictures), strict=True):
        for noun, p in ours.class_probability.items():
            assert abs(p - theirs.class_probability[noun]) < 0.02


@pytest.fixture(scope="module")
def held_out():
    """Scenes that neither training nor the file's own figures have seen."""
    return render_scenes(range(TRAIN_SEED_END + 3_000_000, TRAIN_SEED_END + 3_000_024))


@pytest.mark.slow
def test_the_shipped_reader_is_as_good_as_its_file_says(held_out):
    reader = load_reader()
    scores = score_claims(reader.read(held_out.pictures[:, 0]), held_out.things)
    for kind, (precision, recall) in reader.errors["rendered"].items():
        assert precision > 0.7 and recall > 0.6, kind
        # 24 scenes: far enough for chance, near enough to see a reader that is broken.
        assert scores[kind].precision > precision - 0.12, kind
        assert scores[kind].recall > recall - 0.15, kind


@pytest.mark.slow
def test_a_mirrored_picture_has_the_same_things_in_the_other_order(held_out):
    reader = load_reader()
    pictures = held_out.pictures[:, 0]
    same = turned = pairs = 0
    for one, other in zip(reader.read(pictures), reader.read(pictures.flip(-1)), strict=True):
        same += set(one.classes) == set(other.classes)
        pairs += len(one.left_of)
        turned += len({(b, a) for a, b in one.left_of} & other.left_of)
    assert same >= 14 and pairs > 10 and turned > 0.7 * pairs


def test_the_reader_is_small():
    assert WEIGHTS.stat().st_size <= 1_000_000
