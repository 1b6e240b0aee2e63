"""Muon: orthogonal updates, momentum, and weights that it leaves alone."""

import pytest
import torch
from jodi_pack.kit.training.muon import Muon, orthogonalize
from jodi_pack.tests.helpers import (
    randn,
    relative_rms,
)


def well_conditioned(*shape, seed=0):
    """A random matrix with singular values from 0.3 to 1, on which bfloat16 is a small matter."""
    u, _, vh = torch.linalg.svd(randn(*shape, seed=seed), full_matrices=False)
    return u @ (torch.linspace(1, 0.3, u.shape[-1])[:, None] * vh)


class TestOrthogonalize:
    @pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (3, 12, 12), (2, 3, 5, 9)])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
    def test_every_singular_value_comes_near_one_and_directions_stay(self, shape, scale):
        u, _, vh = torch.linalg.svd(randn(*shape), full_matrices=False)
        spectrum = torch.linspace(1, 0.05, u.shape[-1]) * scale
        out = orthogonalize(u @ (spectrum[:, None] * vh))
        assert out.dtype == torch.float32
        # The quintic's own bounds are 0.68 to 1.13; bfloat16 adds a little.
        values = torch.linalg.svdvals(out)
        assert float(values.min()) > 0.6 and float(values.max()) < 1.25
        turned = u.mT @ out @ vh.mT  # diagonal where the singular directions are the same
        off = turned - torch.diag_embed(torch.diagonal(turned, dim1=-2, dim2=-1))
        assert float(off.abs().max()) < 0.1

    def test_zero_stays_zero(self):
        assert not orthogonalize(torch.zeros(2, 4, 6)).any()


# Nesterov's mix at the first step with momentum 0.95. The scale would not matter but for bfloat16,
# whose rounding the iteration stretches to some percent.
FIRST = 0.05 + 0.95 * 0.05


class TestMuon:
    def moved(self, name, shape, grads, **options):
        """A parameter after one step for each gradient, started from zero."""
        p = torch.nn.Parameter(torch.zeros(shape))
        optimizer = Muon([(name, p)], lr=0.1, **options)
        for grad in grads:
            p.grad = grad.clone()
            optimizer.step()
        return p.detach()

    @pytest.mark.parametrize(
        ("name", "parts"),
        [("blocks.0.attn.qkv.weight", 3), ("blocks.0.cross_attn.kv_linear.weight", 2),
         ("blocks.0.mlp.inverted_conv.conv.weight", 2), ("blocks.0.attn.proj.weight", 1)],
    )  # fmt: skip
    def test_stacked_matrices_are_orthogonalised_each_alone(self, name, parts):
        grad = torch.cat([10.0**i * well_conditioned(8, 8, seed=i) for i in range(parts)])
        moved = self.moved(name, grad.shape, [grad])
        for piece, part in zip(moved.chunk(parts), grad.chunk(parts), strict=True):
            assert relative_rms(piece, -0.1 * orthogonalize(FIRST * part)) < 0.03
            assert float(torch.linalg.svdvals(piece).min()) > 0.06

    def test_momentum_is_nesterov_s(self):
        grads = [well_conditioned(6, 6, seed=s) for s in range(3)]
        moved, buffer, expected = self.moved("w", (6, 6), grads, momentum=0.9), 0, 0
        for grad in grads:
            buffer = 0.9 * buffer + 0.1 * grad
            expected = expected - 0.1 * orthogonalize(0.9 * buffer + 0.1 * grad)
        assert relative_rms(moved, expected) < 0.03

    def test_tall_matrices_step_further(self):
        grad = well_conditioned(32, 8)
        moved = self.moved("w", (32, 8), [grad])
        assert relative_rms(moved, -0.1 * 2 * orthogonalize(FIRST * grad)) < 0.03

    def test_convolutions_are_flattened_and_changed_in_place(self):
        grad = randn(8, 4, 1, 1)
        assert torch.allclose(
            self.moved("w", (8, 4, 1, 1), [grad]).flatten(1),
            self.moved("w", (8, 4), [grad.flatten(1)]),
        )

    def test_weights_decay_and_those_without_gradient_stay(self):
        a, b = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
        optimizer = Muon([("a", a), ("b", b)], lr=0.1, weight_decay=0.5)
        a.grad = torch.zeros(4, 4)
        optimizer.step()
        assert torch.allclose(a, torch.full((4, 4), 0.95)) and torch.equal(b, torch.ones(4, 4))
