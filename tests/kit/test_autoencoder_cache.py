"""Encodes are found again by content, and never after the autoencoder changed."""

import pytest
import torch
from jodi_pack.kit.autoencoder.cache import EncodeCache
from jodi_pack.kit.autoencoder.tiling import run_within_memory
from jodi_pack.tests.helpers import randn, random_picture, tiny_autoencoder, tiny_pipeline


@pytest.fixture
def pipeline():
    return tiny_pipeline()


@pytest.fixture
def encodes(pipeline):
    """One entry for each call of the encoder."""
    seen = []
    pipeline.autoencoder.encoder.register_forward_hook(lambda *call: seen.append(call[1]))
    return seen


class TestPipeline:
    def test_the_same_picture_is_encoded_once(self, pipeline, encodes):
        picture = random_picture(1, 12, 20)
        first = pipeline.encode_picture("image", picture)
        first_value = first.clone()
        with torch.inference_mode():
            first.zero_()  # the caller's own
        assert torch.equal(pipeline.encode_picture("image", picture.clone()), first_value)
        assert len(encodes) == 1

    def test_what_differs_is_encoded(self, pipeline, encodes):
        picture = random_picture(1, 16, 16)
        other = picture.clone()
        other[0, 0, 0, 0] += 1e-6
        a, b = (pipeline.encode_picture("image", p) for p in (picture, other))
        assert len(encodes) == 2 and not torch.equal(a, b)
        pipeline.encode_picture("image", picture.flatten().view(1, 3, 8, 32))
        pipeline.encode_picture("image", picture, tile=8)
        assert len(encodes) > 3

    def test_other_weights_are_never_missed(self, pipeline, encodes):
        picture = random_picture(1, 12, 20)
        before = pipeline.encode_picture("image", picture)
        with torch.no_grad():
            pipeline.autoencoder.encoder.project_in.conv.weight.mul_(1.5)
        changed = pipeline.encode_picture("image", picture)
        assert not torch.equal(changed, before)
        pipeline.autoencoder.load_state_dict(tiny_autoencoder(seed=9).state_dict(), assign=True)
        loaded = pipeline.encode_picture("image", picture)
        assert not torch.equal(loaded, changed)
        assert len(encodes) == 3

    def test_another_autoencoder_is_never_missed(self, pipeline):
        picture = random_picture(1, 12, 20)
        before = pipeline.encode_picture("image", picture)
        config = pipeline.autoencoder.config
        pipeline.autoencoder = tiny_autoencoder(config, seed=9)
        after = pipeline.encode_picture("image", picture)
        assert not torch.equal(after, before)
        with torch.no_grad():
            assert torch.equal(after, pipeline.autoencoder.encode(picture * 2 - 1))

    def test_decoding_together_is_decoding_each(self, pipeline):
        latents = randn(2, len(pipeline.names), pipeline.autoencoder.config.latent_channels, 3, 5)
        together = pipeline.decode(latents, ["depth", "image"])
        assert list(together) == ["depth", "image"]
        for name, picture in together.items():
            alone = pipeline.autoencoder.decode(latents[:, pipeline.names.index(name)])
            assert torch.allclose(picture, alone, atol=1e-6)
        assert pipeline.decode(latents, []) == {}


class TestBounds:
    def test_the_longest_unused_goes_first(self):
        cache, made = EncodeCache(limit=2 * 40), []

        def ask(value):
            make = lambda: made.append(value) or torch.full((10,), float(value))  # noqa: E731
            out = cache.get(torch.tensor([float(value)]), (), make)
            assert (out == value).all()
            assert cache.nbytes <= 80

        for value in (1, 2, 1, 3, 1, 2):
            ask(value)
        assert made == [1, 2, 3, 2]

    def test_one_result_over_the_limit_is_not_kept(self):
        cache = EncodeCache(limit=8)
        assert cache.get(torch.zeros(1), (), lambda: torch.ones(10)).sum() == 10
        assert cache.nbytes == 0

    def test_weights_whose_changes_cannot_be_seen_are_not_trusted(self):
        with torch.inference_mode():
            network = torch.nn.Linear(2, 2)
        assert not EncodeCache().made_by(network)
        assert EncodeCache().made_by(torch.nn.Linear(2, 2))


class TestWithinMemory:
    def network(self, most_rows, largest=10**9):
        self.calls = []

        def run(x, tile=None):
            self.calls.append((len(x), tile))
            if len(x) > most_rows or (tile or 10**6) > largest:
                raise torch.OutOfMemoryError("full")
            return x * 2

        return run

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_rows_come_back_in_order(self, rows, monkeypatch):
        x = randn(5, 2)
        monkeypatch.setattr(
            "jodi_pack.kit.autoencoder.tiling.measure_free_memory", lambda device: 2 * rows * 100
        )
        out = run_within_memory(self.network(9), x, bytes_per_row=100, tile=None)
        assert torch.equal(out, x * 2)
        assert max(n for n, _ in self.calls) == rows

    def test_less_is_tried_when_memory_runs_out(self, monkeypatch, caplog):
        monkeypatch.setattr(
            "jodi_pack.kit.autoencoder.tiling.measure_free_memory", lambda device: 10**9
        )
        out = run_within_memory(self.network(1, 600), randn(3, 2), bytes_per_row=1, tile=None)
        assert torch.equal(out, randn(3, 2) * 2)
        assert self.calls == [(3, None), (1, None), *[(1, 512)] * 3]
        assert "trying less" in caplog.text

    def test_says_so_when_nothing_fits(self):
        with pytest.raises(torch.OutOfMemoryError):
            run_within_memory(self.network(0), randn(3, 2), bytes_per_row=1, tile=None)
