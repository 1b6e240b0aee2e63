"""Keypoints read from OpenPose pictures of rendered scenes, and drawn back."""

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.exits.pose import draw_poses, make_frames, read_frames, read_poses
from jodi_pack.kit.errors import ImageError
from jodi_pack.kit.pictures.palettes import OPENPOSE_COLORS
from jodi_pack.kit.scenes.render import render_scenes

SIDE = 256
# Scenes with figures more than 100 pixels high at this size; the one before the last has two.
SEEDS = (0, 1, 8, 20, 24)


def shown_joints(picture, keypoints):
    """Which joints' own dots can be seen: half of the 9 pixels around one have its exact colour."""
    shown = np.zeros(keypoints.shape[:2], dtype=bool)
    for person, points in enumerate(keypoints):
        for kind, (x, y, seen) in enumerate(points):
            if seen < 0.5:
                continue
            color = np.array(OPENPOSE_COLORS[kind]) / 255
            same = 0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    row, column = round(float(y)) + dy, round(float(x)) + dx
                    inside = 0 <= row < SIDE and 0 <= column < SIDE
                    same += inside and np.abs(picture[:, row, column] - color).max() < 0.02
            shown[person, kind] = same >= 5
    return shown


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_keypoints_of_exact_maps_are_within_a_pixel(seed):
    scene = render_scenes([seed], SIDE, supersample=1)
    true = scene.keypoints[0].numpy()
    shown = shown_joints(scene.pictures[0, 7].numpy(), true)
    assert shown.sum() >= 8
    figures = read_poses(scene.pictures[:, 7])[0]
    assert len(figures) == int((true[..., 2] > 0.5).any(axis=1).sum())
    for person, kind in np.argwhere(shown):
        seen = figures[figures[:, kind, 2] > 0][:, kind, :2]
        assert len(seen), (person, kind)
        error = np.linalg.norm(seen - true[person, kind, :2], axis=1).min()
        assert error < 1, (person, kind, error)


@pytest.mark.long
def test_drawn_again_the_picture_is_the_same():
    picture = render_scenes([SEEDS[0]], SIDE, supersample=1).pictures[:, 7]
    again = draw_poses(read_poses(picture), SIDE, SIDE)
    differs = (again - picture).abs().amax(1) > 0.25
    assert float(differs.float().mean()) < 2e-4


@pytest.mark.long
def test_two_figures_stay_two():
    points = torch.zeros(1, 2, 18, 3)
    for person, left in enumerate((60.0, 180.0)):
        for kind, (x, y) in enumerate(
            [(0, 60), (0, 80), (-20, 82), (-30, 110), (-34, 140), (20, 82), (30, 110), (34, 140),
             (-10, 140), (-12, 180), (-14, 220), (10, 140), (12, 180), (14, 220),
             (-6, 52), (6, 52), (-14, 56), (14, 56)]
        ):  # fmt: skip
            points[0, person, kind] = torch.tensor([left + x, float(y), 1.0])
    picture = draw_poses(list(points.numpy()), SIDE, SIDE)
    figures = read_poses(picture)[0]
    order = np.argsort(figures[:, 1, 0])
    assert len(figures) == 2 and (figures[..., 2] > 0).all()
    assert np.abs(figures[order][..., :2] - points[0].numpy()[..., :2]).max() < 0.5


def test_a_black_picture_has_nobody():
    assert [len(f) for f in read_poses(torch.zeros(2, 3, 64, 64))] == [0, 0]
    assert not draw_poses([np.zeros((0, 18, 3))], 20, 30).any()


def test_frames_hold_what_they_are_made_of():
    figures = [np.zeros((0, 18, 3)), np.arange(108, dtype=np.float64).reshape(2, 18, 3) / 2]
    frames = make_frames(figures, 40, 60)
    assert [f["canvas_width"] for f in frames] == [60, 60]
    assert [len(f["people"]) for f in frames] == [0, 2]
    person = frames[1]["people"][1]
    assert person["pose_keypoints_2d"] == (np.arange(54, 108) / 2).tolist()
    assert len(person["face_keypoints_2d"]) == 210 and len(person["hand_left_keypoints_2d"]) == 63
    back, height, width = read_frames(frames, least=0)
    assert (height, width) == (40, 60) and len(back[0]) == 0
    assert np.array_equal(back[1], figures[1])


def test_shares_of_the_canvas_become_pixels_and_weak_points_go():
    points = [0.5, 0.25, 1.0] + [0.9, 0.9, 0.1] + [0.0] * 48
    frame = {"canvas_width": 200, "canvas_height": 100, "people": [{"pose_keypoints_2d": points}]}
    figures, *_ = read_frames(frame)
    assert figures[0][0, 0].tolist() == [100, 25, 1]
    assert figures[0][0, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "frames",
    [[], None, "pose", [{}], [{"canvas_width": 4, "canvas_height": 4, "people": [{}]}],
     [{"canvas_width": 4, "canvas_height": 4, "people": [{"pose_keypoints_2d": [1, 2]}]}],
     [{"canvas_width": 4, "canvas_height": s, "people": []} for s in (3, 4)]],
)  # fmt: skip
def test_anything_else_is_refused_in_words(frames):
    with pytest.raises(ImageError, match=r"POSE_KEYPOINT|canvases"):
        read_frames(frames)
