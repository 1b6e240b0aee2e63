"""Metrics against loop oracles written from the definitions, and against numbers known by hand."""

import math

import numpy as np
import pytest
import torch
from jodi_pack.jodi_core.evaluation import metrics
from jodi_pack.kit.errors import ShapeError


def _scene(seed=0, batch=3, size=(9, 11)):
    generator = torch.Generator().manual_seed(seed)
    depth = 1.0 + 20.0 * torch.rand(batch, *size, generator=generator, dtype=torch.float64)
    valid = torch.rand(batch, *size, generator=generator) > 0.3
    return depth, valid, generator


def _oracle_disparity(p, d, valid):
    """One image, by a textbook solver."""
    rows = [
        (p[y, x], 1.0 / d[y, x])
        for y in range(p.shape[0])
        for x in range(p.shape[1])
        if valid[y, x] and d[y, x] > 0 and p[y, x] > 0
    ]
    a = np.array([[r[0], 1.0] for r in rows])
    scale, shift = np.linalg.lstsq(a, np.array([r[1] for r in rows]), rcond=None)[0]
    out = np.zeros_like(p)
    for y in range(p.shape[0]):
        for x in range(p.shape[1]):
            out[y, x] = min(max(1.0 / max(scale * p[y, x] + shift, 1e-3), 0.1), 100.0)
    return out


def test_disparity_alignment_is_the_least_squares_fit():
    depth, valid, generator = _scene()
    noise = 0.2 * torch.rand(depth.shape, generator=generator, dtype=torch.float64)
    prediction = (1.0 / depth + noise - 0.1).clamp(min=0)  # holds zeros, which the fit leaves out
    aligned = metrics.align_disparity(prediction, depth, valid)
    for b in range(len(depth)):
        want = _oracle_disparity(prediction[b].numpy(), depth[b].numpy(), valid[b].numpy())
        np.testing.assert_allclose(aligned[b].numpy(), want, rtol=1e-9)


def test_affine_disparity_is_perfect_depth():
    depth, valid, _ = _scene()
    aligned = metrics.align_disparity(0.7 / depth + 0.05, depth, valid)
    absrel, delta1 = metrics.depth_errors(aligned, depth, valid)
    assert absrel.max() < 1e-9
    assert delta1.min() == 1.0


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_map_becomes_the_harmonic_mean(value):
    depth, valid, _ = _scene()
    aligned = metrics.align_disparity(torch.full_like(depth, value), depth, valid)
    for b in range(len(depth)):
        want = 1.0 / (1.0 / depth[b][valid[b]]).mean()
        torch.testing.assert_close(aligned[b], want.expand_as(aligned[b]), rtol=1e-9, atol=0)


def test_depth_errors_by_hand():
    truth = torch.tensor([[[1.0, 2.0, 4.0, 10.0]]])
    depth = torch.tensor([[[1.25, 2.4, 3.0, 99.0]]])  # ratios 1.25 (not strictly below), 1.2, 1.33
    valid = torch.tensor([[[True, True, True, False]]])
    absrel, delta1 = metrics.depth_errors(depth, truth, valid)
    assert absrel.item() == pytest.approx((0.25 + 0.2 + 0.25) / 3, rel=1e-6)
    assert delta1.item() == pytest.approx(1 / 3)


def test_image_without_valid_pixels_is_nan_and_leaves_the_others_alone():
    depth, valid, _ = _scene()
    valid[1] = False
    absrel, delta1 = metrics.depth_errors(
        metrics.align_disparity(1 / depth, depth, valid), depth, valid
    )
    assert torch.isnan(absrel).tolist() == [False, True, False]
    assert torch.isnan(delta1).tolist() == [False, True, False]


def test_infinite_depth_outside_the_mask_does_no_harm():
    depth, valid, _ = _scene()
    clean = metrics.align_disparity(1 / depth + 0.1, depth, valid)
    prediction = 1 / depth + 0.1
    depth = torch.where(valid, depth, torch.inf)
    again = metrics.align_disparity(prediction, depth, valid)
    torch.testing.assert_close(again[valid], clean[valid])
    assert torch.isfinite(metrics.depth_errors(again, depth, valid)[0]).all()


def test_depth_error_grows_with_noise():
    depth, valid, generator = _scene(batch=8, size=(32, 32))
    noise = torch.randn(depth.shape, generator=generator, dtype=torch.float64)
    scores = [
        metrics.depth_errors(
            metrics.align_disparity(1 / depth + level * noise + 1.0, depth, valid), depth, valid
        )[0].mean()
        for level in (0.0, 0.01, 0.05, 0.2)
    ]
    assert scores == sorted(scores) and scores[0] < 1e-9 < scores[1]


def test_angles_by_hand():
    axes = torch.eye(3).view(3, 3, 1, 1)
    other = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, -3]]).view(3, 3, 1, 1)
    torch.testing.assert_close(
        metrics.angular_errors(other, axes).flatten(),
        torch.tensor([0.0, 45.0, 180.0], dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )
    assert metrics.angular_errors(torch.zeros(1, 3, 1, 1), axes[:1]).item() == pytest.approx(90)


def test_angle_of_equal_float32_normals_is_zero():
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 16, 16), dim=1)
    assert metrics.angular_errors(normals, normals).max() < 1e-5


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1001])
def test_histogram_median_is_the_median(count):
    angles = 180 * torch.rand(count, generator=torch.Generator().manual_seed(count)).double()
    counts = metrics.angle_histogram(angles[: count // 2]) + metrics.angle_histogram(
        angles[count // 2 :]
    )
    assert metrics.histogram_median(counts) == pytest.approx(angles.median().item(), abs=0.0101)
    assert counts.sum() == count


def test_histogram_takes_both_ends():
    counts = metrics.angle_histogram(torch.tensor([0.0, 180.0]))
    assert counts[0] == 1 and counts[-1] == 1
    assert math.isnan(metrics.histogram_median(torch.zeros_like(counts)))


def test_psnr_by_hand():
    truth = torch.zeros(2, 3, 4, 4)
    other = truth.clone()
    other[1] = 0.1
    torch.testing.assert_close(
        metrics.psnr(other, truth), torch.tensor([100.0, 20.0]).double(), atol=1e-5, rtol=0
    )
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, 0, 0] = True
    other[:, :, 1:] = 1.0
    assert metrics.psnr(other, truth, mask)[1].item() == pytest.approx(20.0, abs=1e-5)
    assert torch.isnan(metrics.psnr(other, truth, torch.zeros_like(mask))).all()


def test_confusion_and_iou_against_loops():
    generator = torch.Generator().manual_seed(3)
    truth = torch.randint(0, 4, (3, 5, 7), generator=generator)
    prediction = torch.randint(0, 4, (3, 5, 7), generator=generator).to(torch.uint8)
    matrix = metrics.confusion(prediction, truth, 5)
    for b in range(3):
        for t in range(5):
            for p in range(5):
                want = sum(
                    int(truth[b, y, x]) == t and int(prediction[b, y, x]) == p
                    for y in range(5)
                    for x in range(7)
                )
                assert matrix[b, t, p] == want
    iou = metrics.intersection_over_union(matrix.sum(0))
    for c in range(4):
        hit = ((truth == c) & (prediction == c)).sum()
        union = ((truth == c) | (prediction == c)).sum()
        assert iou[c].item() == pytest.approx((hit / union).item())
    assert torch.isnan(iou[4])


def test_perfect_segmentation_has_iou_one():
    truth = torch.randint(0, 12, (2, 8, 8))
    iou = metrics.intersection_over_union(metrics.confusion(truth, truth, 12).sum(0))
    assert iou[torch.isfinite(iou)].eq(1).all()


def test_shapes_that_differ_are_refused_with_both_shapes():
    with pytest.raises(ShapeError, match=r"\(1, 3, 4, 4\), \(1, 3, 4, 5\)"):
        metrics.psnr(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
