"""OpenPose pictures as keypoints, and back.

A figure is 18 keypoints in OpenPose's order, (18, 3): x, y in pixels (the centre of the first
pixel is 0, 0) and a score, 0 where a keypoint is not seen. Shapes: P figures, H W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...kit.errors import ImageError
from ...kit.pictures.palettes import OPENPOSE_COLORS, OPENPOSE_LIMBS
from ...kit.pictures.skeleton import (
    LIMB_INTENSITY,
    choose_stroke_radii,
    draw_skeleton,
    draw_skeleton_part,
)
from ..labels.checks import check_picture
from ..labels.joints import read_joints

KEYPOINTS = len(OPENPOSE_COLORS)
FACE_POINTS, HAND_POINTS = 70, 21  # of the format; nothing of them is drawn, so they stay 0

MIN_SUPPORT = 0.4
"""Share of a limb's length that must show its colour; what other limbs paint over is missing."""

COLOR_DISTANCE = 0.3
"""Distance between colours (red, green, blue in 0..1) within which a pixel has a limb's colour."""

JOIN_SHARE = 0.3
"""Pieces nearer to each other than this share of the larger one's box are one figure."""

ROUNDS, STEPS = 3, (1.0, 0.5, 0.25, 0.125)


def read_poses(picture: Tensor) -> list[np.ndarray]:
    """Figures (P, 18, 3) of each OpenPose picture (B, 3, H, W) in [0, 1].

    Joints are read by their colours, joined along limbs of the right colour, and moved to where a
    drawing of the figures is most like the picture.
    Raises: ImageError for a wrong picture.
    """
    picture = check_picture(picture, "openpose").cpu()
    return [
        _refined(one, _figures(one, places))
        for one, places in zip(picture, read_joints(picture), strict=True)
    ]


def draw_poses(figures: list[np.ndarray], height: int, width: int) -> Tensor:
    """OpenPose pictures (B, 3, H, W) float32 of the figures of each, drawn as the model knows it.

    Raises: ImageError for figures that are not (P, 18, 3).
    """
    most = max([1, *(len(f) for f in figures)])
    points = torch.zeros(len(figures), most, KEYPOINTS, 3)
    for row, f in enumerate(figures):
        if len(f):
            if f.shape[1:] != (KEYPOINTS, 3):
                raise ImageError(f"expected figures of shape (P, 18, 3), got {f.shape}")
            points[row, : len(f)] = torch.from_numpy(np.asarray(f, dtype=np.float32))
    points[..., 2] = (points[..., 2] > 0).float()
    return draw_skeleton(points, height, width)


@dataclass(frozen=True)
class Limb:
    """A limb that the picture shows between two joints, candidates `a` and `b` of their kinds."""

    support: float
    kinds: tuple[int, int]
    a: int
    b: int


def _figures(picture: Tensor, places: list[np.ndarray]) -> np.ndarray:
    """Joints gathered into figures, those with the best-supported limbs first: (P, 18, 3)."""
    limbs = [
        Limb(support, (i, j), a, b)
        for number, (i, j) in enumerate(OPENPOSE_LIMBS)
        for a, start in enumerate(places[i])
        for b, end in enumerate(places[j])
        if (support := _support(picture, number, start[:2], end[:2])) >= MIN_SUPPORT
    ]
    limbs.sort(key=lambda limb: -limb.support)
    figures: list[dict[int, int]] = []  # kind -> candidate
    for limb in limbs:
        (i, j), a, b = limb.kinds, limb.a, limb.b
        first = next((f for f in figures if f.get(i) == a), None)
        second = next((f for f in figures if f.get(j) == b), None)
        if first is None and second is None:
            figures.append({i: a, j: b})
        elif first is None or second is None:
            known, kind, place = (first, j, b) if second is None else (second, i, a)
            assert known is not None
            known.setdefault(kind, place)
        elif first is not second and not set(first) & set(second):
            first.update(second)
            figures.remove(second)
    _join_pieces(figures, places)
    _add_loose(figures, places)
    out = _table(figures, places)
    out[..., 2] = out[..., 2].clip(0, 1)
    return out


def _table(figures: list[dict[int, int]], places: list[np.ndarray]) -> np.ndarray:
    out = np.zeros((len(figures), KEYPOINTS, 3))
    for row, figure in zip(out, figures, strict=True):
        for kind, number in figure.items():
            row[kind] = places[kind][number]
    return out


def _join_pieces(figures: list[dict[int, int]], places: list[np.ndarray]) -> None:
    """Join pieces of one figure whose limb between them is hidden, the nearest first."""
    while True:
        pairs = []
        for i, one in enumerate(figures):
            for other in figures[:i]:
                if set(one) & set(other):
                    continue
                a, b = _points(one, places), _points(other, places)
                gap = float(np.linalg.norm(a[:, None] - b[None], axis=2).min())
                reach = max(float(np.ptp(a, axis=0).max()), float(np.ptp(b, axis=0).max()))
                if gap <= JOIN_SHARE * reach:
                    pairs.append((gap, i, other))
        if not pairs:
            return
        _, i, other = min(pairs, key=lambda pair: pair[:2])
        other.update(figures.pop(i))


def _points(figure: dict[int, int], places: list[np.ndarray]) -> np.ndarray:
    return np.array([places[kind][number][:2] for kind, number in figure.items()])


def _support(picture: Tensor, limb: int, start: np.ndarray, end: np.ndarray) -> float:
    """Share of the stretch between two joints that has the limb's colour."""
    length = float(np.linalg.norm(end - start))
    if length < 1e-6:
        return 0.0
    limb_radius, joint_radius = choose_stroke_radii(*picture.shape[-2:])
    margin = min((joint_radius + 0.5) / length, 0.4)  # the joints' own dots lie over the ends
    shares = np.linspace(margin, 1 - margin, max(3, int(length)))
    aside = np.array([start[1] - end[1], end[0] - start[0]]) / length * limb_radius * 0.7
    points = start + shares[:, None, None] * (end - start) + np.array([-1, 0, 1])[:, None] * aside
    x = points[..., 0].round().astype(int).clip(0, picture.shape[2] - 1)
    y = points[..., 1].round().astype(int).clip(0, picture.shape[1] - 1)
    seen = picture[:, torch.from_numpy(y), torch.from_numpy(x)].movedim(0, -1)
    color = seen.new_tensor(OPENPOSE_COLORS[limb]) / 255
    # drawings differ in how dark limbs are: the nearest shade between ours and the full colour
    shade = ((seen @ color) / (color @ color)).clamp(LIMB_INTENSITY * 0.75, 1.0)
    distance = (seen - shade[..., None] * color).norm(dim=-1)
    return float((distance < COLOR_DISTANCE).any(dim=1).float().mean())


def _add_loose(figures: list[dict[int, int]], places: list[np.ndarray]) -> None:
    """Give joints without a limb to the nearest figure that lacks their kind, if one is near."""
    for kind, candidates in enumerate(places):
        for number, candidate in enumerate(candidates):
            if any(figure.get(kind) == number for figure in figures):
                continue
            best, nearest = None, np.inf
            for figure in figures:
                if kind in figure:
                    continue
                points = _points(figure, places)
                reach = float(np.ptp(points, axis=0).max())
                gap = float(np.linalg.norm(points - candidate[:2], axis=1).min())
                if gap < min(nearest, reach):
                    best, nearest = figure, gap
            if best is not None:
                best[kind] = number
            elif not figures and candidate[2] >= 0.5:
                figures.append({kind: number})


def _refined(picture: Tensor, figures: np.ndarray) -> np.ndarray:
    """The figures with every joint where a drawing of all of them differs least around it.

    Joints that make the drawing less like the picture are left out.
    """
    points = torch.from_numpy(figures.astype(np.float32))[None]
    scores = points[..., 2].clone()
    points[..., 2] = (scores > 0).float()
    moves = torch.tensor([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
    for step in STEPS:
        waiting = (scores[0] > 0).nonzero().tolist()
        for _ in range(ROUNDS):
            waiting = [w for w in waiting if _move(picture, points, *w, moves * step)]
    for person, kind in (scores[0] > 0).nonzero().tolist():
        without = points.clone()
        without[0, person, kind, 2] = 0
        kept, left_out = _errors(picture, torch.cat((points, without)), person, kind)
        if left_out <= kept:
            points, scores[0, person, kind] = without, 0
    points = points * (scores > 0)[..., None]
    points[..., 2] = scores
    return _joined(points[0, (scores[0] > 0).any(dim=1)].double().numpy())


def _joined(figures: np.ndarray) -> np.ndarray:
    """Figures (P, 18, 3) whose pieces were kept apart by joints that are gone now."""
    places = [figures[:, kind] for kind in range(KEYPOINTS)]
    seen = [{k: n for k in range(KEYPOINTS) if f[k, 2] > 0} for n, f in enumerate(figures)]
    _join_pieces(seen, places)
    return _table(seen, places)


def _move(picture: Tensor, points: Tensor, person: int, kind: int, moves: Tensor) -> bool:
    """Move one joint of `points` (1, P, 18, 3) by the best of `moves`; whether it moved."""
    tried = points.repeat(len(moves), 1, 1, 1)
    tried[:, person, kind, :2] += moves
    errors = _errors(picture, tried, person, kind)
    best, here = int(errors.argmin()), len(moves) // 2
    if errors[best] >= errors[here] * (1 - 1e-4):
        return False
    points[0, person, kind, :2] = tried[best, person, kind, :2]
    return True


def _errors(picture: Tensor, tried: Tensor, person: int, kind: int) -> Tensor:
    """How far drawings of `tried` (N, P, 18, 3) are from the picture around one joint: (N,)."""
    height, width = picture.shape[-2:]
    limb_radius, joint_radius = choose_stroke_radii(height, width)
    reach = int(2 * joint_radius) + 2
    x, y = tried[:, person, kind, :2].mean(dim=0).round().int().tolist()
    left, top = min(max(0, x - reach), width - 1), min(max(0, y - reach), height - 1)
    right, bottom = (
        max(left + 1, min(width, x + reach + 1)),
        max(top + 1, min(height, y + reach + 1)),
    )
    ys = torch.arange(top, bottom, dtype=torch.float32)
    xs = torch.arange(left, right, dtype=torch.float32)
    drawn = draw_skeleton_part(tried, ys, xs, limb_radius, joint_radius)
    return (drawn - picture[:, top:bottom, left:right]).square().flatten(1).sum(1)


def make_frames(figures: list[np.ndarray], height: int, width: int) -> list[dict]:
    """POSE_KEYPOINT: for each picture its canvas and people, coordinates in pixels."""
    empty = {
        "face_keypoints_2d": [0.0] * (3 * FACE_POINTS),
        "hand_left_keypoints_2d": [0.0] * (3 * HAND_POINTS),
        "hand_right_keypoints_2d": [0.0] * (3 * HAND_POINTS),
    }
    return [
        {
            "canvas_width": width,
            "canvas_height": height,
            "people": [
                {
                    "pose_keypoints_2d": figure.flatten().tolist(),
                    **{k: v[:] for k, v in empty.items()},
                }
                for figure in people
            ],
        }
        for people in figures
    ]


def read_frames(frames: object, least: float = 0.3) -> tuple[list[np.ndarray], int, int]:
    """Figures of each frame of a POSE_KEYPOINT, and its canvas (height, width).

    least: keypoints scored below count as not seen. Coordinates in 0..1 are shares of the canvas.
    Raises: ImageError for anything else, or frames of different canvases.
    """
    frames = [frames] if isinstance(frames, dict) else frames
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise ImageError("expected POSE_KEYPOINT, a list of frames, with at least one frame")
    try:
        canvases = {(int(f["canvas_height"]), int(f["canvas_width"])) for f in frames}
        figures = [_people(f, least) for f in frames]
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(
            f"this POSE_KEYPOINT is not of the form that OpenPose nodes make ({error!r}); expected "
            "canvas_width, canvas_height and people with pose_keypoints_2d of 18 x 3 numbers"
        ) from None
    if len(canvases) > 1:
        raise ImageError(f"the frames have canvases of different sizes: {sorted(canvases)}")
    height, width = canvases.pop()
    if min(height, width) < 1:
        raise ImageError(f"the canvas is {height} x {width}; it must hold a pixel at least")
    return figures, height, width


def _people(frame: dict, least: float) -> np.ndarray:
    size = np.array([frame["canvas_width"], frame["canvas_height"]], dtype=np.float64)
    people = []
    for person in frame["people"]:
        points = np.array(person["pose_keypoints_2d"], dtype=np.float64).reshape(KEYPOINTS, 3)
        seen = (points[:, 2] >= least) & np.isfinite(points).all(axis=1)
        points = np.where(seen[:, None], points, 0.0)
        if seen.any() and points[seen, :2].max() <= 1.0 and points[seen, :2].min() >= 0.0:
            points[seen, :2] *= size
        people.append(points)
    return np.stack(people) if people else np.zeros((0, KEYPOINTS, 3))
