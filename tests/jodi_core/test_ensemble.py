"""Consensus of samples: each kind against what can be worked out another way."""

import pytest
import torch
from jodi_pack.jodi_core.labels.ensemble import align_affine, combine
from jodi_pack.jodi_core.labels.normals import find_normals
from jodi_pack.jodi_core.labels.segmentation import colorize
from jodi_pack.kit.errors import ImageError, JodiError


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(height: int = 40, width: int = 30) -> torch.Tensor:
    """A smooth map in [0, 1]."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 2, width), indexing="ij")
    z = torch.sin(y) + torch.cos(2 * x) + 0.3 * y
    return (z - z.min()) / (z.max() - z.min())


def as_pictures(maps: torch.Tensor) -> torch.Tensor:
    return maps[:, None].expand(-1, 3, -1, -1)


def test_scale_and_offset_make_no_disagreement():
    truth = scene()
    maps = torch.stack([truth * s + o for s, o in ((0.9, 0.05), (0.2, 0.4), (0.5, 0.0), (1.0, 0))])
    result = combine("depth", as_pictures(maps))
    assert torch.allclose(result.picture, truth.expand(3, -1, -1), atol=2e-6)
    assert result.uncertainty.max() < 2e-6


def test_aligned_depth_is_nearer_the_truth_than_any_sample_and_than_the_plain_mean():
    truth = scene()
    noise = torch.randn(8, *truth.shape, generator=g()) * 0.04
    scales = torch.tensor([0.9, 0.3, 0.5, 0.7, 0.25, 0.6, 0.8, 0.4])
    offsets = torch.tensor([0.05, 0.5, 0.1, 0.2, 0.6, 0.3, 0.1, 0.05])
    maps = ((truth + noise) * scales[:, None, None] + offsets[:, None, None]).clamp(0, 1)

    def error(depth):
        """Root mean square after the best scale and offset, in float64."""
        a = torch.stack([depth.flatten().double(), torch.ones(depth.numel()).double()], dim=1)
        b = truth.flatten().double()
        return (a @ torch.linalg.lstsq(a, b[:, None]).solution - b[:, None]).square().mean().sqrt()

    result = combine("depth", as_pictures(maps))
    best = min(error(m) for m in maps)
    assert error(result.picture[0]) < 0.6 * best
    assert error(result.picture[0]) <= 1.02 * error(maps.mean(0))
    assert 0.02 < result.uncertainty.mean() < 0.08


def test_alignment_is_the_least_squares_optimum():
    """Each aligned map is its own least-squares fit to the mean of all, scaled to unit size."""
    maps = torch.stack([scene(), scene() ** 3, torch.rand(40, 30, generator=g()) + 0.3 * scene()])
    flat = align_affine(maps).flatten(1).double()
    assert flat.mean(1).abs().max() < 1e-4
    consensus = flat.sum(0)
    consensus = consensus / consensus.square().mean().sqrt()
    centred = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True)).double()
    for row, aligned in zip(centred, flat, strict=True):
        slope = float(row @ consensus / (row @ row))
        assert slope > 0
        assert torch.allclose(aligned, row * slope, atol=1e-4)


def test_depth_that_runs_against_the_others_counts_as_disagreement():
    truth = scene()
    agreeing = combine("depth", as_pictures(torch.stack([truth] * 4)))
    against = combine("depth", as_pictures(torch.stack([truth] * 3 + [1 - truth])))
    assert torch.allclose(against.picture, agreeing.picture, atol=1e-5)
    assert against.uncertainty.mean() > 0.05 > agreeing.uncertainty.mean()


def test_flat_depth():
    flat = torch.full((3, 8, 8), 0.4)
    result = combine("depth", as_pictures(flat))
    assert result.picture.eq(0).all() and result.uncertainty.eq(0).all()
    one_flat = combine("depth", as_pictures(torch.stack([scene(8, 8), scene(8, 8), flat[0]])))
    assert one_flat.picture.isfinite().all()
    assert torch.allclose(one_flat.picture[0], scene(8, 8), atol=1e-5)


def test_normals_are_averaged_as_directions():
    angle = torch.deg2rad(torch.tensor(40.0))
    left = torch.tensor([torch.sin(angle), 0, torch.cos(angle)])
    right = left * torch.tensor([-1.0, 1, 1])
    samples = torch.stack([left, right])[:, :, None, None].expand(-1, -1, 3, 3) / 2 + 0.5
    result = combine("normal", samples)
    assert torch.allclose(result.picture[:, 1, 1], torch.tensor([0.5, 0.5, 1.0]), atol=1e-6)
    assert result.uncertainty.mean().item() == pytest.approx(1 - float(torch.cos(angle)), abs=1e-5)
    vectors = find_normals(result.picture[None] * 2 - 1)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(1, 3, 3), atol=1e-5)


def test_opposite_normals_have_no_direction():
    up = torch.tensor([0.5, 1.0, 0.5])[:, None, None].expand(3, 2, 2)
    down = torch.tensor([0.5, 0.0, 0.5])[:, None, None].expand(3, 2, 2)
    result = combine("normal", torch.stack([up, down]))
    assert torch.allclose(result.picture, torch.full((3, 2, 2), 0.5))
    assert torch.allclose(result.uncertainty, torch.ones(2, 2))


def test_classes_are_decided_by_majority():
    votes = torch.tensor([[3, 6, 2, 11], [3, 6, 5, 11], [3, 1, 5, 2], [3, 1, 2, 11]]).view(4, 1, 4)
    result = combine("segmentation", colorize(votes))
    # ties (6 and 1, 2 and 5) go to the lower number
    assert torch.equal(result.picture, colorize(torch.tensor([[[3, 1, 2, 11]]]))[0])
    assert torch.allclose(result.uncertainty, torch.tensor([[0, 0.5, 0.5, 0.25]]))


def test_median_for_skeletons_and_mean_for_the_rest():
    samples = torch.stack([torch.full((3, 2, 2), v) for v in (0.0, 0.9, 1.0)])
    assert torch.allclose(combine("openpose", samples).picture, torch.full((3, 2, 2), 0.9))
    mean = combine("albedo", samples)
    assert torch.allclose(mean.picture, torch.full((3, 2, 2), 1.9 / 3))
    spread = torch.tensor([0.0, 0.9, 1.0]).std(correction=0)
    assert torch.allclose(mean.uncertainty, spread.expand(2, 2))
    grey = combine("edge", torch.rand(3, 3, 4, 4, generator=g()))
    assert torch.equal(grey.picture[0], grey.picture[1])


@pytest.mark.parametrize("name", ["depth", "normal", "segmentation", "openpose", "lineart"])
def test_one_sample_is_its_own_consensus_and_order_does_not_matter(name):
    samples = torch.rand(3, 3, 9, 7, generator=g(1))
    one = combine(name, samples[:1])
    assert one.uncertainty.max() < 1e-5
    forward, backward = combine(name, samples), combine(name, samples.flip(0))
    assert torch.allclose(forward.picture, backward.picture, atol=1e-5)
    assert torch.allclose(forward.uncertainty, backward.uncertainty, atol=1e-5)
    assert 0 <= forward.uncertainty.min() <= forward.uncertainty.max() <= 1


def test_wrong_input():
    with pytest.raises(JodiError, match="domains are"):
        combine("heat", torch.rand(2, 3, 4, 4))
    for samples in (torch.rand(2, 4, 4), torch.rand(0, 3, 4, 4), torch.rand(2, 3, 4, 4) * 255):
        with pytest.raises(ImageError):
            combine("depth", samples)
