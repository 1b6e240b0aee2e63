"""The evaluation as a whole: known answers at both ends, noise in between, a real small model."""

import dataclasses
import json
import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.domains import DOMAIN_NAMES, find_domain_index
from jodi_pack.jodi_core.evaluation import baselines, scores
from jodi_pack.jodi_core.evaluation.evaluate import evaluate
from jodi_pack.jodi_core.evaluation.examples import pick_places
from jodi_pack.jodi_core.evaluation.reading import count_found
from jodi_pack.jodi_core.evaluation.report import HEADLINES, draw_strip
from jodi_pack.jodi_core.labels.maps import postprocess
from jodi_pack.jodi_core.pipeline import Result
from jodi_pack.jodi_core.roles import RolePlan
from jodi_pack.kit.errors import JodiError, ShapeError
from jodi_pack.kit.pictures.files import load_image
from jodi_pack.kit.reader.claims import Claims
from jodi_pack.kit.scenes.render import TRAIN_SEED_END, render_scenes

from ..helpers import tiny_pipeline

SIZE = 32
HIGHER = {key: higher for key, _, higher in HEADLINES}


@lru_cache(maxsize=8)
def rendered(seeds):
    return render_scenes(seeds, SIZE)


class KnownAnswers:
    """Answers every question with the truth of the scene it is asked about, plus noise.

    Stands in for a model so that the right scores are known beforehand. It knows a scene by its
    noise seed, which is also a check that every row gets its own.
    """

    names, factor, native_size = DOMAIN_NAMES, 8, (SIZE, SIZE)
    facts = SimpleNamespace(title="known answers", perception_steps=10, trained_roles="published")
    device, dtype, text_encoder = torch.device("cpu"), torch.float32, object()

    def __init__(self, noise: float = 0.0):
        self.noise = noise
        self.asked: list[tuple] = []

    def plan(self, generate, condition=()):
        return RolePlan.from_names(generate, condition)

    def default_guidance(self, plan):
        return 4.5

    def _answer(self, plan, given, seed, steps, guidance, prompt=""):
        self.asked.append((plan.text(), steps, guidance, prompt))
        truth = rendered(tuple(seed))
        for name, picture in given.items():
            torch.testing.assert_close(picture, truth.pictures[:, find_domain_index(name)])
        noise = torch.randn(truth.pictures.shape, generator=torch.Generator().manual_seed(0))
        made = truth.pictures * 2 - 1 + self.noise * noise
        pictures = {n: postprocess(n, made[:, find_domain_index(n)]) for n in plan.generated_names}
        return Result(plan, torch.empty(0), {}, pictures | given)

    def perceive(self, image, labels, *, steps=10, guidance=1.0, seed=0):
        plan = self.plan(labels, ["image"])
        return self._answer(plan, {"image": image}, seed, steps, guidance)

    def control(self, conditions, prompt, generate=("image",), *, steps=20, guidance=None, seed=0):
        plan = self.plan(generate, conditions)
        return self._answer(plan, dict(conditions), seed, steps, guidance, prompt)

    def generate(self, prompt, labels, *, size, steps=20, guidance=None, seed=0):
        assert size == (SIZE, SIZE)
        return self._answer(self.plan(["image", *labels]), {}, seed, steps, guidance, prompt)

    def encode_picture(self, name, picture):
        return torch.nn.functional.pixel_unshuffle(picture * 2 - 1, 8)

    def decode(self, latents, names):
        return {
            n: torch.nn.functional.pixel_shuffle(latents[:, find_domain_index(n)], 8) for n in names
        }


@pytest.fixture(scope="module")
def perfect():
    model = KnownAnswers()
    report = evaluate(model, scenes=6, batch=4, training_scenes=8, resamples=50, show=2)
    return model, report


@pytest.mark.slow
def test_a_perfect_model_scores_perfectly(perfect):
    v = perfect[1].values
    assert v["depth.absrel.model"] < 1e-4 and v["depth.delta1.model"] == 1
    assert v["normal.mean_deg.model"] < 0.01 and v["normal.median_deg.model"] < 0.02
    assert v["albedo.psnr.model"] > 99.9 and v["control.psnr.model"] > 99.9
    assert v["segmentation.miou.model"] == 1
    assert v["edge.f.model"] == 1 and v["lineart.f.model"] == 1
    # At 32 pixels the reader itself loses some joints, and the report says how many.
    assert v["openpose.pck.model"] == v["openpose.pck.labels"] > 0.6
    for key, _, _ in HEADLINES:
        assert v[f"{key}.model"] == pytest.approx(v[f"{key}.ceiling"], abs=1e-3), key
        assert v[f"{key}.model"] == pytest.approx(v[f"{key}.labels"], abs=1e-3), key


@pytest.mark.slow
def test_any_to_any_and_joint_runs_are_scored(perfect):
    v = perfect[1].values
    assert v["any.depth_from_normal.absrel.model"] < 1e-4
    assert v["any.normal_from_depth.mean_deg.model"] < 0.01
    assert v["any.image_segmentation_from_depth_normal.segmentation.miou.model"] == 1
    assert v["any.image_segmentation_from_depth_normal.image.psnr.model"] > 99.9
    assert v["any.depth_from_normal.absrel.baseline"] == v["depth.absrel.baseline"]
    assert v["all.depth.absrel.model"] < 1e-4 and v["all.segmentation.miou.model"] == 1
    for measure in ("normal_depth_deg", "picture_albedo_psnr", "edge_segmentation_f"):
        labels = v[f"joint.{measure}.labels"]
        assert v[f"joint.{measure}.model"] == pytest.approx(labels, rel=2e-3)
        assert v[f"joint.{measure}.perceived"] == pytest.approx(labels, rel=2e-3)
    assert v["joint.normal_depth_deg.shuffled"] > 2 * v["joint.normal_depth_deg.labels"]
    assert v["joint.caption_classes.model"] == 1
    for measure in ("classes", "colors"):
        read = v[f"joint.picture.{measure}.labels"]
        assert v[f"joint.picture.{measure}.model"] == read
        assert read > v[f"joint.picture.{measure}.shuffled"]


def test_what_the_reader_finds_of_a_caption_is_counted_by_class():
    claims = Claims({"tree": 2, "car": 1, "ball": 1}, {("tree", "green"), ("car", "red")}, set())
    caption = "a blue car and a green bush and a red ball on grass under a blue sky"
    # Named: vehicle, plant (bush and grass), sky; the ball has no class. Found: vehicle, plant.
    # Colours: blue car no, green bush yes, blue sky no.
    assert count_found(claims, caption) == (2, 3, 1, 3)
    assert count_found(claims, "") == (0, 0, 0, 0)


@pytest.mark.long
def test_every_baseline_is_what_it_says(perfect):
    """The numbers are worked out again here from the definitions, one scene at a time."""
    v = perfect[1].values
    truth = render_scenes(range(TRAIN_SEED_END, TRAIN_SEED_END + 6), SIZE)
    training = render_scenes(range(8), SIZE)
    errors, control, copies, means = [], [], [], []
    mean_albedo = training.pictures[:, 5].double().mean(dim=(0, 2, 3)).view(3, 1, 1)
    for b in range(6):
        valid, depth = truth.valid[b], truth.depth[b].double()
        constant = 1 / (1 / depth[valid]).mean()
        errors.append(float(((constant - depth[valid]).abs() / depth[valid]).mean()))
        image, albedo = truth.pictures[b, 0].double(), truth.pictures[b, 5].double()
        for values, made, true in (
            (control, image.mean(dim=(1, 2), keepdim=True).expand_as(image), image),
            (copies, image, albedo),
            (means, mean_albedo.expand_as(albedo), albedo),
        ):
            values.append(-10 * math.log10(float((made - true).square().mean())))
    assert v["depth.absrel.baseline"] == pytest.approx(np.mean(errors), abs=1e-5)
    assert v["control.psnr.baseline"] == pytest.approx(np.mean(control), abs=1e-4)
    assert v["control.psnr.albedo_copy"] == pytest.approx(np.mean(copies), abs=1e-4)
    assert v["albedo.psnr.input_copy"] == pytest.approx(np.mean(copies), abs=1e-4)
    assert v["albedo.psnr.mean_color"] == pytest.approx(np.mean(means), abs=1e-4)
    assert v["albedo.psnr.baseline"] == max(
        v["albedo.psnr.input_copy"], v["albedo.psnr.mean_color"]
    )
    mean = training.normal.permute(0, 2, 3, 1)[training.valid].double().mean(dim=0)
    cosine = torch.einsum("bchw,c->bhw", truth.normal.double(), mean / mean.norm())
    angles = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))[truth.valid]
    assert v["normal.mean_deg.baseline"] == pytest.approx(float(angles.mean()), abs=1e-3)
    assert v["normal.median_deg.baseline"] == pytest.approx(float(angles.median()), abs=0.02)
    majority = int(torch.bincount(training.classes.flatten().long()).argmax())
    present = [c for c in range(1, 12) if c == majority or bool((truth.classes == c).any())]
    share = float((truth.classes == majority).double().mean()) / len(present)
    assert v["segmentation.miou.baseline"] == pytest.approx(share, abs=1e-6)


@pytest.mark.long
def test_line_baselines_are_zero_effort_and_the_best_counts(perfect):
    v = perfect[1].values
    for name in ("edge", "lineart"):
        each = [v[f"{name}.f.{key}"] for key in ("all_edges", "dots", "mean_map")]
        assert v[f"{name}.f.baseline"] == max(each) and min(each) > 0
        assert v[f"{name}.f.sobel"] is not None and v[f"{name}.f.baseline"] < 0.6


def test_settings_and_tasks(perfect):
    model, report = perfect
    v = report.values
    assert (v["scenes"], v["first_seed"], v["size"], v["steps"]) == (6, TRAIN_SEED_END, SIZE, 10)
    assert v["control.steps"] == 20 and v["control.prompt"] == "caption"
    asked = {text for text, *_ in model.asked}
    assert {f"image=condition, {name}=generate" for name in DOMAIN_NAMES[1:]} <= asked
    assert all(g == 1.0 for text, _, g, prompt in model.asked if text.startswith("image=cond"))
    captions = [p for text, _, _, p in model.asked if text.startswith("image=gen") and p]
    assert all(isinstance(p, list) and len(p) in (1, 2, 4) for p in captions)


@pytest.mark.slow
def test_scores_fall_with_noise():
    values = [
        evaluate(
            KnownAnswers(noise),
            scenes=4,
            training_scenes=2,
            resamples=0,
            show=0,
            parts=("perception", "control"),
        ).values
        for noise in (0.0, 0.1, 0.6)
    ]
    for key, higher in HIGHER.items():
        column = [v[f"{key}.model"] for v in values]
        assert column == sorted(column, reverse=higher) and column[0] != column[-1], (key, column)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_batch():
    made = [
        evaluate(
            KnownAnswers(), scenes=5, batch=batch, training_scenes=2, resamples=20, show=0
        ).values
        for batch in (5, 2)
    ]
    for key, value in made[0].items():
        if key in ("seconds", "batch") or key.startswith("run."):
            continue
        if not key.endswith(("shuffled", "chance")):
            assert made[1][key] == pytest.approx(value, abs=1e-5), key


def test_json_is_flat_whole_and_complete(perfect, tmp_path):
    report = perfect[1]
    report.write_json(tmp_path / "deep" / "scores.json")
    read = json.loads((tmp_path / "deep" / "scores.json").read_text())
    assert read == report.values
    assert all(isinstance(v, (int, float, str, type(None))) for v in read.values())
    for key, _, _ in HEADLINES:
        for whose in ("model", "baseline", "ceiling", "model.ci95.low", "model.ci95.high"):
            assert f"{key}.{whose}" in read or (key, whose[:10]) == (
                "normal.median_deg",
                "model.ci95",
            )
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["scores.json"]


@pytest.mark.long
def test_report_page_and_pictures(perfect, tmp_path):
    report = perfect[1]
    report.strips[0] = dataclasses.replace(report.strips[0], caption="<b>a tree</b>")
    page = report.write(tmp_path)
    text = page.read_text()
    assert "<b>a tree" not in text and "&lt;b&gt;a tree" in text
    pictures = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert pictures == [f"{TRAIN_SEED_END}.png", f"{TRAIN_SEED_END + 1}.png"]
    assert all(f"pictures/{name}" in text for name in pictures)
    sheet, _ = load_image(tmp_path / "pictures" / pictures[0])
    assert min(sheet.shape[-2:]) > 5 * SIZE
    _check_examples(report, tmp_path, text)
    rows = report.strips[0].rows
    assert list(rows)[:2] == ["truth", "autoencoder round trip"] and len(rows) == 5
    torch.testing.assert_close(
        rows["truth"]["depth"], render_scenes([TRAIN_SEED_END], SIZE).pictures[0, 3]
    )
    assert draw_strip(report.strips[1]).shape[0] == 3
    assert len(report.summary().splitlines()) == 1 + len(HEADLINES)


def _check_examples(report, folder, page):
    """Three scenes of each label, the best first; they stand on the page and in Markdown."""
    assert len(report.examples) == 3 * len(DOMAIN_NAMES)
    markdown = (folder / "report.md").read_text()
    for example in report.examples:
        assert (folder / "examples" / example.file).exists()
        assert f"examples/{example.file}" in page and f"examples/{example.file}" in markdown
        assert TRAIN_SEED_END <= int(example.scene) < TRAIN_SEED_END + 6
    depth = [e for e in report.examples if e.label == "depth"]
    assert [e.place for e in depth] == ["best", "middle", "worst"]
    assert depth[0].score <= depth[1].score <= depth[2].score
    albedo = [e.score for e in report.examples if e.label == "albedo"]
    assert albedo == sorted(albedo, reverse=True)
    assert "| Depth, mean relative error (lower is better) |" in markdown
    assert "&lt;b&gt;" not in markdown and "## What each task took" in markdown


@pytest.mark.long
def test_each_scene_alone_is_scored_as_if_it_were_the_set():
    truth = rendered(tuple(range(TRAIN_SEED_END, TRAIN_SEED_END + 4)))
    noise = torch.randn(truth.pictures.shape, generator=torch.Generator().manual_seed(1)) * 0.3
    made = (truth.pictures + noise).clamp(0, 1)
    for index, name in enumerate(DOMAIN_NAMES):
        tally = scores.make_tally(name)
        tally.add(made[:, index], truth)
        each = tally.each()
        for row in range(4):
            alone = render_scenes([TRAIN_SEED_END + row], SIZE)
            one = scores.make_tally(name)
            one.add(made[row : row + 1, index], alone)
            for measure, value in one.values().items():
                if measure in each:
                    expected = pytest.approx(value, rel=1e-9, nan_ok=True)
                    assert each[measure][row] == expected, (name, measure)


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ([3.0, 1.0, 2.0], False, (1, 2, 0)),
        ([3.0, 1.0, 2.0], True, (0, 2, 1)),
        ([math.nan, 1.0, math.inf, 5.0], True, (3, 1, 1)),
        ([2.0], False, (0, 0, 0)),
    ],
)
def test_the_best_the_middle_and_the_worst(values, higher, expected):
    assert tuple(pick_places(values, higher).values()) == expected
    assert pick_places([math.nan], higher) == {}


@pytest.mark.slow
def test_parts_that_are_asked_for_by_name():
    model = KnownAnswers()
    report = evaluate(
        model,
        scenes=3,
        batch=3,
        training_scenes=2,
        resamples=20,
        show=0,
        parts=("reextraction", "patterns"),
    )
    v = report.values
    for name in ("segmentation", "albedo", "openpose"):
        # Its pictures are the true ones, so what is read in them is the floor.
        assert v[f"control.{name}.error.model"] == v[f"control.{name}.error.floor"]
        assert v[f"control.{name}.error.chance"] > v[f"control.{name}.error.floor"]
        assert v[f"run.control.{name}.published"] == "yes"
    assert "control.depth.error.model" not in v and "depth.absrel.model" not in v
    low, high = (v[f"control.segmentation.error.model.ci95.{side}"] for side in ("low", "high"))
    assert low <= v["control.segmentation.error.model"] <= high
    assert v["any.depth_from_edge.absrel.model"] < 1e-4
    assert v["run.any.depth_from_edge.trained"] == "no"
    assert v["run.any.image_from_depth_segmentation.trained"] == "yes"
    assert v["run.any.depth_normal_from_image.published"] == "yes"
    assert v["run.any.normal_from_image_depth.published"] == "no"
    assert v["any.image_normal_from_depth.image.psnr.model"] > 99.9


def test_what_runs_took_stands_beside_them(perfect):
    v = perfect[1].values
    for task in ("depth", "all", "control", "joint", "text", "any.depth_from_normal"):
        assert v[f"run.{task}.seconds_per_scene"] > 0 and v[f"run.{task}.peak_memory_mb"] > 10
    assert (v["run.depth.steps"], v["run.joint.steps"]) == (10, 20)
    assert (v["run.depth.guidance"], v["run.text.guidance"]) == (1.0, 4.5)
    assert v["run.depth.trained"] == "yes" and v["run.any.depth_from_normal.trained"] == "no"
    for kind in ("object", "count", "color", "position", "overall"):
        assert v[f"geneval.{kind}.model"] == v[f"geneval.{kind}.labels"]
        assert f"geneval.{kind}.chance" in v


def test_unwritable_place_is_named(perfect, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JodiError, match=r"scores\.json"):
        perfect[1].write_json(tmp_path / "file" / "scores.json")


@pytest.mark.slow
def test_a_real_small_model_goes_through_every_task(tmp_path):
    seen = []
    report = evaluate(
        tiny_pipeline(),
        scenes=3,
        batch=2,
        steps=1,
        control_steps=1,
        training_scenes=2,
        resamples=10,
        show=1,
        progress=lambda done, total, what: seen.append((done, total)),
    )
    assert seen == [(n, 8) for n in range(1, 9)]
    v = report.values
    for key, _, higher in HEADLINES:
        model, labels = v[f"{key}.model"], v[f"{key}.labels"]
        if model is not None and labels is not None:
            assert (model <= labels) if higher else (model >= labels)
    assert v["size"] == 16 and report.write(tmp_path).exists()


@pytest.mark.slow
def test_a_model_without_text_or_with_few_labels_does_what_it_can():
    options = {"scenes": 1, "steps": 1, "control_steps": 1, "training_scenes": 1, "show": 0}
    v = evaluate(tiny_pipeline(text=False), **options, resamples=0).values
    assert v["control.prompt"] == "none" and "joint.normal_depth_deg.model" not in v
    assert v["joint.normal_depth_deg.perceived"] is not None
    assert "joint.normal_depth_deg.shuffled" not in v  # one scene has nothing to be mixed with
    v = evaluate(tiny_pipeline(num_labels=3, text=False), **options, resamples=0).values
    assert "depth.absrel.model" in v and "openpose.pck.model" not in v


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"first_seed": 5}, JodiError, "at least 16777216"),
        ({"scenes": 0}, JodiError, "count"),
        ({"size": 30}, ShapeError, "multiples of 8"),
        ({"size": (32, 0)}, ShapeError, "multiples of 8"),
        ({"parts": ("perception", "dreams")}, JodiError, "dreams"),
        ({"parts": ()}, JodiError, "none"),
        ({"batch": 0}, JodiError, "at least 1"),
        ({"training_scenes": 0}, JodiError, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(options, error, match):
    model = KnownAnswers()
    with pytest.raises(error, match=match):
        evaluate(model, **options)
    assert not model.asked


def test_non_square_scenes():
    statistics = baselines.average_training_scenes((16, 24), 2)
    truth = render_scenes([1, 2], (16, 24))
    for index, name in enumerate(DOMAIN_NAMES):
        tally = scores.make_tally(name)
        tally.add(truth.pictures[:, index], truth)
        board = baselines.BaselineBoard(name, statistics)
        board.add(truth)
        assert "baseline" in board.values()


def test_bootstrap_interval_covers_the_spread_of_the_mean():
    """Known case: the mean of n values with standard deviation s varies by about s / sqrt(n)."""
    tally = scores.ColorTally("albedo")
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tally._rows.append(torch.stack([values * 3 + 20, torch.ones(400)], dim=1).numpy())
    low, high = tally.intervals(2000)["psnr"]
    mean = tally.values()["psnr"]
    assert low < mean < high
    assert (high - low) / 2 == pytest.approx(1.96 * float(values.std()) * 3 / 20, rel=0.08)
