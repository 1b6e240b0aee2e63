"""Ray casting against slow float64 oracles made from the definition of each shape."""

import math

import numpy as np
import pytest
import torch
from jodi_pack.kit.scenes.primitives import (
    INFINITY,
    KINDS,
    Solids,
    capsule_row,
    enclose_in_ball,
    find_any_hit,
    find_nearest_hit,
    find_surface_normal,
    local_row,
)


def _rays(count, seed):
    """Rays from around the origin towards random points near it, float64."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(count, 3)) * 0.2 + np.array([0.0, 0.3, -6.0])
    target = rng.uniform(-0.9, 0.9, size=(count, 3))
    return start, target - start


def _solid(kind, row):
    solids = {k: Solids(torch.zeros(1, 0, 8), torch.zeros(1, 0, 4)) for k in KINDS if k != kind}
    ball = torch.tensor([[enclose_in_ball(kind, [row])]])
    solids[kind] = Solids(torch.tensor([[row]], dtype=torch.float32), ball)
    return {k: solids[k] for k in KINDS}


def _vector(x):
    return tuple(torch.tensor(x[:, i], dtype=torch.float32).view(1, 1, -1) for i in range(3))


ROTATION = (math.cos(0.7), math.sin(0.7))
SHAPES = {
    "ellipsoid": local_row((0.2, 0.1, 0.3), (0.9, 0.5, 0.7), *ROTATION),
    "box": local_row((0.2, 0.1, 0.3), (0.9, 0.5, 0.7), *ROTATION),
    "cylinder": local_row((0.2, 0.1, 0.3), (0.6, 0.8, 0.6), *ROTATION),
    "cone": local_row((0.2, 0.1, 0.3), (1.4, 0.5, 1.4), *ROTATION),
    "capsule": capsule_row((-0.6, -0.4, 0.2), (0.7, 0.5, -0.3), 0.35),
}


def _contains(kind, row, p):
    """Whether a point is inside of a solid, from the definition of the shape (float64)."""
    if kind == "capsule":
        a, b = np.array(row[:3]), np.array(row[3:6])
        share = np.clip(np.dot(p - a, b - a) / np.dot(b - a, b - a), 0.0, 1.0)
        return np.linalg.norm(p - a - share * (b - a)) < row[6]
    x, y, z = p - np.array(row[:3])
    cos, sin = row[6], row[7]
    x, z = cos * x - sin * z, sin * x + cos * z
    x, y, z = x / row[3], y / row[4], z / row[5]
    if kind == "ellipsoid":
        return x * x + y * y + z * z < 1
    if kind == "box":
        return max(abs(x), abs(y), abs(z)) < 1
    if abs(y) >= 1:
        return False
    return math.hypot(x, z) < (1 if kind == "cylinder" else (1 - y) / 2)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_entry_is_where_a_march_along_the_ray_gets_inside(kind):
    row = SHAPES[kind]
    start, step = _rays(60, seed=KINDS.index(kind))
    t, which = find_nearest_hit(_solid(kind, row), _vector(start), _vector(step))
    hits = 0
    for o, d, entry in zip(start, step, t[0].tolist(), strict=True):

        def inside(share, o=o, d=d):
            return _contains(kind, row, o + share * d)

        high = next((s for s in np.arange(0.6, 1.5, 0.01) if inside(s)), None)
        if high is None:
            # The march can step over a grazing hit, nothing more.
            assert entry == INFINITY or any(inside(entry + e) for e in (0, 2e-4, 1e-3))
            continue
        low = high - 0.01
        for _ in range(25):
            middle = (low + high) / 2
            low, high = (low, middle) if inside(middle) else (middle, high)
        assert entry == pytest.approx(high, abs=2e-4)
        hits += 1
    assert hits > 10
    assert (which == 0).all()


def test_sphere_entry_against_the_quadratic_formula():
    center, radius = np.array([0.3, -0.2, 0.5]), 0.8
    start, step = _rays(200, seed=9)
    row = local_row(center, (radius,) * 3, 1.0, 0.0)
    t, _ = find_nearest_hit(_solid("ellipsoid", row), _vector(start), _vector(step))
    for ray in range(200):
        o, d = start[ray] - center, step[ray]
        a, b, c = d @ d, o @ d, o @ o - radius**2
        disc = b * b - a * c
        if abs(disc) < 1e-3:
            continue
        if disc < 0:
            assert t[0, ray] == INFINITY
            continue
        # Float32 knows the discriminant to a few ulps of its larger term.
        bound = 8 * 2**-24 * b * b / (a * math.sqrt(disc))
        assert float(t[0, ray]) == pytest.approx((-b - math.sqrt(disc)) / a, abs=bound + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_normals_lead_out_of_the_solid(kind):
    """Just outside along the normal is out, just inside is in; the entry side faces back."""
    row = SHAPES[kind]
    start, step = _rays(80, seed=20)
    t, _ = find_nearest_hit(_solid(kind, row), _vector(start), _vector(step))
    hit = (t[0] < INFINITY).numpy()
    point = start[hit] + t[0].double().numpy()[hit, None] * step[hit]
    geometry = torch.tensor(row, dtype=torch.float32).expand(1, len(point), 8)
    where = tuple(torch.tensor(point[:, i], dtype=torch.float32)[None] for i in range(3))
    kinds = torch.full((1, len(point)), KINDS.index(kind))
    normal = find_surface_normal(kinds, geometry, where)[0].double().numpy()
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0, atol=1e-5)
    assert ((normal * step[hit]).sum(1) < 1e-3).all()
    for p, n in zip(point, normal, strict=True):
        assert not _contains(kind, row, p + 2e-3 * n)
        assert _contains(kind, row, p - 2e-3 * n)


def test_rays_that_pass_by_are_skipped_without_changing_the_result():
    """The balls are only a short cut: a ball around everything gives the same bits."""
    rows = [capsule_row((x, 0.0, 0.0), (x, 1.0, 0.0), 0.1) for x in (-1.0, -0.5, 0.5, 1.0)]
    start, step = _rays(300, seed=4)
    results = []
    for ball in (enclose_in_ball("capsule", rows), (0.0, 0.0, 0.0, 1e3)):
        solids = _solid("capsule", rows[0])
        solids["capsule"] = Solids(torch.tensor([rows]), torch.tensor([[ball]]))
        t, which = find_nearest_hit(solids, _vector(start), _vector(step))
        shadow = find_any_hit(
            solids, torch.ones(1, 4, dtype=torch.bool), _vector(start), _vector(step),
            torch.full((1, 1), 1.0),
        )  # fmt: skip
        assert torch.equal(shadow, t < 1.0)
        results.append((t, which))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[0][0] < INFINITY).sum() > 20
