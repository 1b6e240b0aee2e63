"""Scenes against independent slow oracles, and the conventions their labels promise."""

import math

import numpy as np
import pytest
import torch
from jodi_pack.kit.errors import JodiError
from jodi_pack.kit.pictures.palettes import (
    OPENPOSE_COLORS,
    SEGMENTATION_CLASSES,
    SEGMENTATION_PALETTE,
)
from jodi_pack.kit.scenes import layout
from jodi_pack.kit.scenes import render as scenes_module
from jodi_pack.kit.scenes.captions import (
    COLOR_TOLERANCE,
    COLOR_WORDS,
    MAX_WORDS,
    VOCABULARY,
    read_caption,
    write_caption,
)
from jodi_pack.kit.scenes.maps import SHADING_TOP, draw_roughness, draw_shading
from jodi_pack.kit.scenes.render import (
    TRAIN_SEED_END,
    check_evaluation_seeds,
    check_training_seeds,
    linear_to_srgb,
    render_scenes,
    srgb_to_linear,
)

IMAGE, LINEART, EDGE, DEPTH, NORMAL, ALBEDO, SEGMENTATION, OPENPOSE = range(8)
MAPS = ("pictures", "depth", "valid", "normal", "classes", "albedo", "shading")


@pytest.fixture(scope="module")
def batch():
    return render_scenes(check_evaluation_seeds(TRAIN_SEED_END, 24), 64, supersample=1)


def test_a_scene_is_the_same_alone_in_a_batch_and_anywhere_in_it():
    seeds = [7, 3, 12, 5]
    together, turned = render_scenes(seeds, 32), render_scenes(seeds[::-1], 32)
    for place, seed in enumerate(seeds):
        alone = render_scenes([seed], 32)
        for name in MAPS:
            expected = getattr(alone, name)[0]
            assert torch.equal(getattr(together, name)[place], expected), name
            assert torch.equal(getattr(turned, name)[3 - place], expected), name
        people = alone.keypoints.shape[1]
        assert torch.equal(together.keypoints[place, :people], alone.keypoints[0])
        assert not together.keypoints[place, people:].any()
        assert together.captions[place] == alone.captions[0]


def test_stacked_scenes_equal_separate_ones():
    """The stacked path of other devices: same pictures as one scene at a time."""
    scenes = [layout.compose(seed) for seed in (7, 3, 12)]
    stacked = scenes_module._render(scenes, 32, 32, 2, "cpu")
    single = render_scenes([7, 3, 12], 32)
    assert (stacked.pictures - single.pictures).abs().max() < 1e-4
    assert torch.equal(stacked.classes, single.classes)


@pytest.mark.long
def test_image_is_encoded_albedo_times_shading(batch):
    albedo, shading = batch.albedo.double().numpy(), batch.shading.double().numpy()
    linear = np.where(albedo <= 0.04045, albedo / 12.92, ((albedo + 0.055) / 1.055) ** 2.4)
    light = np.clip(linear * shading, 0.0, 1.0)
    srgb = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(batch.pictures[:, IMAGE].numpy(), srgb, atol=2e-6)
    assert torch.equal(batch.pictures[:, ALBEDO], batch.albedo)
    assert ((batch.pictures >= 0) & (batch.pictures <= 1)).all()


def test_srgb_round_trip():
    x = torch.linspace(0, 1, 256)
    assert (linear_to_srgb(srgb_to_linear(x)) - x).abs().max() < 1e-5


@pytest.mark.long
def test_supersampled_image_is_near_the_full_supersampling(monkeypatch):
    seeds = range(TRAIN_SEED_END, TRAIN_SEED_END + 6)
    adaptive = render_scenes(seeds, 32).pictures[:, IMAGE]
    monkeypatch.setattr(scenes_module, "BORDER_CONTRAST", -1.0)
    full = render_scenes(seeds, 32).pictures[:, IMAGE]
    big = render_scenes(seeds, 64, supersample=1)
    light = (srgb_to_linear(big.albedo) * big.shading).clamp(0, 1)
    oracle = linear_to_srgb(torch.nn.functional.avg_pool2d(light, 2))
    assert (full - oracle).abs().max() < 2e-3
    assert (adaptive - full).abs().mean() < 2e-3


# Depth, normals, lines


def _camera(seed):
    return layout.compose(seed).environment.camera


def test_normals_are_unit_face_the_viewer_and_agree_with_depth(batch):
    """Oracle: cross product of finite differences of back-projected depth, in float64."""
    n = batch.normal.double()
    assert (n.norm(dim=1) - 1).abs().max() < 1e-5
    size = 64
    axis = (np.arange(size) + 0.5 - size / 2) / (size / 2)
    checked = 0
    for i in range(len(batch.captions)):
        tan_half = _camera(TRAIN_SEED_END + i)[2]
        u, v = np.meshgrid(axis * tan_half, -axis * tan_half)
        # Model axes: +X left, +Y up, +Z to the viewer.
        ray = np.stack((-u, v, -np.ones_like(u)), axis=-1)
        normal = n[i].permute(1, 2, 0).numpy()
        facing = (normal * ray).sum(-1)[batch.valid[i].numpy()]
        assert (facing < 1e-4).all()
        depth = batch.depth[i].double().numpy()
        point = ray * depth[..., None]
        across = point[1:-1, 2:] - point[1:-1, :-2]
        down = point[2:, 1:-1] - point[:-2, 1:-1]
        cross = np.cross(across, down)
        cross /= np.linalg.norm(cross, axis=-1, keepdims=True) + 1e-12
        cross *= -np.sign((cross * ray[1:-1, 1:-1]).sum(-1, keepdims=True))
        # Smooth regions: nearly one normal in the 3 x 3 neighbourhood, disparity linear across it.
        smooth = batch.valid[i].numpy()[1:-1, 1:-1].copy()
        for dy in (0, 1, 2):
            for dx in (0, 1, 2):
                other = normal[dy : dy + size - 2, dx : dx + size - 2]
                smooth &= (other * normal[1:-1, 1:-1]).sum(-1) > 0.9999
        near = 1.0 / depth.clip(1e-3)
        middle = near[1:-1, 1:-1]
        for a, b in ((near[1:-1, 2:], near[1:-1, :-2]), (near[2:, 1:-1], near[:-2, 1:-1])):
            smooth &= np.abs(a + b - 2 * middle) < 1e-3 * middle
        agreement = (cross * normal[1:-1, 1:-1]).sum(-1)[smooth]
        checked += smooth.sum()
        assert np.quantile(agreement, 0.02) > 0.995, i
    assert checked > 24 * 500


def test_sky_has_no_depth_and_faces_the_viewer(batch):
    sky = ~batch.valid
    assert sky.any()
    assert torch.equal(sky, batch.classes == SEGMENTATION_CLASSES.index("sky"))
    assert (batch.depth[sky] == 0).all()
    assert (batch.normal.permute(0, 2, 3, 1)[sky] == torch.tensor([0.0, 0.0, 1.0])).all()
    assert (batch.pictures[:, DEPTH].permute(0, 2, 3, 1)[sky] == 0).all()
    assert (batch.shading.permute(0, 2, 3, 1)[sky] == 1).all()


def test_depth_picture_is_stretched_disparity_near_bright(batch):
    grey = batch.pictures[:, DEPTH]
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    for i in range(len(batch.captions)):
        disparity = np.where(batch.valid[i], 1.0 / batch.depth[i].double().clamp_min(1e-9), 0.0)
        expected = (disparity - disparity.min()) / (disparity.max() - disparity.min())
        np.testing.assert_allclose(grey[i, 0].numpy(), expected, atol=1e-5)
        assert grey[i, 0].min() == 0.0
        assert grey[i, 0].max() == 1.0


def test_normal_picture_has_the_models_axes(batch):
    assert (batch.pictures[:, NORMAL] * 2 - 1 - batch.normal).abs().max() < 1e-6
    ground = batch.classes == SEGMENTATION_CLASSES.index("road")
    assert batch.normal[:, 1][ground].median() > 0.9


def test_a_ball_is_red_on_its_left_and_green_on_its_top():
    """One ball in the middle of the picture: R falls from left to right, G from top to bottom."""
    for seed in range(TRAIN_SEED_END, TRAIN_SEED_END + 400):
        scene = layout.compose(seed)
        nouns = [g.noun for g in scene.builder.groups]
        if "ball" in nouns:
            break
    shot = render_scenes([seed], 128, supersample=1)
    # The ball stands at z = 2.4..4.5 and is unlabeled.
    mask = shot.classes[0] == 0
    ys, xs = mask.nonzero(as_tuple=True)
    assert len(xs) > 20
    n = shot.normal[0][:, mask]
    assert np.corrcoef(xs.numpy(), n[0].numpy())[0, 1] < -0.5
    assert np.corrcoef(ys.numpy(), n[1].numpy())[0, 1] < -0.5


def test_segmentation_uses_the_palette_exactly(batch):
    palette = torch.tensor(SEGMENTATION_PALETTE).float() / 255
    picture = batch.pictures[:, SEGMENTATION].permute(0, 2, 3, 1)
    assert torch.equal(picture, palette[batch.classes.long()])


def test_every_class_occurs(batch):
    assert set(batch.classes.unique().tolist()) == set(range(12))


def test_lines_have_the_models_polarity(batch):
    edge, line = batch.pictures[:, EDGE], batch.pictures[:, LINEART]
    assert edge.mean() < 0.25
    assert line.mean() > 0.75
    assert (edge.amax(dim=(1, 2, 3)) > 0.6).all()
    assert (line.amin(dim=(1, 2, 3)) < 0.4).all()
    # A border between classes is always drawn, on one side of it at least.
    differs = batch.classes[:, :, 1:] != batch.classes[:, :, :-1]
    beside = torch.maximum(edge[:, 0, :, 1:], edge[:, 0, :, :-1])
    assert (beside[differs] > 0.85).all()
    beside = torch.minimum(line[:, 0, :, 1:], line[:, 0, :, :-1])
    assert (beside[differs] < 0.15).all()


def test_flat_regions_have_no_edges(batch):
    """Nothing is drawn three pixels away from any change of class, normal or albedo."""
    n, a = batch.normal, batch.albedo
    change = torch.zeros_like(batch.depth, dtype=torch.bool)
    for dim in (2, 3):
        for m, bound in ((n, 0.2), (a, 0.05)):
            step = m.diff(dim=dim).abs().amax(1) > bound
            pad = (0, 1) if dim == 3 else (0, 0, 0, 1)
            change |= torch.nn.functional.pad(step, pad)
        step = batch.classes.diff(dim=dim - 1) != 0
        change |= torch.nn.functional.pad(step, (0, 1) if dim == 3 else (0, 0, 0, 1))
    near = torch.nn.functional.max_pool2d(change.float()[:, None], 7, 1, 3)[:, 0] > 0
    flat = ~near & batch.valid
    assert flat.float().mean() > 0.1
    assert (batch.pictures[:, EDGE, 0][flat] > 0.3).float().mean() < 0.005


# People


def test_visible_keypoints_lie_on_the_drawn_skeleton(batch):
    drawn = 0
    colors = torch.tensor(OPENPOSE_COLORS).float() / 255
    for i, people in enumerate(batch.keypoints):
        picture = batch.pictures[i, OPENPOSE]
        if not (people[..., 2] > 0.5).any():
            assert picture.max() == 0.0
        for person in people:
            for k, (x, y, visible) in enumerate(person.tolist()):
                assert visible in (0.0, 1.0)
                if not visible:
                    continue
                assert -0.5 <= x <= 63.5
                assert -0.5 <= y <= 63.5
                column, row = min(63, max(0, round(x))), min(63, max(0, round(y)))
                assert picture[:, row, column].max() > 0.4
                drawn += 1
                # Joints are painted last; a wrist far from all others shows its own colour.
                others = [p for j, p in enumerate(person.tolist()) if j != k and p[2]]
                alone = all(math.hypot(x - p[0], y - p[1]) > 4 for p in others)
                if alone and len(people) == 1:
                    assert (picture[:, row, column] - colors[k]).abs().max() < 0.3
    assert drawn > 100


def test_people_are_large_and_on_person_pixels(batch):
    person = SEGMENTATION_CLASSES.index("person")
    on_body, spans = [], []
    for i, people in enumerate(batch.keypoints):
        for points in people:
            seen = points[points[:, 2] > 0.5]
            if len(seen) < 10:
                continue
            spans.append(float(seen[:, 1].max() - seen[:, 1].min()) / 64)
            for x, y, _ in seen.tolist():
                row, column = min(63, max(0, round(y))), min(63, max(0, round(x)))
                on_body.append(int(batch.classes[i, row, column]) == person)
    assert len(spans) >= 10
    assert np.median(spans) > 0.35
    assert np.mean(on_body) > 0.9


# Captions, seeds, sizes


def test_captions_keep_to_the_grammar_and_tell_the_truth(batch):
    assert len(VOCABULARY) == len(set(VOCABULARY)) < 90
    for i, caption in enumerate(batch.captions):
        words = caption.split()
        assert 2 <= len(words) <= MAX_WORDS
        assert set(words) <= set(VOCABULARY)
        facts = read_caption(caption)
        assert facts
        for color, noun, klass in facts:
            shown = batch.classes[i] == klass
            assert shown.sum() >= 0.01 * shown.numel(), (caption, noun)
            if color is not None:
                target = torch.tensor(COLOR_WORDS[color]).view(3, 1)
                near = (batch.albedo[i][:, shown] - target).abs().amax(0) < COLOR_TOLERANCE
                assert near.sum() >= 0.004 * shown.numel(), (caption, color, noun)


def test_caption_facts_read_the_grammar():
    facts = read_caption(
        "two people in red and a brown dog on grass beside a lake under a blue sky"
    )
    index = SEGMENTATION_CLASSES.index
    assert facts == [
        ("red", "person", index("person")),
        ("brown", "dog", index("animal")),
        (None, "grass", index("plant")),
        (None, "lake", index("water")),
        ("blue", "sky", index("sky")),
    ]
    facts = read_caption("an orange sofa in a room with yellow walls and a grey floor")
    assert [(c, n) for c, n, _ in facts] == [
        ("orange", "sofa"), (None, "room"), ("yellow", "walls"), ("grey", "floor"),
    ]  # fmt: skip


def test_long_captions_drop_things_rather_than_exceed_the_limit():
    things = [("person", c, "object") for c in ("red", "blue", "green", "pink")]
    seen = [*things, ("grass", None, "ground"), ("road", None, "beside"), ("lake", None, "beside")]
    caption = write_caption([*seen, ("sky", "blue", "sky")], indoor=False, max_things=4)
    assert len(caption.split()) <= MAX_WORDS
    assert caption.endswith("on grass beside a road and a lake under a blue sky")


def test_training_and_evaluation_seeds_never_meet():
    assert list(check_training_seeds(TRAIN_SEED_END - 2, 2)) == [
        TRAIN_SEED_END - 2,
        TRAIN_SEED_END - 1,
    ]
    assert list(check_evaluation_seeds(TRAIN_SEED_END, 1)) == [TRAIN_SEED_END]
    for bad in (
        lambda: check_training_seeds(TRAIN_SEED_END - 1, 2),
        lambda: check_training_seeds(TRAIN_SEED_END, 1),
        lambda: check_training_seeds(-1, 1),
        lambda: check_training_seeds(0, 0),
        lambda: check_evaluation_seeds(TRAIN_SEED_END - 1, 5),
    ):
        with pytest.raises(JodiError, match="seed"):
            bad()


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (16, 16)])
def test_any_size_is_the_same_scene(size):
    height, width = size
    shot = render_scenes([TRAIN_SEED_END + 2], size)
    assert shot.pictures.shape == (1, 8, 3, height, width)
    assert torch.isfinite(shot.pictures).all()
    side = min(size)
    square = render_scenes([TRAIN_SEED_END + 2], side)
    top, left = (height - side) // 2, (width - side) // 2
    middle = shot.classes[:, top : top + side, left : left + side]
    assert (middle == square.classes).float().mean() > 0.995
    depth = shot.depth[:, top : top + side, left : left + side]
    there = square.valid & (middle == square.classes)
    ratio = depth[there] / square.depth[there]
    assert ((ratio - 1).abs() < 1e-3).float().mean() > 0.98


@pytest.mark.parametrize("arguments", [([], 64), ([-1], 64), ([1], 2), ([1], (64, 9999))])
def test_requests_without_meaning_are_refused(arguments):
    with pytest.raises(JodiError, match="expected"):
        render_scenes(*arguments)


def test_supersample_out_of_range_is_refused():
    with pytest.raises(JodiError, match="supersample"):
        render_scenes([1], 16, supersample=0)


def test_the_map_of_shading_is_the_light_and_nothing_is_clipped(batch):
    assert float(batch.shading.max()) < SHADING_TOP
    light = srgb_to_linear(draw_shading(batch.shading)) * SHADING_TOP
    torch.testing.assert_close(light, batch.shading, rtol=1e-3, atol=1e-5)
    again = linear_to_srgb(srgb_to_linear(batch.albedo) * light)
    torch.testing.assert_close(again, batch.pictures[:, IMAGE], rtol=0, atol=2e-3)


def test_roughness_is_that_of_the_class(batch):
    rough = draw_roughness(batch.classes)
    assert rough.shape == batch.albedo.shape and torch.equal(rough[:, 0], rough[:, 2])
    for name, value in (("water", 0.05), ("sky", 0.0), ("mountain", 0.95)):
        shown = rough[:, 0][batch.classes == SEGMENTATION_CLASSES.index(name)]
        assert len(shown) and bool((shown == value).all())
